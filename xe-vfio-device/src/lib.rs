// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live migration and snapshots of Intel Xe GPU VFs for rust-vmm hypervisors.

pub mod device;
pub mod dirty;
pub mod estimate;
pub mod state;
pub mod stream;
pub mod transfer;
pub mod uapi;
pub mod xe;
