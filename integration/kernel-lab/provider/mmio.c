// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VF's registers as a guest sees them.
 *
 * Where the SR-IOV device is an emulated 82576 (igb), the first four words of a VF's mailbox memory stand for the main GT's
 * registers: they keep what a guest writes, each VF has its own, the PF reaches all of them, and the device does nothing
 * with them. Of other devices the registers are memory of ours that no guest sees.
 */

#include <linux/io.h>

#include "lab.h"

#define LAB_82576 0x10c9
#define LAB_82576_GPIE 0x1514
#define LAB_82576_GPIE_MSIX_MODE BIT(4)
#define LAB_82576_VMBMEM(vf) (0x800 + 0x40 * ((vf)->id - 1))

/* Before the PF is given another identity. Turns on what a PF has to for the interrupts of its VFs. */
int lab_mmio_find(struct xe_device *xe)
{
	if (xe->pdev->vendor != PCI_VENDOR_ID_INTEL || xe->pdev->device != LAB_82576)
		return 0;
	xe->regs = pcim_iomap(xe->pdev, 0, 0);
	if (!xe->regs)
		return -ENOMEM;
	writel(readl(xe->regs + LAB_82576_GPIE) | LAB_82576_GPIE_MSIX_MODE, xe->regs + LAB_82576_GPIE);
	return 0;
}

static void __iomem *lab_mmio_of(struct lab_gt *gt)
{
	void __iomem *regs = gt->vf->xe->regs;

	return regs && lab_gt_is_main(gt) ? regs + LAB_82576_VMBMEM(gt->vf) : NULL;
}

/* From the device into gt->mmio. */
void lab_mmio_save(struct lab_gt *gt)
{
	void __iomem *from = lab_mmio_of(gt);

	if (from)
		memcpy_fromio(gt->mmio, from, LAB_MMIO_BYTES);
}

/* From gt->mmio into the device. */
void lab_mmio_restore(struct lab_gt *gt)
{
	void __iomem *to = lab_mmio_of(gt);

	if (to)
		memcpy_toio(to, gt->mmio, LAB_MMIO_BYTES);
}
