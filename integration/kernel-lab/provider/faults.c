// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/xe-lab/vf<n>/
 *
 *   fault  write "OPERATION errno|delay-ms VALUE [NTH [COUNT]]", "OPERATION stuck", or "clear"; NTH (from 1) is the first call
 *          hit, COUNT how many are. A stuck operation ends when it is cleared or, in user space's context, by a signal.
 *   vram, ggtt   the contents, to be read and written
 *   vram_chunk_kib   the largest VRAM packet of this VF's next save, in KiB; at first 512 MiB
 */

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "lab.h"

static const char *const lab_op_names[LAB_OPS] = {
	[LAB_OP_SUSPEND] = "suspend",
	[LAB_OP_RESUME] = "resume",
	[LAB_OP_STOP_COPY_ENTER] = "stop-copy-enter",
	[LAB_OP_STOP_COPY_EXIT] = "stop-copy-exit",
	[LAB_OP_RESUME_DATA_ENTER] = "resume-data-enter",
	[LAB_OP_RESUME_DATA_EXIT] = "resume-data-exit",
	[LAB_OP_SIZE] = "size",
	[LAB_OP_READ] = "read",
	[LAB_OP_WRITE] = "write",
	[LAB_OP_PRODUCER] = "producer",
	[LAB_OP_CONSUMER] = "consumer",
	[LAB_OP_FLR_PREPARE] = "flr-prepare",
	[LAB_OP_FLR_WAIT] = "flr-wait",
};

static struct lab_fault lab_fault_fires(struct lab_vf *vf, enum lab_op op)
{
	struct lab_fault fires = { .effect = LAB_NO_EFFECT };
	struct lab_fault *fault = &vf->fault[op];

	spin_lock(&vf->lock);
	if (fault->effect != LAB_NO_EFFECT) {
		if (fault->skip) {
			fault->skip--;
		} else {
			fires = *fault;
			if (fault->effect != LAB_STUCK && !--fault->left)
				fault->effect = LAB_NO_EFFECT;
		}
	}
	spin_unlock(&vf->lock);
	return fires;
}

static bool lab_stuck(struct lab_vf *vf, enum lab_op op)
{
	return READ_ONCE(vf->fault[op].effect) == LAB_STUCK;
}

int lab_fault(struct lab_vf *vf, enum lab_op op)
{
	struct lab_fault fault = lab_fault_fires(vf, op);

	switch (fault.effect) {
	case LAB_ERRNO:
		return -(int)fault.value;
	case LAB_DELAY:
		msleep(fault.value);
		return 0;
	case LAB_STUCK:
		return wait_event_interruptible(vf->wq, !lab_stuck(vf, op));
	default:
		return 0;
	}
}

int lab_fault_in_worker(struct lab_vf *vf, enum lab_op op, const unsigned int *epoch, unsigned int seen)
{
	struct lab_fault fault = lab_fault_fires(vf, op);

	switch (fault.effect) {
	case LAB_ERRNO:
		return -(int)fault.value;
	case LAB_DELAY:
		wait_event_timeout(vf->wq, READ_ONCE(*epoch) != seen, msecs_to_jiffies(fault.value));
		return 0;
	case LAB_STUCK:
		wait_event(vf->wq, !lab_stuck(vf, op) || READ_ONCE(*epoch) != seen);
		return 0;
	default:
		return 0;
	}
}

static int lab_fault_parse(char *text, enum lab_op *op, struct lab_fault *fault)
{
	char name[24], effect[12];
	unsigned int value = 0, nth = 1, count = 1;
	int fields = sscanf(text, "%23s %11s %u %u %u", name, effect, &value, &nth, &count);
	int which = fields < 2 ? -EINVAL : match_string(lab_op_names, LAB_OPS, name);

	if (which < 0 || !nth || !count)
		return -EINVAL;
	*op = which;
	*fault = (struct lab_fault){ .value = value, .skip = nth - 1, .left = count };
	if (!strcmp(effect, "stuck"))
		fault->effect = LAB_STUCK;
	else if (fields >= 3 && !strcmp(effect, "errno") && value && value < 4096)
		fault->effect = LAB_ERRNO;
	else if (fields >= 3 && !strcmp(effect, "delay-ms"))
		fault->effect = LAB_DELAY;
	else
		return -EINVAL;
	return 0;
}

static ssize_t lab_fault_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	struct lab_vf *vf = file->private_data;
	struct lab_fault fault = {};
	enum lab_op op = 0;
	char text[80];
	bool clear;

	if (len >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, len))
		return -EFAULT;
	text[len] = 0;
	clear = sysfs_streq(text, "clear");
	if (!clear && lab_fault_parse(text, &op, &fault))
		return -EINVAL;
	spin_lock(&vf->lock);
	if (clear)
		memset(vf->fault, 0, sizeof(vf->fault));
	else
		vf->fault[op] = fault;
	spin_unlock(&vf->lock);
	wake_up_all(&vf->wq);
	return len;
}

static const struct file_operations lab_fault_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = lab_fault_write,
};

#define LAB_CONTENTS(field)                                                                                     \
static ssize_t lab_##field##_read(struct file *file, char __user *buf, size_t len, loff_t *pos)                 \
{                                                                                                               \
	struct lab_vf *vf = file->private_data;                                                                 \
														\
	return simple_read_from_buffer(buf, len, pos, vf->field, vf->field##_bytes);                            \
}                                                                                                               \
static ssize_t lab_##field##_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)          \
{                                                                                                               \
	struct lab_vf *vf = file->private_data;                                                                 \
														\
	return simple_write_to_buffer(vf->field, vf->field##_bytes, pos, buf, len);                             \
}                                                                                                               \
static const struct file_operations lab_##field##_fops = {                                                      \
	.owner = THIS_MODULE,                                                                                   \
	.open = simple_open,                                                                                    \
	.read = lab_##field##_read,                                                                             \
	.write = lab_##field##_write,                                                                           \
	.llseek = default_llseek,                                                                               \
}

LAB_CONTENTS(vram);
LAB_CONTENTS(ggtt);

void lab_debugfs_add(struct lab_vf *vf)
{
	char name[16];

	snprintf(name, sizeof(name), "vf%u", vf->id);
	vf->dir = debugfs_create_dir(name, vf->xe->dir);
	debugfs_create_file("fault", 0200, vf->dir, vf, &lab_fault_fops);
	debugfs_create_u32("vram_chunk_kib", 0600, vf->dir, &vf->vram_chunk_kib);
	debugfs_create_file("vram", 0600, vf->dir, vf, &lab_vram_fops);
	debugfs_create_file("ggtt", 0600, vf->dir, vf, &lab_ggtt_fops);
}
