// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a [`Mismatch`] says to the person who wanted the migration: the difference, both values, and what to do.

use std::fmt;

use super::compat::{Mismatch, Pair, Quota, Schedule};
use crate::stream::Pci;

const OTHER_GPU: &str = "choose a destination with the same GPU";

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The source's VF is PCI device {}, the destination's {}: {OTHER_GPU}",
                device(source),
                device(destination)
            ),
            Self::Revision(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The source's VF has PCI revision {source:#04x}, the destination's {destination:#04x}: {OTHER_GPU}"
            ),
            Self::Pf(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The source's PF is PCI device {} revision {:#04x}, the destination's {} revision {:#04x}, and the \
                 kernel refuses the state of another: {OTHER_GPU}",
                device(source),
                source.revision,
                device(destination),
                destination.revision
            ),
            Self::Subsystem(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The source's VF is on board {}, the destination's on {}; a guest driver that looks at the board may \
                 notice after its next start",
                board(source),
                board(destination)
            ),
            Self::Gts(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The source's GPU has GTs {source:#06b}, the destination's {destination:#06b} (one bit each): {OTHER_GPU}"
            ),
            Self::Quota(quota, values) => differing_quota(f, *quota, values),
            Self::UnknownQuota(
                quota,
                Pair {
                    source,
                    destination,
                },
            ) => write!(
                f,
                "The {quota} quota is {} at the source and {} at the destination, so it cannot be compared; make sure \
                 that both are equal",
                known(*quota, *source),
                known(*quota, *destination)
            ),
            Self::BarSize(
                bar,
                Pair {
                    source,
                    destination,
                },
            ) => write!(
                f,
                "BAR{bar} has {} at the source and {} at the destination, and the guest has mapped it: {}",
                size(*source),
                size(*destination),
                if *bar == 2 {
                    "its size follows from the VRAM and from sriov_numvfs, so set the same number of VFs on both hosts"
                } else {
                    OTHER_GPU
                }
            ),
            Self::NotMigratable(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The VF cannot migrate at the {} (migration flags {source:#x} at the source, {destination:#x} at the \
                 destination): bind it to xe-vfio-pci, on a kernel and GuC firmware that support migration",
                if source & 1 == 0 {
                    "source"
                } else {
                    "destination"
                }
            ),
            Self::P2p(Pair {
                source,
                destination,
            }) => write!(
                f,
                "Only one side has RUNNING_P2P (migration flags {source:#x} at the source, {destination:#x} at the \
                 destination): use the same kernel driver on both hosts"
            ),
            Self::GucMajor(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The source has GuC firmware {source}, the destination {destination}, and the firmware's state moves \
                 within one major version only: install the same firmware on both hosts"
            ),
            Self::GucMinor(Pair {
                source,
                destination,
            }) => write!(
                f,
                "The source has GuC firmware {source}, the destination {destination}: a firmware may refuse the state \
                 of another version; install the same on both hosts if it does"
            ),
            Self::Schedule(
                schedule,
                Pair {
                    source,
                    destination,
                },
            ) => write!(
                f,
                "The {schedule} is {source} at the source and {destination} at the destination: the guest's share of \
                 the GPU will change unless sriov_admin/vf<n>/profile/{} is set alike",
                schedule.file()
            ),
        }
    }
}

fn differing_quota(f: &mut fmt::Formatter<'_>, quota: Quota, values: &Pair<u64>) -> fmt::Result {
    let Pair {
        source,
        destination,
    } = *values;
    let (at_source, at_destination) = (known(quota, Some(source)), known(quota, Some(destination)));
    write!(
        f,
        "The {quota} quota is {at_source} at the source and {at_destination} at the destination: "
    )?;
    match quota {
        Quota::Vram if destination < source => f.write_str(
            "the state does not fit; set sriov_admin/vf<n>/profile/vram_quota of the destination's PF to the source's value",
        ),
        Quota::Vram => f.write_str(
            "the kernel would take it, but the guest knows how much VRAM it has and sees BAR2, so it has to be equal; \
                 set sriov_admin/vf<n>/profile/vram_quota of the destination's PF to the source's value",
        ),
        Quota::Ggtt => f.write_str("the kernel takes a GGTT of exactly the same size only; provision both VFs alike"),
        Quota::Contexts | Quota::Doorbells => {
            f.write_str("the guest's driver has counted on the source's value; provision both VFs alike")
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vram => "VRAM",
            Self::Ggtt => "GGTT",
            Self::Contexts => "GuC context",
            Self::Doorbells => "doorbell",
        })
    }
}

impl Schedule {
    fn file(self) -> &'static str {
        match self {
            Self::ExecQuantum => "exec_quantum_ms",
            Self::PreemptTimeout => "preempt_timeout_us",
            Self::Priority => "sched_priority",
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExecQuantum => "execution quantum in milliseconds",
            Self::PreemptTimeout => "preemption timeout in microseconds",
            Self::Priority => "scheduling priority",
        })
    }
}

fn device(pci: &Pci) -> String {
    format!(
        "{:04x}:{:04x} (class {:06x})",
        pci.vendor, pci.device, pci.class
    )
}

fn board(pci: &Pci) -> String {
    format!("{:04x}:{:04x}", pci.subsystem_vendor, pci.subsystem_device)
}

fn known(quota: Quota, value: Option<u64>) -> String {
    match (quota, value) {
        (_, None) => "not shown".to_owned(),
        (Quota::Vram, Some(bytes)) => size(bytes),
        (Quota::Ggtt, Some(entries)) => format!("{entries} PTEs"),
        (Quota::Contexts | Quota::Doorbells, Some(count)) => count.to_string(),
    }
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0 => "no memory".to_owned(),
        bytes if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        bytes => format!("{bytes} bytes"),
    }
}
