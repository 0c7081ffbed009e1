// SPDX-License-Identifier: GPL-2.0-only
/*
 * PCI driver of the PF: binds by driver_override only, to any SR-IOV device.
 *
 * The PF and its VFs are given the identity of a Battlemage in the kernel's eyes (sysfs, and VFIO's config space, which takes a
 * VF's ids from there), so that user space need not know that it looks at another device.
 */

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "lab.h"

static unsigned int gts = 1;
module_param(gts, uint, 0644);
MODULE_PARM_DESC(gts, "GTs of the PF when VFs are enabled: 1, or 2 with a media GT");

static unsigned int devid = 0xe211;
module_param(devid, uint, 0644);
MODULE_PARM_DESC(devid, "PCI device id to be seen: of the PF when it is bound, of VFs when they are enabled");

static bool migration = true;
module_param(migration, bool, 0644);
MODULE_PARM_DESC(migration, "whether VFs bound from now on can migrate");

static struct dentry *lab_root;

static void lab_disguise(struct pci_dev *pdev)
{
	pdev->vendor = PCI_VENDOR_ID_INTEL;
	pdev->device = devid;
	pdev->class = PCI_CLASS_DISPLAY_OTHER << 8;
}

static void lab_drop_vfs(struct xe_device *xe)
{
	while (xe->num_vfs)
		lab_vf_destroy(xe->vf[--xe->num_vfs]);
	kfree(xe->vf);
	xe->vf = NULL;
}

static int lab_disable(struct xe_device *xe)
{
	pci_disable_sriov(xe->pdev);
	lab_drop_vfs(xe);
	return 0;
}

static int lab_enable(struct xe_device *xe, int count)
{
	struct pci_dev *vf = NULL;
	int ret = -ENOMEM;

	xe->devid = devid;
	xe->gts = clamp(gts, 1u, (unsigned int)LAB_MAX_GTS);
	xe->vf = kcalloc(count, sizeof(*xe->vf), GFP_KERNEL);
	if (!xe->vf)
		return ret;
	while (xe->num_vfs < count) {
		xe->vf[xe->num_vfs] = lab_vf_create(xe, xe->num_vfs + 1);
		if (!xe->vf[xe->num_vfs])
			goto fail;
		xe->num_vfs++;
	}
	ret = pci_enable_sriov(xe->pdev, count);
	if (ret)
		goto fail;
	while ((vf = pci_get_device(PCI_ANY_ID, PCI_ANY_ID, vf)))
		if (vf->is_virtfn && vf->physfn == xe->pdev)
			lab_disguise(vf);
	return count;
fail:
	lab_drop_vfs(xe);
	return ret;
}

static int lab_sriov_configure(struct pci_dev *pdev, int count)
{
	struct xe_device *xe = pci_get_drvdata(pdev);

	return count ? lab_enable(xe, count) : lab_disable(xe);
}

static int lab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct xe_device *xe = devm_kzalloc(&pdev->dev, sizeof(*xe), GFP_KERNEL);
	int ret = pcim_enable_device(pdev);

	if (!xe || ret)
		return xe ? ret : -ENOMEM;
	xe->pdev = pdev;
	ret = lab_mmio_find(xe);
	if (ret)
		return ret;
	pci_set_master(pdev);
	lab_disguise(pdev);
	xe->dir = lab_root;
	xe->revid = pdev->revision;
	pci_set_drvdata(pdev, xe);
	return 0;
}

static void lab_remove(struct pci_dev *pdev)
{
	lab_disable(pci_get_drvdata(pdev));
}

static const struct pci_device_id lab_ids[] = {
	{ PCI_DEVICE_DRIVER_OVERRIDE(PCI_ANY_ID, PCI_ANY_ID, 1) },
	{}
};

struct pci_driver lab_pf_driver = {
	.name = "xe",
	.id_table = lab_ids,
	.probe = lab_probe,
	.remove = lab_remove,
	.sriov_configure = lab_sriov_configure,
};

bool lab_migration_enabled(void)
{
	return migration;
}

static int __init lab_init(void)
{
	int ret;

	lab_root = debugfs_create_dir("xe-lab", NULL);
	ret = pci_register_driver(&lab_pf_driver);
	if (ret)
		debugfs_remove_recursive(lab_root);
	return ret;
}

static void __exit lab_exit(void)
{
	pci_unregister_driver(&lab_pf_driver);
	debugfs_remove_recursive(lab_root);
}

module_init(lab_init);
module_exit(lab_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stand-in for the Xe PF driver, for tests of xe-vfio-pci");
