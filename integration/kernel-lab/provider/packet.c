// SPDX-License-Identifier: GPL-2.0-only
/* Packets, and the ring of five that holds them between the PF's worker and user space. */

#include <linux/err.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "lab.h"

/* One whose header is still to be written by user space. */
struct lab_packet *lab_packet_alloc_empty(void)
{
	struct lab_packet *packet = kzalloc(sizeof(*packet), GFP_KERNEL);

	if (packet)
		packet->header_left = sizeof(packet->header);
	return packet;
}

int lab_packet_alloc_data(struct lab_packet *packet)
{
	packet->left = le64_to_cpu(packet->header.size);
	if (!packet->left)
		return 0;
	packet->data = kvzalloc(packet->left, GFP_KERNEL | __GFP_NOWARN);
	return packet->data ? 0 : -ENOMEM;
}

struct lab_packet *lab_packet_alloc(u8 type, u8 gt, u64 offset, size_t size)
{
	struct lab_packet *packet = lab_packet_alloc_empty();

	if (!packet)
		return NULL;
	packet->header.version = 1;
	packet->header.type = type;
	packet->header.gt = gt;
	packet->header.offset = cpu_to_le64(offset);
	packet->header.size = cpu_to_le64(size);
	if (lab_packet_alloc_data(packet)) {
		lab_packet_free(packet);
		return NULL;
	}
	return packet;
}

void lab_packet_free(struct lab_packet *packet)
{
	if (IS_ERR_OR_NULL(packet))
		return;
	kvfree(packet->data);
	kfree(packet);
}

bool lab_ring_push(struct lab_ring *ring, struct lab_packet *packet)
{
	if (ring->count == LAB_RING)
		return false;
	ring->slot[(ring->first + ring->count++) % LAB_RING] = packet;
	return true;
}

struct lab_packet *lab_ring_pop(struct lab_ring *ring)
{
	struct lab_packet *packet;

	if (!ring->count)
		return NULL;
	packet = ring->slot[ring->first];
	ring->first = (ring->first + 1) % LAB_RING;
	ring->count--;
	return packet;
}

void lab_packets_free(struct lab_packet *dropped)
{
	while (dropped) {
		struct lab_packet *next = dropped->next;

		lab_packet_free(dropped);
		dropped = next;
	}
}

void lab_ring_drop(struct lab_ring *ring, struct lab_packet **dropped)
{
	struct lab_packet *packet;

	while ((packet = lab_ring_pop(ring))) {
		packet->next = *dropped;
		*dropped = packet;
	}
}

void lab_gt_cut_off(struct lab_gt *gt, struct lab_packet **dropped)
{
	gt->epoch++;
	gt->save = LAB_IDLE;
	gt->restore = LAB_IDLE;
	gt->restore_last = false;
	lab_ring_drop(&gt->ring, dropped);
}
