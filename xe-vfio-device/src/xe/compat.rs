// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the state of one VF can move to another: a pure comparison of two manifests, before anything moves.
//!
//! The kernel compares PF device and revision, GGTT size and the end of VRAM, and it does so while the guest stands still.
//! [`compare`] says the same earlier, and what the kernel does not look at too: what the guest has seen of its GPU must
//! be the same afterwards. The words of each [`Mismatch`] are in `advice`.

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<T> {
    /// At the source.
    pub source: T,
    /// At the destination.
    pub destination: T,
}

/// A quota of a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// VRAM in bytes.
    Vram,
    /// GGTT in PTEs.
    Ggtt,
    /// GuC contexts.
    Contexts,
    /// Doorbells.
    Doorbells,
}

/// A scheduling parameter of a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Execution quantum in milliseconds.
    ExecQuantum,
    /// Preemption timeout in microseconds.
    PreemptTimeout,
    /// Priority.
    Priority,
}

/// One thing in which two VFs differ. Its `Display` says what, with both values, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Vendor, device or class of the VF.
    Device(Pair<Pci>),
    /// Revision of the VF.
    Revision(Pair<u8>),
    /// Device or revision of the PF, which the kernel writes into the state and compares.
    Pf(Pair<Pci>),
    /// Subsystem ids: another board with the same GPU.
    Subsystem(Pair<Pci>),
    /// GTs, as bit masks of their numbers.
    Gts(Pair<u16>),
    /// A quota that is not the same.
    Quota(Quota, Pair<u64>),
    /// A quota that only one host shows.
    UnknownQuota(Quota, Pair<Option<u64>>),
    /// Size in bytes of the BAR of this number, 0 to 5.
    BarSize(usize, Pair<u64>),
    /// A side whose kernel offers no STOP_COPY; values are the migration flags.
    NotMigratable(Pair<u64>),
    /// P2P on one side only; values are the migration flags.
    P2p(Pair<u64>),
    /// GuC firmware with another major version.
    GucMajor(Pair<String>),
    /// GuC firmware with the same major version.
    GucMinor(Pair<String>),
    /// A scheduling parameter.
    Schedule(Schedule, Pair<String>),
}

impl Mismatch {
    /// Whether the migration has to be refused.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Device(_)
            | Self::Revision(_)
            | Self::Pf(_)
            | Self::Gts(_)
            | Self::BarSize(..) => Severity::Refuse,
            Self::Quota(..) | Self::NotMigratable(_) | Self::P2p(_) | Self::GucMajor(_) => {
                Severity::Refuse
            }
            Self::Subsystem(_)
            | Self::UnknownQuota(..)
            | Self::GucMinor(_)
            | Self::Schedule(..) => Severity::Warn,
        }
    }
}

/// Everything in which `source` and `destination` differ and that matters, most severe first. The migration may start
/// when none of it says [`Severity::Refuse`].
///
/// What neither or only one side knows is no mismatch, but for VRAM and GGTT quotas that one side knows: the guest sees
/// those, so it is worth a warning that they could not be compared.
pub fn compare(source: &Manifest, destination: &Manifest) -> Vec<Mismatch> {
    let mut found: Vec<_> = [
        pci(source, destination),
        capabilities(source, destination),
        quotas(source, destination),
        firmware_and_schedule(source, destination),
    ]
    .concat();
    found.sort_by_key(|mismatch| std::cmp::Reverse(mismatch.severity()));
    found
}

fn pci(source: &Manifest, destination: &Manifest) -> Vec<Mismatch> {
    let ids = pair(source.pci, destination.pci);
    let bars = source.bars.into_iter().zip(destination.bars).enumerate();
    let device = |pci: Pci| (pci.vendor, pci.device, pci.class);
    let subsystem = |pci: Pci| (pci.subsystem_vendor, pci.subsystem_device);
    [
        ids.differ_in(device).map(Mismatch::Device),
        pair(source.pci.revision, destination.pci.revision)
            .differ()
            .map(Mismatch::Revision),
        both(&source.pf, &destination.pf)
            .and_then(|pf| pf.differ_in(|pci: Pci| (pci.vendor, pci.device, pci.revision)))
            .map(Mismatch::Pf),
        ids.differ_in(subsystem).map(Mismatch::Subsystem),
        both(&source.gts, &destination.gts)
            .and_then(Pair::differ)
            .map(Mismatch::Gts),
    ]
    .into_iter()
    .flatten()
    .chain(bars.filter_map(|(bar, (source, destination))| {
        pair(source, destination)
            .differ()
            .map(|sizes| Mismatch::BarSize(bar, sizes))
    }))
    .collect()
}

fn capabilities(source: &Manifest, destination: &Manifest) -> Vec<Mismatch> {
    let flags = pair(source.migration_flags, destination.migration_flags);
    if flags.source & flags.destination & STOP_COPY == 0 {
        vec![Mismatch::NotMigratable(flags)]
    } else {
        flags
            .differ_in(|flags| flags & P2P)
            .map(Mismatch::P2p)
            .into_iter()
            .collect()
    }
}

fn quotas(source: &Manifest, destination: &Manifest) -> Vec<Mismatch> {
    let long = |quota: Option<u32>| quota.map(u64::from);
    let quotas = [
        (Quota::Vram, source.vram_quota, destination.vram_quota),
        (Quota::Ggtt, source.ggtt_entries, destination.ggtt_entries),
        (
            Quota::Contexts,
            long(source.contexts),
            long(destination.contexts),
        ),
        (
            Quota::Doorbells,
            long(source.doorbells),
            long(destination.doorbells),
        ),
    ];
    let compare = |(quota, source, destination)| match (source, destination) {
        (Some(source), Some(destination)) => pair(source, destination)
            .differ()
            .map(|values| Mismatch::Quota(quota, values)),
        (Some(_), None) | (None, Some(_)) if matches!(quota, Quota::Vram | Quota::Ggtt) => {
            Some(Mismatch::UnknownQuota(quota, pair(source, destination)))
        }
        _ => None,
    };
    quotas.into_iter().filter_map(compare).collect()
}

fn firmware_and_schedule(source: &Manifest, destination: &Manifest) -> Vec<Mismatch> {
    let text = |value: Option<u32>| value.map(|value| value.to_string());
    let schedules = [
        (
            Schedule::ExecQuantum,
            text(source.exec_quantum_ms),
            text(destination.exec_quantum_ms),
        ),
        (
            Schedule::PreemptTimeout,
            text(source.preempt_timeout_us),
            text(destination.preempt_timeout_us),
        ),
        (
            Schedule::Priority,
            source.sched_priority.clone(),
            destination.sched_priority.clone(),
        ),
    ];
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    let guc = both(&source.guc_version, &destination.guc_version)
        .and_then(Pair::differ)
        .map(|versions| {
            if major(&versions.source) == major(&versions.destination) {
                Mismatch::GucMinor(versions)
            } else {
                Mismatch::GucMajor(versions)
            }
        });
    let schedules = schedules
        .into_iter()
        .filter_map(|(schedule, source, destination)| {
            both(&source, &destination)?
                .differ()
                .map(|values| Mismatch::Schedule(schedule, values))
        });
    guc.into_iter().chain(schedules).collect()
}

fn pair<T>(source: T, destination: T) -> Pair<T> {
    Pair {
        source,
        destination,
    }
}

fn both<T: Clone>(source: &Option<T>, destination: &Option<T>) -> Option<Pair<T>> {
    Some(pair(source.clone()?, destination.clone()?))
}

impl<T: PartialEq> Pair<T> {
    fn differ(self) -> Option<Self> {
        (self.source != self.destination).then_some(self)
    }
}

impl<T: Copy> Pair<T> {
    fn differ_in<U: PartialEq>(self, part: impl Fn(T) -> U) -> Option<Self> {
        (part(self.source) != part(self.destination)).then_some(self)
    }
}
