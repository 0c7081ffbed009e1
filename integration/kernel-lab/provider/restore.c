// SPDX-License-Identifier: GPL-2.0-only
/*
 * Restoring: write cuts user space's bytes into packets, a worker per GT applies them.
 *
 * The contents of a packet are checked by the worker, so that its error appears at a later write, or on leaving RESUMING.
 */

#include <linux/err.h>
#include <linux/moduleparam.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "lab.h"

static unsigned int restore_timeout_ms = 20000;
module_param(restore_timeout_ms, uint, 0644);
MODULE_PARM_DESC(restore_timeout_ms, "how long leaving RESUMING waits for the restore to end, per GT");

static bool keep_half_packets = true;
module_param(keep_half_packets, bool, 0644);
MODULE_PARM_DESC(keep_half_packets, "a half-written packet outlives an FLR and is gone on with by the next restore, as in the Xe PF");

static int lab_apply(struct lab_gt *gt, const struct lab_packet *packet)
{
	struct lab_vf *vf = gt->vf;
	u64 size = le64_to_cpu(packet->header.size);
	u64 offset = le64_to_cpu(packet->header.offset);
	void *to;

	switch (packet->header.type) {
	case LAB_GGTT:
		if (!lab_gt_is_main(gt) || size != vf->ggtt_bytes)
			return -EINVAL;
		to = vf->ggtt;
		break;
	case LAB_MMIO:
		if (size != LAB_MMIO_BYTES)
			return -EINVAL;
		to = gt->mmio;
		break;
	case LAB_GUC:
		if (size != vf->guc_bytes)
			return -EPROTO;
		to = gt->guc;
		break;
	case LAB_VRAM:
		if (!lab_gt_is_main(gt))
			return -ENXIO;
		if (offset + size < size || offset + size > vf->vram_bytes)
			return -EINVAL;
		to = vf->vram + offset;
		break;
	default:
		/* Unknown types are skipped. */
		return 0;
	}
	if (size)
		memcpy(to, packet->data, size);
	if (packet->header.type == LAB_MMIO)
		lab_mmio_restore(gt);
	return 0;
}

void lab_consumer(struct work_struct *work)
{
	struct lab_gt *gt = container_of(work, struct lab_gt, consumer);
	struct lab_vf *vf = gt->vf;
	struct lab_packet *dropped = NULL;
	unsigned int epoch;

	spin_lock(&vf->lock);
	epoch = gt->epoch;
	while (gt->epoch == epoch && gt->restore == LAB_WORKING) {
		struct lab_packet *packet = lab_ring_pop(&gt->ring);
		int ret;

		if (!packet) {
			if (gt->restore_last) {
				gt->restore = LAB_COMPLETE;
				wake_up_all(&vf->wq);
			}
			break;
		}
		spin_unlock(&vf->lock);
		wake_up_all(&vf->wq);
		ret = lab_fault_in_worker(vf, LAB_OP_CONSUMER, &gt->epoch, epoch);
		if (!ret)
			ret = lab_apply(gt, packet);
		lab_packet_free(packet);
		spin_lock(&vf->lock);
		if (ret && gt->epoch == epoch) {
			gt->restore = LAB_FAILED;
			lab_ring_drop(&gt->ring, &dropped);
			wake_up_all(&vf->wq);
		}
	}
	spin_unlock(&vf->lock);
	lab_packets_free(dropped);
}

int lab_restore_begin(struct lab_vf *vf)
{
	unsigned int i;
	int ret = lab_fault(vf, LAB_OP_RESUME_DATA_ENTER);

	if (ret)
		return ret;
	if (!keep_half_packets) {
		mutex_lock(&vf->io);
		lab_packet_free(vf->pending);
		vf->pending = NULL;
		mutex_unlock(&vf->io);
	}
	spin_lock(&vf->lock);
	for (i = 0; i < vf->xe->gts; i++) {
		struct lab_gt *gt = &vf->gt[i];

		if (vf->stopped || !vf->paused)
			ret = -EPERM;
		else if (gt->save == LAB_WORKING || gt->save == LAB_DATA_DONE)
			ret = -EBUSY;
		else if (gt->restore == LAB_WORKING)
			ret = -EALREADY;
		if (ret)
			break;
		gt->epoch++;
		gt->restore = LAB_WORKING;
		gt->restore_last = false;
	}
	spin_unlock(&vf->lock);
	return ret;
}

static bool lab_restore_ended(struct lab_gt *gt)
{
	return READ_ONCE(gt->restore) != LAB_WORKING;
}

int lab_restore_end(struct lab_vf *vf)
{
	unsigned int i;
	int ret = lab_fault(vf, LAB_OP_RESUME_DATA_EXIT);

	for (i = 0; !ret && i < vf->xe->gts; i++) {
		struct lab_gt *gt = &vf->gt[i];

		if (!wait_event_timeout(vf->wq, lab_restore_ended(gt), msecs_to_jiffies(restore_timeout_ms)))
			ret = -ETIMEDOUT;
		else if (gt->restore != LAB_COMPLETE)
			ret = -EIO;
	}
	return ret;
}

static int lab_check_descriptor(struct xe_device *xe, const struct lab_packet *packet)
{
	const __le32 *klv = packet->data;
	u64 size = le64_to_cpu(packet->header.size);
	u64 dwords = size / 4;

	if (packet->header.tile || packet->header.gt || size % 4)
		return -EINVAL;
	while (dwords) {
		u32 key = le32_to_cpu(klv[0]) >> 16;
		u32 len = le32_to_cpu(klv[0]) & 0xffff;

		klv++;
		dwords--;
		if (len > dwords)
			return -EINVAL;
		if (key == 0xf001 && le32_to_cpu(*klv) != xe->devid)
			return -ENODEV;
		if (key == 0xf002 && le32_to_cpu(*klv) != xe->revid)
			return -ENODEV;
		klv += len;
		dwords -= len;
	}
	return 0;
}

static void lab_last_packet(struct lab_vf *vf)
{
	unsigned int i;

	spin_lock(&vf->lock);
	for (i = 0; i < vf->xe->gts; i++) {
		vf->gt[i].restore_last = true;
		queue_work(vf->worker, &vf->gt[i].consumer);
	}
	spin_unlock(&vf->lock);
}

static bool lab_room(struct lab_gt *gt)
{
	bool room;

	spin_lock(&gt->vf->lock);
	room = gt->ring.count < LAB_RING || gt->restore == LAB_FAILED;
	spin_unlock(&gt->vf->lock);
	return room;
}

/* Owns the packet from here on when it answers 0. */
static int lab_hand_over(struct lab_gt *gt, struct lab_packet *packet)
{
	struct lab_vf *vf = gt->vf;

	for (;;) {
		bool pushed, failed;
		int ret;

		spin_lock(&vf->lock);
		failed = gt->restore == LAB_FAILED;
		pushed = !failed && lab_ring_push(&gt->ring, packet);
		if (pushed)
			queue_work(vf->worker, &gt->consumer);
		spin_unlock(&vf->lock);
		if (failed)
			return -EIO;
		if (pushed)
			return 0;
		ret = wait_event_interruptible(vf->wq, lab_room(gt));
		if (ret)
			return ret;
	}
}

static int lab_packet_complete(struct lab_vf *vf, struct lab_packet *packet)
{
	const struct lab_header *header = &packet->header;
	int ret;

	switch (header->type) {
	case LAB_DESCRIPTOR:
		ret = lab_check_descriptor(vf->xe, packet);
		if (!ret)
			lab_packet_free(packet);
		return ret;
	case LAB_TRAILER:
		if (header->tile || header->gt || header->offset || header->size)
			return -EINVAL;
		lab_packet_free(packet);
		lab_last_packet(vf);
		return 0;
	case 0:
		return -EINVAL;
	default:
		return header->tile ? -EINVAL : lab_hand_over(&vf->gt[header->gt], packet);
	}
}

static int lab_header_complete(struct lab_vf *vf, struct lab_packet *packet)
{
	if (packet->header.version != 1 || packet->header.gt >= vf->xe->gts)
		return -EINVAL;
	return lab_packet_alloc_data(packet);
}

static ssize_t lab_write_some(struct lab_vf *vf, const char __user *buf, size_t len)
{
	struct lab_packet *packet = vf->pending;
	bool header;
	size_t *left;
	u8 *end;
	int ret = 0;

	if (IS_ERR_OR_NULL(packet)) {
		packet = lab_packet_alloc_empty();
		vf->pending = packet;
		if (!packet)
			return -ENOMEM;
	}
	header = packet->header_left;
	left = header ? &packet->header_left : &packet->left;
	end = header ? (u8 *)(&packet->header + 1) : packet->data + le64_to_cpu(packet->header.size);
	len = min(len, *left);
	if (copy_from_user(end - *left, buf, len))
		return -EFAULT;
	*left -= len;
	if (header && !packet->header_left)
		ret = lab_header_complete(vf, packet);
	if (!ret && !packet->header_left && !packet->left) {
		vf->pending = NULL;
		ret = lab_packet_complete(vf, packet);
		if (ret)
			lab_packet_free(packet);
	} else if (ret) {
		/*
		 * The Xe PF keeps the packet here, with no memory behind it, and takes the host down at the next write;
		 * that part is better not copied.
		 */
		vf->pending = NULL;
		lab_packet_free(packet);
	}
	return ret ? ret : len;
}

ssize_t lab_write(struct lab_vf *vf, const char __user *buf, size_t len)
{
	size_t done = 0;
	ssize_t ret = lab_fault(vf, LAB_OP_WRITE);

	if (ret)
		return ret;
	if (mutex_lock_interruptible(&vf->io))
		return -EINTR;
	while (done < len) {
		ret = lab_write_some(vf, buf + done, len - done);
		if (ret < 0)
			break;
		done += ret;
	}
	mutex_unlock(&vf->io);
	return ret < 0 ? ret : done;
}
