// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cloud Hypervisor, seccomp filters on, with the series and without it.
//!
//! Without it a VF is migrated only through iommufd, with a dirty log that no Xe VF has, and with device files that somebody else opened at the
//! destination: it is given all three.

use e2e::cloud_hypervisor::{Binaries, Destination, Rig, Setup};

use super::{HOST, Migrated, beyond, content, vram};
use crate::row::Row;
use crate::usage::anonymous;

/// Migrates a VM of the one with the series.
///
/// # Errors
/// When the host cannot be filled.
///
/// # Panics
/// When it fails, or the guest misses something.
pub fn patched(binaries: &Binaries, row: Row) -> anyhow::Result<Migrated> {
    let rig = Rig::new(
        binaries.clone(),
        &Setup {
            both_hosts: HOST.to_vec(),
            vram: vram(row),
            ..Setup::default()
        },
    );
    let url = rig.tcp_url();
    let destination = rig.destination(&format!("receiver_url={url}"));
    migrate(rig, destination, &url, row)
}

/// Migrates a VM of the one without.
///
/// # Errors
/// As [`patched`].
///
/// # Panics
/// As [`patched`].
pub fn unpatched(binaries: &Binaries, row: Row) -> anyhow::Result<Migrated> {
    let rig = Rig::new(
        binaries.clone(),
        &Setup {
            both_hosts: [&HOST[..], &["--dma-logging"]].concat(),
            vram: vram(row),
            ..Setup::iommufd()
        },
    );
    let url = rig.tcp_url();
    let vmm = rig.empty_vmm("destination", &rig.destination_host)?;
    let receive = format!("receiver_url={url},vfio_fds=[vf0@3],iommufd_fd=4");
    let files = ["/dev/vfio/devices/vfio0", "/dev/iommu"];
    let destination = Destination::with_files(vmm, &receive, &files)?;
    migrate(rig, destination, &url, row)
}

fn migrate(mut rig: Rig, to: Destination, url: &str, row: Row) -> anyhow::Result<Migrated> {
    rig.source_host.command("fill", &content(row))?;
    let before = [rig.source.pid(), to.pid()].map(|pid| anonymous(&pid.to_string()));
    let moved = rig.migrates_to(to, url, "");
    Ok(Migrated {
        downtime: moved.downtime,
        source_memory: beyond(moved.source_peak, before[0]),
        destination_memory: beyond(moved.destination_peak, before[1]),
    })
}
