// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The floor of a snapshot: `dd` of the same bytes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// `dd` from memory to the disk, synced: what a snapshot cannot do without.
///
/// # Errors
/// When it fails.
pub fn write(from: &Path, to: &Path) -> anyhow::Result<Duration> {
    dd(from, to, &["conv=fsync"])
}

/// `dd` from the disk to memory that is there already: what a restore cannot do without.
///
/// # Errors
/// When it fails.
pub fn read(from: &Path, to: &Path) -> anyhow::Result<Duration> {
    dd(from, to, &["conv=notrunc"])
}

fn dd(from: &Path, to: &Path, flags: &[&str]) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let status = Command::new("dd")
        .arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .arg("bs=1M")
        .args(flags)
        .stderr(Stdio::null())
        .status()
        .context("dd cannot be started")?;
    ensure!(status.success(), "dd: {status}");
    Ok(started.elapsed())
}
