// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host at the syscall boundary: VFIO, iommufd and Intel Xe VFs that migrate, with faults.

pub mod boundary;
pub mod host;
pub mod shm;
pub mod vf;
