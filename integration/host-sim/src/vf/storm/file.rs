// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A storm as it lies in shared memory.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{StormSpec, StormStatus};
use crate::shm::{Guard, LockInit, Plain, RobustMutex, Shareable};

/// Pages in the ledger.
pub const LEDGER: usize = 1 << 22;

/// `StormFile::mode`: nothing, pages are written, pages are compared with the ledger.
pub const IDLE: u32 = 0;
pub const WRITE: u32 = 1;
pub const CHECK: u32 = 2;

#[repr(C)]
pub struct StormFile {
    control: RobustMutex<StormControl>,
    pub mode: AtomicU32,
    pub unit: AtomicU32,
    pub iova: AtomicU64,
    pub len: AtomicU64,
    pub rate: AtomicU64,
    pub seed: AtomicU64,
    /// 1 for a sweep.
    pub sweep: AtomicU64,
    /// Number of the last write.
    pub numbers: AtomicU64,
    /// Writes that landed.
    pub writes: AtomicU64,
    /// Writes that the IOMMU refused.
    pub faults: AtomicU64,
    /// When the next write is due (CLOCK_MONOTONIC, ns).
    pub next_ns: AtomicU64,
    /// Next page to be compared.
    pub cursor: AtomicU64,
    /// Result of the comparison so far, in the order of `StormCheck`.
    pub tally: [AtomicU64; 6],
    /// Number of the last write to each page, or 0.
    pub ledger: [AtomicU64; LEDGER],
}

/// Held by whoever begins or ends something.
#[repr(C)]
pub struct StormControl {
    reserved: u32,
}

// SAFETY: repr(C), an integer.
unsafe impl Plain for StormControl {}
// SAFETY: repr(C), made of atomics and a lock of plain data.
unsafe impl Shareable for StormFile {
    fn init_locks(&self, init: &mut LockInit) {
        init.init(&self.control);
    }
}

// Processes built from different sources meet in this file.
const _: () = {
    assert!(size_of::<StormControl>() == 4);
    assert!(size_of::<StormFile>() == 48 + 8 + 10 * 8 + 6 * 8 + 8 * LEDGER);
};

impl StormFile {
    /// Held while something begins or ends.
    pub fn lock(&self) -> Guard<'_, StormControl> {
        // Whoever died with it left a storm that is on or off; both are whole.
        self.control.lock()
    }

    /// What is going on.
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Acquire)
    }

    /// The storm.
    pub fn spec(&self) -> StormSpec {
        let get = |field: &AtomicU64| field.load(Ordering::Relaxed);
        StormSpec {
            iova: get(&self.iova),
            len: get(&self.len).min((LEDGER * super::PAGE) as u64),
            rate: get(&self.rate),
            unit: self
                .unit
                .load(Ordering::Relaxed)
                .clamp(super::HEADER as u32, super::PAGE as u32),
            seed: get(&self.seed),
            sweep: get(&self.sweep) != 0,
        }
    }

    /// What it did.
    pub fn status(&self) -> Option<StormStatus> {
        let spec = self.spec();
        (spec.len != 0).then(|| StormStatus {
            spec,
            on: self.mode() == WRITE,
            writes: self.writes.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
        })
    }

    /// Becomes the storm `spec`, of which nothing has been written.
    pub fn set_up(&self, spec: &StormSpec) {
        let before = self.spec().len.max(spec.len) / super::PAGE as u64;
        for entry in &self.ledger[..(before as usize).min(LEDGER)] {
            // A load first: a page of the file that nobody wrote stays a hole.
            if entry.load(Ordering::Relaxed) != 0 {
                entry.store(0, Ordering::Relaxed);
            }
        }
        self.put(spec);
        for counter in [&self.numbers, &self.writes, &self.faults] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Takes over what `other` noted.
    pub fn copy_from(&self, other: &Self) {
        let spec = other.spec();
        self.set_up(&spec);
        let pages = (spec.len / super::PAGE as u64) as usize;
        for (to, from) in self.ledger.iter().zip(&other.ledger[..pages.min(LEDGER)]) {
            let number = from.load(Ordering::Acquire);
            if number != 0 {
                to.store(number, Ordering::Relaxed);
            }
        }
        for (to, from) in [
            (&self.numbers, &other.numbers),
            (&self.writes, &other.writes),
            (&self.faults, &other.faults),
        ] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn put(&self, spec: &StormSpec) {
        self.unit.store(spec.unit, Ordering::Relaxed);
        for (field, value) in [
            (&self.iova, spec.iova),
            (&self.len, spec.len),
            (&self.rate, spec.rate),
            (&self.seed, spec.seed),
            (&self.sweep, spec.sweep.into()),
        ] {
            field.store(value, Ordering::Relaxed);
        }
    }
}
