// SPDX-License-Identifier: GPL-2.0-only
/* The functions that xe-vfio-pci imports: checks of the VF number, then the real thing. */

#include <linux/export.h>
#include <linux/module.h>

#include <drm/intel/xe_sriov_vfio.h>

#include "lab.h"

struct xe_device *xe_sriov_vfio_get_pf(struct pci_dev *pdev)
{
	struct xe_device *xe = pci_iov_get_pf_drvdata(pdev, &lab_pf_driver);

	return IS_ERR(xe) ? NULL : xe;
}
EXPORT_SYMBOL_FOR_MODULES(xe_sriov_vfio_get_pf, "xe-vfio-pci");

bool xe_sriov_vfio_migration_supported(struct xe_device *xe)
{
	return lab_migration_enabled();
}
EXPORT_SYMBOL_FOR_MODULES(xe_sriov_vfio_migration_supported, "xe-vfio-pci");

#define LAB_VFIO(type, name, call)                                                                              \
type xe_sriov_vfio_##name(struct xe_device *xe, unsigned int vfid)                                              \
{                                                                                                               \
	return vfid == 0 || vfid > xe->num_vfs ? -EINVAL : call(xe->vf[vfid - 1]);                              \
}                                                                                                               \
EXPORT_SYMBOL_FOR_MODULES(xe_sriov_vfio_##name, "xe-vfio-pci")

static ssize_t lab_size(struct lab_vf *vf)
{
	int ret = lab_fault(vf, LAB_OP_SIZE);

	return ret ? ret : lab_vf_stream_estimate(vf);
}

LAB_VFIO(int, flr_prepare, lab_flr_prepare);
LAB_VFIO(int, wait_flr_done, lab_flr_wait);
LAB_VFIO(int, suspend_device, lab_suspend);
LAB_VFIO(int, resume_device, lab_resume);
LAB_VFIO(int, stop_copy_enter, lab_save_begin);
LAB_VFIO(int, stop_copy_exit, lab_save_end);
LAB_VFIO(int, resume_data_enter, lab_restore_begin);
LAB_VFIO(int, resume_data_exit, lab_restore_end);
LAB_VFIO(int, error, lab_stop);
LAB_VFIO(ssize_t, stop_copy_size, lab_size);

ssize_t xe_sriov_vfio_data_read(struct xe_device *xe, unsigned int vfid, char __user *buf, size_t len)
{
	return vfid == 0 || vfid > xe->num_vfs ? -EINVAL : lab_read(xe->vf[vfid - 1], buf, len);
}
EXPORT_SYMBOL_FOR_MODULES(xe_sriov_vfio_data_read, "xe-vfio-pci");

ssize_t xe_sriov_vfio_data_write(struct xe_device *xe, unsigned int vfid, const char __user *buf, size_t len)
{
	return vfid == 0 || vfid > xe->num_vfs ? -EINVAL : lab_write(xe->vf[vfid - 1], buf, len);
}
EXPORT_SYMBOL_FOR_MODULES(xe_sriov_vfio_data_write, "xe-vfio-pci");
