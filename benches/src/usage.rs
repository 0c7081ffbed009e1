// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // getrusage(2)
//! What a process has used.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// User and system time of this process so far.
pub fn cpu() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes a rusage to memory of its size, which is zero before.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| {
            Duration::from_secs(time.tv_sec.cast_unsigned())
                + Duration::from_micros(time.tv_usec.cast_unsigned())
        })
        .sum()
}

/// Bytes of anonymous memory of a process (`self` or its id): buffers and stacks, not a simulated VF's VRAM or a memfd of guest memory.
#[must_use]
pub fn anonymous(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Load of the machine over the last minute.
#[must_use]
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// Most anonymous memory beyond what there was before, looked at every 20 ms while `work` runs.
pub fn peak<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = anonymous("self");
    let (most, over) = (AtomicU64::new(before), AtomicBool::new(false));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(anonymous("self"), Ordering::Relaxed);
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        let result = work();
        most.fetch_max(anonymous("self"), Ordering::Relaxed);
        over.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        (most.load(Ordering::Relaxed) - before, result)
    })
}
