/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A stand-in for the Xe PF driver, as far as xe-vfio-pci can see one.
 *
 * Promises the states, errnos and packets of a PF with GuC firmware, for VFs of any SR-IOV device: what is saved on one VF can
 * be restored on another, byte for byte. It programs no hardware.
 *
 *   pf.c       PCI driver of the PF, SR-IOV, the VFs' identity
 *   vf.c       what a VF has: VRAM, GGTT, GuC state
 *   mmio.c     the VF's registers: the scratch ones of the emulated device where it has some
 *   control.c  suspend, resume, stop, FLR
 *   packet.c   packets, and the ring of five between the PF's worker and user space
 *   save.c     the producer, and read
 *   restore.c  the consumer, and write
 *   faults.c   faults and state contents, by debugfs
 *   vfio.c     the functions that xe-vfio-pci imports
 */
#ifndef LAB_H
#define LAB_H

#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#define LAB_RING 5
#define LAB_MAX_GTS 2
#define LAB_MMIO_BYTES 16
#define LAB_MAX_VFS 8

enum lab_packet_type {
	LAB_DESCRIPTOR = 1,
	LAB_TRAILER,
	LAB_GGTT,
	LAB_MMIO,
	LAB_GUC,
	LAB_VRAM,
};

struct lab_header {
	u8 version;
	u8 type;
	u8 tile;
	u8 gt;
	__le32 flags;
	__le64 offset;
	__le64 size;
} __packed;
static_assert(sizeof(struct lab_header) == 24);

struct lab_packet {
	struct lab_header header;
	size_t header_left;
	size_t left;
	void *data;
	/* links dropped ones, to be freed once no lock is held */
	struct lab_packet *next;
};

struct lab_ring {
	struct lab_packet *slot[LAB_RING];
	unsigned int first;
	unsigned int count;
};

enum lab_op {
	LAB_OP_SUSPEND,
	LAB_OP_RESUME,
	LAB_OP_STOP_COPY_ENTER,
	LAB_OP_STOP_COPY_EXIT,
	LAB_OP_RESUME_DATA_ENTER,
	LAB_OP_RESUME_DATA_EXIT,
	LAB_OP_SIZE,
	LAB_OP_READ,
	LAB_OP_WRITE,
	LAB_OP_PRODUCER,
	LAB_OP_CONSUMER,
	LAB_OP_FLR_PREPARE,
	LAB_OP_FLR_WAIT,
	LAB_OPS,
};

enum lab_effect { LAB_NO_EFFECT, LAB_ERRNO, LAB_DELAY, LAB_STUCK };

struct lab_fault {
	enum lab_effect effect;
	unsigned int value;
	/* calls to let pass, then calls to hit */
	unsigned int skip;
	unsigned int left;
};

/* How far a save or a restore of one GT is; ended ones stay to be asked about. */
enum lab_phase { LAB_IDLE, LAB_WORKING, LAB_DATA_DONE, LAB_COMPLETE, LAB_FAILED };

struct lab_vf;

struct lab_gt {
	struct lab_vf *vf;
	u8 id;
	enum lab_phase save;
	enum lab_phase restore;
	/* the trailer has been written: the restore ends with the ring */
	bool restore_last;
	/* changes whenever a save or restore begins or is cut off, so that a worker that slept can tell */
	unsigned int epoch;
	unsigned int step;
	u64 vram_offset;
	struct lab_ring ring;
	struct work_struct producer;
	struct work_struct consumer;
	/* state that travels */
	u8 mmio[LAB_MMIO_BYTES];
	u8 *guc;
};

struct lab_vf {
	struct xe_device *xe;
	unsigned int id;
	/* phases, rings, paused, stopped, faults */
	spinlock_t lock;
	wait_queue_head_t wq;
	bool paused;
	bool stopped;
	/* one reader or writer at a time; guards the packets below */
	struct mutex io;
	struct lab_packet *descriptor;
	struct lab_packet *pending;
	struct lab_packet *trailer;
	struct lab_gt gt[LAB_MAX_GTS];
	struct lab_fault fault[LAB_OPS];
	struct workqueue_struct *worker;
	struct dentry *dir;
	/* state that travels */
	u8 *vram;
	u8 *ggtt;
	size_t vram_bytes;
	size_t ggtt_bytes;
	size_t guc_bytes;
	/* largest VRAM packet */
	u32 vram_chunk_kib;
};

struct xe_device {
	struct pci_dev *pdev;
	struct dentry *dir;
	/* the PF's BAR0, when its VFs have registers that can travel */
	void __iomem *regs;
	u32 devid;
	u32 revid;
	unsigned int gts;
	unsigned int num_vfs;
	struct lab_vf **vf;
};

/* pf.c */
extern struct pci_driver lab_pf_driver;
bool lab_migration_enabled(void);

/* vf.c */
struct lab_vf *lab_vf_create(struct xe_device *xe, unsigned int id);
void lab_vf_destroy(struct lab_vf *vf);
void lab_vf_clear(struct lab_vf *vf);
bool lab_gt_is_main(const struct lab_gt *gt);
ssize_t lab_vf_stream_estimate(struct lab_vf *vf);

/* mmio.c */
int lab_mmio_find(struct xe_device *xe);
void lab_mmio_save(struct lab_gt *gt);
void lab_mmio_restore(struct lab_gt *gt);

/* control.c */
int lab_suspend(struct lab_vf *vf);
int lab_resume(struct lab_vf *vf);
int lab_stop(struct lab_vf *vf);
int lab_flr_prepare(struct lab_vf *vf);
int lab_flr_wait(struct lab_vf *vf);

/* packet.c */
struct lab_packet *lab_packet_alloc(u8 type, u8 gt, u64 offset, size_t size);
struct lab_packet *lab_packet_alloc_empty(void);
int lab_packet_alloc_data(struct lab_packet *packet);
void lab_packet_free(struct lab_packet *packet);
void lab_packets_free(struct lab_packet *dropped);
bool lab_ring_push(struct lab_ring *ring, struct lab_packet *packet);
struct lab_packet *lab_ring_pop(struct lab_ring *ring);
void lab_ring_drop(struct lab_ring *ring, struct lab_packet **dropped);
/* Cuts off whatever save or restore is under way; with vf->lock held. */
void lab_gt_cut_off(struct lab_gt *gt, struct lab_packet **dropped);

/* save.c */
void lab_producer(struct work_struct *work);
int lab_save_begin(struct lab_vf *vf);
int lab_save_end(struct lab_vf *vf);
ssize_t lab_read(struct lab_vf *vf, char __user *buf, size_t len);

/* restore.c */
void lab_consumer(struct work_struct *work);
int lab_restore_begin(struct lab_vf *vf);
int lab_restore_end(struct lab_vf *vf);
ssize_t lab_write(struct lab_vf *vf, const char __user *buf, size_t len);

/* faults.c */
int lab_fault(struct lab_vf *vf, enum lab_op op);
/* As lab_fault, in a worker: a stuck one is let go when *epoch is no longer seen. */
int lab_fault_in_worker(struct lab_vf *vf, enum lab_op op, const unsigned int *epoch, unsigned int seen);
void lab_debugfs_add(struct lab_vf *vf);

#endif
