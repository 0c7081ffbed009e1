// SPDX-License-Identifier: GPL-2.0-only
/*
 * Saving: a worker per GT produces packets into the ring while user space drains it.
 *
 * Order per GT: GuC, GGTT, MMIO, VRAM chunks. The descriptor goes before everything, the trailer after it.
 */

#include <linux/err.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "lab.h"

#define KLV(key, dwords) ((key) << 16 | (dwords))

static struct lab_packet *lab_descriptor(struct xe_device *xe)
{
	struct lab_packet *packet = lab_packet_alloc(LAB_DESCRIPTOR, 0, 0, 4 * sizeof(__le32));
	__le32 *klv;

	if (!packet)
		return NULL;
	klv = packet->data;
	klv[0] = cpu_to_le32(KLV(0xf001u, 1));
	klv[1] = cpu_to_le32(xe->devid);
	klv[2] = cpu_to_le32(KLV(0xf002u, 1));
	klv[3] = cpu_to_le32(xe->revid);
	return packet;
}

static struct lab_packet *lab_packet_of(struct lab_gt *gt, u8 type, u64 offset, const void *from, size_t size)
{
	struct lab_packet *packet = lab_packet_alloc(type, gt->id, offset, size);

	if (!packet)
		return ERR_PTR(-ENOMEM);
	memcpy(packet->data, from, size);
	return packet;
}

/* The next packet, NULL after the last one. */
static struct lab_packet *lab_produce(struct lab_gt *gt)
{
	struct lab_vf *vf = gt->vf;
	size_t chunk;

	for (;;) {
		switch (gt->step) {
		case 0:
			gt->step++;
			return lab_packet_of(gt, LAB_GUC, 0, gt->guc, vf->guc_bytes);
		case 1:
			gt->step++;
			if (lab_gt_is_main(gt))
				return lab_packet_of(gt, LAB_GGTT, 0, vf->ggtt, vf->ggtt_bytes);
			break;
		case 2:
			gt->step++;
			lab_mmio_save(gt);
			return lab_packet_of(gt, LAB_MMIO, 0, gt->mmio, LAB_MMIO_BYTES);
		default: {
			u64 offset = gt->vram_offset;

			if (!lab_gt_is_main(gt) || offset == vf->vram_bytes)
				return NULL;
			chunk = min_t(size_t, vf->vram_bytes - offset, (size_t)max(READ_ONCE(vf->vram_chunk_kib), 4u) << 10);
			gt->vram_offset += chunk;
			return lab_packet_of(gt, LAB_VRAM, offset, vf->vram + offset, chunk);
		}
		}
	}
}

void lab_producer(struct work_struct *work)
{
	struct lab_gt *gt = container_of(work, struct lab_gt, producer);
	struct lab_vf *vf = gt->vf;
	unsigned int epoch;

	spin_lock(&vf->lock);
	epoch = gt->epoch;
	/* Full: the consumer of a packet queues this again. */
	while (gt->epoch == epoch && gt->save == LAB_WORKING && gt->ring.count < LAB_RING) {
		struct lab_packet *packet;
		int ret;

		spin_unlock(&vf->lock);
		ret = lab_fault_in_worker(vf, LAB_OP_PRODUCER, &gt->epoch, epoch);
		packet = ret ? ERR_PTR(ret) : lab_produce(gt);
		spin_lock(&vf->lock);

		if (gt->epoch != epoch) {
			spin_unlock(&vf->lock);
			lab_packet_free(packet);
			return;
		}
		if (IS_ERR(packet))
			gt->save = LAB_FAILED;
		else if (!packet)
			gt->save = LAB_DATA_DONE;
		else
			lab_ring_push(&gt->ring, packet);
		wake_up_all(&vf->wq);
	}
	spin_unlock(&vf->lock);
}

int lab_save_begin(struct lab_vf *vf)
{
	unsigned int i;
	int ret = lab_fault(vf, LAB_OP_STOP_COPY_ENTER);

	if (ret)
		return ret;
	if (mutex_lock_interruptible(&vf->io))
		return -EINTR;
	lab_packet_free(vf->descriptor);
	lab_packet_free(vf->trailer);
	lab_packet_free(vf->pending);
	vf->descriptor = lab_descriptor(vf->xe);
	vf->trailer = lab_packet_alloc(LAB_TRAILER, 0, 0, 0);
	vf->pending = NULL;
	ret = vf->descriptor && vf->trailer ? 0 : -ENOMEM;
	mutex_unlock(&vf->io);

	spin_lock(&vf->lock);
	for (i = 0; !ret && i < vf->xe->gts; i++) {
		struct lab_gt *gt = &vf->gt[i];

		if (vf->stopped || !vf->paused)
			ret = -EPERM;
		else if (gt->restore == LAB_WORKING)
			ret = -EBUSY;
		else if (gt->save == LAB_WORKING || gt->save == LAB_DATA_DONE)
			ret = -EALREADY;
		if (ret)
			break;
		gt->epoch++;
		gt->step = 0;
		gt->vram_offset = 0;
		gt->save = LAB_WORKING;
		queue_work(vf->worker, &gt->producer);
	}
	spin_unlock(&vf->lock);
	return ret;
}

/* Possible only when every GT has produced all, drained or not; the Xe PF does not wait here. */
int lab_save_end(struct lab_vf *vf)
{
	struct lab_packet *dropped = NULL;
	unsigned int i;
	int ret = lab_fault(vf, LAB_OP_STOP_COPY_EXIT);

	spin_lock(&vf->lock);
	for (i = 0; !ret && i < vf->xe->gts; i++) {
		struct lab_gt *gt = &vf->gt[i];

		if (gt->save != LAB_DATA_DONE) {
			ret = -EIO;
			break;
		}
		gt->save = LAB_COMPLETE;
		lab_ring_drop(&gt->ring, &dropped);
	}
	spin_unlock(&vf->lock);
	lab_packets_free(dropped);
	return ret;
}

/* NULL when all is produced and taken, -EAGAIN when there is more to wait for. With vf->lock held. */
static struct lab_packet *lab_take(struct lab_vf *vf)
{
	bool more = false;
	unsigned int i;

	for (i = 0; i < vf->xe->gts; i++) {
		struct lab_gt *gt = &vf->gt[i];
		struct lab_packet *packet = lab_ring_pop(&gt->ring);

		if (packet) {
			queue_work(vf->worker, &gt->producer);
			return packet;
		}
		if (gt->save == LAB_FAILED)
			return ERR_PTR(-EIO);
		if (gt->save != LAB_DATA_DONE)
			more = true;
	}
	return more ? ERR_PTR(-EAGAIN) : NULL;
}

static bool lab_take_ready(struct lab_vf *vf)
{
	bool ready = false;
	unsigned int i;

	spin_lock(&vf->lock);
	for (i = 0; i < vf->xe->gts; i++) {
		struct lab_gt *gt = &vf->gt[i];

		ready |= gt->ring.count || gt->save == LAB_FAILED;
	}
	if (!ready) {
		ready = true;
		for (i = 0; i < vf->xe->gts; i++)
			ready &= vf->gt[i].save == LAB_DATA_DONE;
	}
	spin_unlock(&vf->lock);
	return ready;
}

static struct lab_packet *lab_take_or_wait(struct lab_vf *vf)
{
	for (;;) {
		struct lab_packet *packet;
		int ret;

		spin_lock(&vf->lock);
		packet = lab_take(vf);
		spin_unlock(&vf->lock);
		if (PTR_ERR_OR_ZERO(packet) != -EAGAIN)
			return packet;
		ret = wait_event_interruptible(vf->wq, lab_take_ready(vf));
		if (ret)
			return ERR_PTR(ret);
	}
}

/* Where the next byte comes from. An error is kept in `pending`, and is the answer to every later read of this save. */
static struct lab_packet **lab_read_from(struct lab_vf *vf)
{
	if (vf->descriptor)
		return &vf->descriptor;
	if (!vf->pending)
		vf->pending = lab_take_or_wait(vf);
	if (vf->pending)
		return &vf->pending;
	return vf->trailer ? &vf->trailer : NULL;
}

static ssize_t lab_read_some(struct lab_packet **from, char __user *buf, size_t len)
{
	struct lab_packet *packet = *from;
	bool header = packet->header_left;
	size_t *left = header ? &packet->header_left : &packet->left;
	const u8 *end = header ? (u8 *)(&packet->header + 1) : packet->data + le64_to_cpu(packet->header.size);

	len = min(len, *left);
	if (copy_to_user(buf, end - *left, len))
		return -EFAULT;
	*left -= len;
	if (!packet->header_left && !packet->left) {
		lab_packet_free(packet);
		*from = NULL;
	}
	return len;
}

/* Fills the buffer, across packets and waiting for more. What was copied before an error or a signal is lost to the caller. */
ssize_t lab_read(struct lab_vf *vf, char __user *buf, size_t len)
{
	size_t done = 0;
	ssize_t ret = lab_fault(vf, LAB_OP_READ);

	if (ret)
		return ret;
	if (mutex_lock_interruptible(&vf->io))
		return -EINTR;
	while (done < len) {
		struct lab_packet **from = lab_read_from(vf);

		if (!from)
			break;
		ret = IS_ERR(*from) ? PTR_ERR(*from) : lab_read_some(from, buf + done, len - done);
		if (ret < 0)
			break;
		done += ret;
	}
	mutex_unlock(&vf->io);
	return ret < 0 ? ret : done;
}
