// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A log as it lies in shared memory.

// Types in shared memory are declared to be such.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::ranges::Range;
use crate::host::{LOG_MOST_BYTES, LOG_MOST_RANGES};
use crate::shm::{LockInit, Plain, RobustMutex, Shareable};

pub const MAGIC: u64 = u64::from_le_bytes(*b"dmalog 1");
/// Bits for every page, and for the two ends of every range, which may share a page with nothing else of it.
pub const WORDS: usize = (LOG_MOST_BYTES / 4096 / 64) as usize + 2 * LOG_MOST_RANGES as usize;

#[repr(C)]
pub struct LogFile {
    pub magic: AtomicU64,
    pub control: RobustMutex<LogControl>,
    /// 1 while pages are marked.
    pub active: AtomicU32,
    /// log2 of the granularity.
    pub shift: AtomicU32,
    /// Ranges in use.
    pub count: AtomicU32,
    reserved: AtomicU32,
    pub ranges: [LogRange; LOG_MOST_RANGES as usize],
    pub words: [AtomicU64; WORDS],
}

/// Held by start, stop and report.
#[repr(C)]
pub struct LogControl {
    /// 1 while the ranges are being changed.
    pub in_flight: u32,
}

/// A range that is watched. Changed only while the log is off.
#[repr(C)]
pub struct LogRange {
    pub first: AtomicU64,
    pub last: AtomicU64,
    /// Word in `words` of the page with `first`.
    pub word: AtomicU64,
}

// SAFETY: repr(C), an integer.
unsafe impl Plain for LogControl {}
// SAFETY: repr(C), made of atomics and a lock of plain data.
unsafe impl Shareable for LogFile {
    fn init_locks(&self, init: &mut LockInit) {
        init.init(&self.control);
    }
}

// Processes built from different sources meet in this file.
const _: () = {
    assert!(size_of::<LogControl>() == 4);
    assert!(size_of::<LogRange>() == 24);
    assert!(size_of::<LogFile>() == 8 + 48 + 16 + 24 * 256 + 8 * WORDS);
};

impl LogRange {
    /// First and last byte.
    pub fn bounds(&self) -> Range {
        (
            self.first.load(Ordering::Relaxed),
            self.last.load(Ordering::Relaxed),
        )
    }
}
