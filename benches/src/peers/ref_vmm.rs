// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The reference VMM.

use anyhow::Context;
use demo::memory::PeakSampler;
use e2e::{ALL_CHECKED, Rig, Setup};

use super::{HOST, Migrated, beyond, content, vram};
use crate::row::Row;
use crate::usage::anonymous;
use std::time::Duration;

/// Migrates its VM.
///
/// # Errors
/// When the answer to `send-migration` is no.
///
/// # Panics
/// When the guest misses something.
pub fn run(row: Row) -> anyhow::Result<Migrated> {
    let mut rig = Rig::new(&Setup {
        both_hosts: HOST.to_vec(),
        vram: vram(row),
        ..Setup::default()
    });
    rig.source_host.command("fill", &content(row))?;
    let url = rig.tcp_url();
    let destination = rig.destination(&url);
    let pids = [rig.source.pid(), destination.pid()];
    let before = pids.map(|pid| anonymous(&pid.to_string()));
    let peaks = pids.map(PeakSampler::start);
    let answer = rig.source.remote(&["send-migration", &url])?;
    let [source, destination_peak] = peaks.map(|peak| peak.peak());
    rig.serial.moved_to(destination.serial_path())?;
    rig.guest_works(ALL_CHECKED);
    let downtime = answer["downtime_ms"].as_f64();
    let downtime = downtime.context("no `downtime_ms` in the answer")?;
    Ok(Migrated {
        downtime: Duration::from_secs_f64(downtime / 1000.0),
        source_memory: beyond(source, before[0]),
        destination_memory: beyond(destination_peak, before[1]),
    })
}
