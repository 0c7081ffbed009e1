// SPDX-License-Identifier: GPL-2.0-only
/* Suspend, resume, stop and FLR, with the errnos of the Xe PF's state machine. */

#include "lab.h"

static bool lab_busy(struct lab_vf *vf)
{
	unsigned int i;

	for (i = 0; i < vf->xe->gts; i++) {
		enum lab_phase save = vf->gt[i].save, restore = vf->gt[i].restore;

		if (save == LAB_WORKING || save == LAB_DATA_DONE || restore == LAB_WORKING)
			return true;
	}
	return false;
}

int lab_suspend(struct lab_vf *vf)
{
	int ret = lab_fault(vf, LAB_OP_SUSPEND);

	if (ret)
		return ret;
	spin_lock(&vf->lock);
	if (vf->stopped)
		ret = -EPERM;
	else if (vf->paused)
		ret = -ESTALE;
	else
		vf->paused = true;
	spin_unlock(&vf->lock);
	return ret;
}

int lab_resume(struct lab_vf *vf)
{
	int ret = lab_fault(vf, LAB_OP_RESUME);

	if (ret)
		return ret;
	spin_lock(&vf->lock);
	if (!vf->paused)
		ret = -EPERM;
	else if (lab_busy(vf))
		ret = -EBUSY;
	else
		vf->paused = false;
	spin_unlock(&vf->lock);
	return ret;
}

/* The driver's answer to a transition that does not exist. Only an FLR helps then. */
int lab_stop(struct lab_vf *vf)
{
	struct lab_packet *dropped = NULL;
	unsigned int i;
	int ret = 0;

	spin_lock(&vf->lock);
	if (vf->stopped) {
		ret = -ESTALE;
	} else {
		vf->stopped = true;
		vf->paused = false;
		for (i = 0; i < vf->xe->gts; i++)
			lab_gt_cut_off(&vf->gt[i], &dropped);
	}
	spin_unlock(&vf->lock);
	lab_packets_free(dropped);
	/* No wake-up: a reader in the ring goes on waiting, as it does there. */
	return ret;
}

int lab_flr_prepare(struct lab_vf *vf)
{
	return lab_fault(vf, LAB_OP_FLR_PREPARE);
}

/*
 * The PF's part of an FLR. What user space has half written or half read stays, as it does in the Xe PF, where only the next
 * save begins with a clean slate: see lab_write().
 */
int lab_flr_wait(struct lab_vf *vf)
{
	struct lab_packet *dropped = NULL;
	unsigned int i;
	int ret = lab_fault(vf, LAB_OP_FLR_WAIT);

	if (ret)
		return ret;
	spin_lock(&vf->lock);
	for (i = 0; i < vf->xe->gts; i++)
		lab_gt_cut_off(&vf->gt[i], &dropped);
	vf->paused = false;
	vf->stopped = false;
	spin_unlock(&vf->lock);
	lab_packets_free(dropped);
	/* A worker that slept in a fault sees its epoch gone and leaves. */
	wake_up_all(&vf->wq);
	for (i = 0; i < vf->xe->gts; i++) {
		flush_work(&vf->gt[i].producer);
		flush_work(&vf->gt[i].consumer);
	}
	lab_vf_clear(vf);
	return 0;
}
