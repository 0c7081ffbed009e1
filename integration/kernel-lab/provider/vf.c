// SPDX-License-Identifier: GPL-2.0-only
/* What a VF has, and how large. Memory is taken for enabled VFs only. */

#include <linux/debugfs.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "lab.h"

static unsigned int vram_mib[LAB_MAX_VFS] = { 16 };
static unsigned int vram_mibs = 1;
module_param_array(vram_mib, uint, &vram_mibs, 0644);
MODULE_PARM_DESC(vram_mib, "VRAM of VF 1, 2, ... enabled from now on, in MiB; the last one is that of the rest");

static unsigned int ggtt_entries = 0x1000;
module_param(ggtt_entries, uint, 0644);
MODULE_PARM_DESC(ggtt_entries, "GGTT quota of each VF enabled from now on, in entries of 8 bytes");

static unsigned int guc_bytes = 0x4000;
module_param(guc_bytes, uint, 0644);
MODULE_PARM_DESC(guc_bytes, "size of the GuC state per GT of each VF enabled from now on, a multiple of 4");

/* GT 1 is a media GT: no GGTT, no VRAM. */
bool lab_gt_is_main(const struct lab_gt *gt)
{
	return gt->id == 0;
}

/* As after an FLR. The firmware's own bookkeeping starts from the same values on every VF. */
void lab_vf_clear(struct lab_vf *vf)
{
	unsigned int i, n;

	memset(vf->vram, 0, vf->vram_bytes);
	memset(vf->ggtt, 0, vf->ggtt_bytes);
	for (i = 0; i < vf->xe->gts; i++) {
		memset(vf->gt[i].mmio, 0, LAB_MMIO_BYTES);
		lab_mmio_restore(&vf->gt[i]);
		for (n = 0; n < vf->guc_bytes; n++)
			vf->gt[i].guc[n] = (u8)(n * 7 + i);
	}
}

/* What MIG_DATA_SIZE says: neither descriptor nor trailer, and one header for VRAM, however many chunks it will have. */
ssize_t lab_vf_stream_estimate(struct lab_vf *vf)
{
	ssize_t total = 0;
	unsigned int i;

	for (i = 0; i < vf->xe->gts; i++) {
		total += vf->guc_bytes + sizeof(struct lab_header);
		total += LAB_MMIO_BYTES + sizeof(struct lab_header);
		if (!lab_gt_is_main(&vf->gt[i]))
			continue;
		total += vf->ggtt_bytes + sizeof(struct lab_header);
		if (vf->vram_bytes)
			total += vf->vram_bytes + sizeof(struct lab_header);
	}
	return total;
}

struct lab_vf *lab_vf_create(struct xe_device *xe, unsigned int id)
{
	struct lab_vf *vf = kzalloc(sizeof(*vf), GFP_KERNEL);
	unsigned int i;

	if (!vf)
		return NULL;
	vf->xe = xe;
	vf->id = id;
	spin_lock_init(&vf->lock);
	mutex_init(&vf->io);
	init_waitqueue_head(&vf->wq);
	vf->vram_bytes = (size_t)vram_mib[clamp(id, 1u, max(vram_mibs, 1u)) - 1] << 20;
	/* As in the Xe PF; less to fill the ring with little VRAM. */
	vf->vram_chunk_kib = 512 << 10;
	vf->ggtt_bytes = (size_t)ggtt_entries * 8;
	vf->guc_bytes = round_up(guc_bytes, 4);
	vf->vram = vzalloc(max_t(size_t, vf->vram_bytes, 1));
	vf->ggtt = vzalloc(vf->ggtt_bytes);
	vf->worker = alloc_workqueue("lab_vf%u", WQ_UNBOUND, 0, id);
	if (!vf->vram || !vf->ggtt || !vf->worker)
		goto fail;
	for (i = 0; i < xe->gts; i++) {
		struct lab_gt *gt = &vf->gt[i];

		gt->vf = vf;
		gt->id = i;
		INIT_WORK(&gt->producer, lab_producer);
		INIT_WORK(&gt->consumer, lab_consumer);
		gt->guc = vzalloc(vf->guc_bytes);
		if (!gt->guc)
			goto fail;
	}
	lab_vf_clear(vf);
	lab_debugfs_add(vf);
	return vf;
fail:
	lab_vf_destroy(vf);
	return NULL;
}

void lab_vf_destroy(struct lab_vf *vf)
{
	struct lab_packet *dropped = NULL;
	unsigned int i;

	debugfs_remove_recursive(vf->dir);
	spin_lock(&vf->lock);
	memset(vf->fault, 0, sizeof(vf->fault));
	for (i = 0; i < vf->xe->gts; i++)
		lab_gt_cut_off(&vf->gt[i], &dropped);
	spin_unlock(&vf->lock);
	lab_packets_free(dropped);
	wake_up_all(&vf->wq);
	if (vf->worker)
		destroy_workqueue(vf->worker);
	lab_packet_free(vf->descriptor);
	lab_packet_free(vf->pending);
	lab_packet_free(vf->trailer);
	for (i = 0; i < vf->xe->gts; i++)
		vfree(vf->gt[i].guc);
	vfree(vf->vram);
	vfree(vf->ggtt);
	kfree(vf);
}
