// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What identifies a VF for a migration, as a plain value.
//!
//! [`probe()`](super::probe()) fills it from sysfs. Everything that a host may not show is an `Option`.

use std::path::PathBuf;

/// PCI ids of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciIds {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem device id.
    pub subsystem_device: u16,
    /// Class code: base class, sub-class, programming interface (24 bits).
    pub class: u32,
}

/// What the administrator gave the VF; from `sriov_admin/vf<n>/profile` of the PF and, where it could be read, debugfs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// VRAM in bytes.
    pub vram_quota: Option<u64>,
    /// PTEs of the GGTT.
    pub ggtt_entries: Option<u64>,
    /// GuC contexts.
    pub contexts: Option<u32>,
    /// Doorbells.
    pub doorbells: Option<u32>,
    /// Execution quantum in milliseconds, 0 for no limit.
    pub exec_quantum_ms: Option<u32>,
    /// Preemption timeout in microseconds, 0 for none.
    pub preempt_timeout_us: Option<u32>,
    /// Scheduling priority: the choice that sysfs shows in brackets.
    pub sched_priority: Option<String>,
}

/// A VF and what its host says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The device's sysfs directory with all links resolved.
    pub path: PathBuf,
    /// Last component of `path`: the PCI address, on a real host.
    pub address: String,
    /// Ids of the function itself.
    pub pci: PciIds,
    /// Ids of its PF, whose device and revision the kernel compares. `None` for a function that is no VF or whose PF
    /// cannot be seen from here.
    pub pf: Option<PciIds>,
    /// Number of the VF as the Xe driver counts, from 1.
    pub vf_number: Option<u32>,
    /// VFs that the PF can have.
    pub total_vfs: Option<u32>,
    /// VFs that the PF has; the size of BAR2 follows from it.
    pub num_vfs: Option<u32>,
    /// GTs of the device by number, one bit each.
    pub gts: Option<u16>,
    /// BAR sizes in bytes, from the `resource` file; 0 for none and for the upper half of a 64-bit BAR.
    pub bars: [u64; 6],
    /// Quotas and scheduling.
    pub profile: Profile,
}
