// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole VMMs with a guest that works its VF, migrated over TCP between two simulated hosts: the reference VMM, and the peers whose programs
//! are given.
//!
//! The time is the guest's downtime as the VMM's own events have it: from the processor's stop at the source to its start at the
//! destination. VRAM has its memory from the start and resets take no time, as for the rows without a VMM. A run counts when the guest has
//! found at the destination everything it had at the source.

pub mod cloud_hypervisor;
pub mod qemu;
mod qmp;
pub mod ref_vmm;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow};
use e2e::cloud_hypervisor::Binaries;

use crate::row::{Row, Way};

/// Programs that are not of this workspace.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    /// Cloud Hypervisor with the series.
    pub cloud_hypervisor: Option<Binaries>,
    /// Cloud Hypervisor without it.
    pub cloud_hypervisor_unpatched: Option<Binaries>,
    /// QEMU for x86-64.
    pub qemu: Option<PathBuf>,
}

/// What a migration took.
#[derive(Debug, Clone, Copy)]
pub struct Migrated {
    /// For how long the guest stood still.
    pub downtime: Duration,
    /// Most memory of the source beyond what it had before.
    pub source_memory: u64,
    /// And of the destination.
    pub destination_memory: u64,
}

/// Options of `host-sim up` that make a host as the rows without a VMM have it.
pub(crate) const HOST: [&str; 7] = [
    "--populate",
    "--flr-ms",
    "0",
    "--suspend-ms",
    "0",
    "--resume-ms",
    "0",
];

impl Peers {
    /// Whether there is a program for `way`.
    #[must_use]
    pub fn have(&self, way: Way) -> bool {
        match way {
            Way::CloudHypervisor => self.cloud_hypervisor.is_some(),
            Way::CloudHypervisorUnpatched => self.cloud_hypervisor_unpatched.is_some(),
            Way::Qemu => self.qemu.is_some(),
            _ => true,
        }
    }

    /// What the program of `way` says of its version.
    #[must_use]
    pub fn version(&self, way: Way) -> Option<String> {
        let program = match way {
            Way::CloudHypervisor => &self.cloud_hypervisor.as_ref()?.cloud_hypervisor,
            Way::CloudHypervisorUnpatched => {
                &self.cloud_hypervisor_unpatched.as_ref()?.cloud_hypervisor
            }
            Way::Qemu => self.qemu.as_ref()?,
            _ => return None,
        };
        let output = Command::new(program).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.lines().next()?.trim().to_owned())
    }

    /// Migrates a VM whose VF has what `row` says.
    ///
    /// # Errors
    /// When it fails, or the guest misses something.
    pub fn run(&self, row: Row) -> anyhow::Result<Migrated> {
        // The rigs of the end-to-end tests end a test that fails.
        let run = || match row.way {
            Way::Vmm => ref_vmm::run(row),
            Way::CloudHypervisor => {
                let binaries = self.cloud_hypervisor.as_ref();
                cloud_hypervisor::patched(binaries.context("no program")?, row)
            }
            Way::CloudHypervisorUnpatched => {
                let binaries = self.cloud_hypervisor_unpatched.as_ref();
                cloud_hypervisor::unpatched(binaries.context("no program")?, row)
            }
            Way::Qemu => qemu::run(self.qemu.as_ref().context("no program")?, row),
            _ => Err(anyhow!("not a VMM")),
        };
        let ended = catch_unwind(AssertUnwindSafe(run));
        ended.unwrap_or_else(|panic| Err(anyhow!("{}", words(&*panic))))
    }
}

/// The first line of what a panic says; all of it stands on stderr.
fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    let text = owned.or_else(|| panic.downcast_ref::<&str>().copied());
    text.and_then(|text| text.lines().next())
        .unwrap_or("it panicked")
}

/// Size of VRAM as `host-sim up` takes it, kept for the rest of the process, as the rigs want it.
pub(crate) fn vram(row: Row) -> &'static str {
    format!("{}M", row.size >> 20).leak()
}

/// Arguments of `host-sim fill` for what the guest leaves alone of VF 1.
pub(crate) fn content(row: Row) -> [&'static str; 5] {
    ["--vf", "1", row.content.name(), "--from", "4M"]
}

/// Bytes of a process beyond `before`.
pub(crate) fn beyond(peak: u64, before: u64) -> u64 {
    peak.saturating_sub(before)
}
