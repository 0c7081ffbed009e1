// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `host-sim status` and `host-sim env`.

use std::path::{Path, PathBuf};

use host_sim::host::{Host, HostConfig};
use host_sim::vf::{Effect, FaultStatus, Status};
use serde::Serialize;

use super::Error;

/// What a VMM preloads.
const LIBRARY: &str = "libhost_sim.so";

#[derive(Serialize)]
struct Report<'a> {
    dir: &'a Path,
    config: &'a HostConfig,
    open_fds: usize,
    vfs: Vec<Status>,
}

/// Prints what every VF of `host` is doing.
pub fn status(host: &Host, json: bool) -> Result<(), Error> {
    let vfs: Vec<_> = host.vfs().iter().map(|vf| vf.status()).collect();
    let open_fds = host.held()?.len();
    if json {
        let report = Report {
            dir: host.dir(),
            config: host.config(),
            open_fds,
            vfs,
        };
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let config = host.config();
    println!(
        "{}: 8086:{:04x} rev {:02x}, {} MiB of VRAM per VF, {} GT{}, {open_fds} fds open",
        host.dir().display(),
        config.device_id,
        config.revision,
        config.vram >> 20,
        config.gts,
        if config.gts == 1 { "" } else { "s" },
    );
    for vf in &vfs {
        print_vf(vf);
    }
    Ok(())
}

fn print_vf(vf: &Status) {
    let opener = vf
        .opener
        .map_or_else(|| "closed".into(), |pid| format!("open by {pid}"));
    let mut line = format!(
        "VF {} {} group {} vfio{}: {}, {opener}",
        vf.index, vf.bdf, vf.group, vf.cdev, vf.state
    );
    if let Some(under_way) = &vf.under_way {
        line += &format!(", {under_way} under way");
    }
    if vf.needs_reset {
        line += ", needs a reset";
    }
    if vf.data_fd {
        line += &format!(
            ", data fd at {} bytes{}",
            vf.moved,
            if vf.moving { ", moving" } else { "" }
        );
    }
    line += &format!(", jobs {}/{}", vf.completed, vf.submitted);
    if vf.engine != 0 {
        line += &format!(", ring stopped ({:#x})", vf.engine);
    }
    if vf.dma_log {
        line += ", logs its DMA";
    }
    if let Some(storm) = vf.storm.filter(|s| s.on) {
        line += &format!(", storm of {} writes", storm.writes);
    }
    println!("{line}");
    for fault in &vf.faults {
        println!("  fault: {}", describe(fault));
    }
}

fn describe(fault: &FaultStatus) -> String {
    let effect = match fault.left.effect {
        Effect::Errno(errno) => errno.to_string(),
        Effect::Short(bytes) => format!("at most {bytes} bytes"),
        Effect::DelayMs(ms) => format!("{ms} ms longer"),
        Effect::Stuck => "stuck until cleared".into(),
    };
    let left = match (fault.left.count, fault.left.nth) {
        (0, _) => "over".into(),
        (count, 1) => format!("at the next {count} calls"),
        (count, nth) => format!("at {count} calls from number {nth} on"),
    };
    format!(
        "{} {effect}, {left}, hit {} so far",
        fault.left.op, fault.fired
    )
}

/// Prints the variables that make a process see `host`.
pub fn env(host: &Host) -> Result<(), Error> {
    let executable = std::env::current_exe().map_err(Error::Executable)?;
    let library = library_of(&executable)
        .ok_or_else(|| Error::NoLibrary(executable.with_file_name(LIBRARY)))?;
    println!("LD_PRELOAD={}", library.display());
    println!("HOST_SIM={}", host.dir().display());
    Ok(())
}

/// The library beside `executable` or, where `cargo test` leaves it, in `deps`: of two the newer one, since the other was
/// built from something else.
fn library_of(executable: &Path) -> Option<PathBuf> {
    let deps = executable.parent()?.join("deps").join(LIBRARY);
    [deps, executable.with_file_name(LIBRARY)]
        .into_iter()
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max_by_key(|(modified, _)| *modified)
        .map(|(_, path)| path)
}
