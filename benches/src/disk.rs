// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // posix_fadvise(2)
//! The floor of a snapshot: `dd` of the same bytes.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// A stretch of a file in memory.
#[derive(Debug)]
pub struct Stretch {
    /// The file.
    pub path: PathBuf,
    /// Where it begins, in MiB.
    pub from_mib: u64,
    /// How long it is, in MiB.
    pub mib: u64,
}

/// `dd` from memory to the disk, past the page cache where the file system has that, and synced: what a snapshot cannot do without.
///
/// # Errors
/// When it fails.
pub fn write(from: &Stretch, to: &Path) -> anyhow::Result<Duration> {
    let (skip, count) = (
        format!("skip={}", from.from_mib),
        format!("count={}", from.mib),
    );
    let stretch = [skip.as_str(), &count];
    let dd = |flags: &[&str]| dd(&from.path, to, &[&stretch, flags].concat());
    dd(&["oflag=direct", "conv=fsync"]).or_else(|_| dd(&["conv=fsync"]))
}

/// `dd` from the disk to memory that is there already: what a restore cannot do without.
///
/// # Errors
/// When it fails.
pub fn read(from: &Path, to: &Stretch) -> anyhow::Result<Duration> {
    let (seek, count) = (format!("seek={}", to.from_mib), format!("count={}", to.mib));
    dd(from, &to.path, &[&seek, &count, "conv=notrunc"])
}

/// Lets a file that is on the disk go from the page cache, so that whoever reads it next reads the disk.
///
/// # Errors
/// When it cannot be opened, or stays.
pub fn forget(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("Cannot open {}", path.display()))?;
    file.sync_all()?;
    // SAFETY: no memory is passed.
    let errno = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    ensure!(errno == 0, "posix_fadvise: errno {errno}");
    Ok(())
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
