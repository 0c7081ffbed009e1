// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF that writes guest memory as hard as it can: the adversary of everything that claims to know which pages changed.
//!
//! While the VF is in RUNNING, its engine writes pages of an IOVA range, chosen at random, at a given rate or as fast as it
//! goes; each write says its number, page and a hash over all of it. The ledger, in a file that every process of the host maps, has the
//! number of the last write to each page, noted after the data has landed and under the engine's lock, so that it is true whenever
//! the VF is not in RUNNING. After a migration the ledger is the truth about the range: [`Vf::storm_verify`] compares any
//! copy of the memory with it, [`Vf::storm_check`] has the VF at the destination read the memory by DMA.
//!
//! A storm ends with a reset and with the last close of the device. It is no part of the VF's state: it does not migrate.

// Types in shared memory are declared to be such.
#![allow(unsafe_code)]

mod file;
mod page;
mod verify;

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::control::EngineState;
use super::wait::now_ns;
use super::{Dma, Errno, Vf};
use crate::shm::Guard;
use file::{CHECK, IDLE, WRITE};
use page::{HEADER, PAGE};
pub use verify::{StormCheck, StormError};

pub(super) use file::StormFile;

/// Pages that a storm can cover: 16 GiB.
pub const MOST_PAGES: u64 = file::LEDGER as u64;
/// Writes for which the engine is held at most.
const BATCH: u64 = 32;
/// How long the engine is left to somebody who wants it to rest.
const YIELD: Duration = Duration::from_micros(50);
/// What a storm that was held up may catch up with.
const CATCH_UP_NS: u64 = 10_000_000;

/// A storm to be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StormSpec {
    /// First IOVA, a multiple of 4 KiB.
    pub iova: u64,
    /// Bytes, a multiple of 4 KiB, at most 16 GiB.
    pub len: u64,
    /// Pages per second; 0 for as many as possible.
    pub rate: u64,
    /// Bytes written at the beginning of a page, a multiple of 8 from 32 to 4096.
    pub unit: u32,
    /// Another seed, other pages and contents.
    pub seed: u64,
    /// Each page once, in order, and then it is over, instead of random ones without end.
    pub sweep: bool,
}

/// What a storm has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StormStatus {
    /// The storm.
    #[serde(flatten)]
    pub spec: StormSpec,
    /// It goes on, whenever the VF is in RUNNING.
    pub on: bool,
    /// Pages written.
    pub writes: u64,
    /// Writes that the IOMMU refused.
    pub faults: u64,
}

impl Vf {
    /// Raises a storm. What an earlier one noted is forgotten.
    ///
    /// # Errors
    /// `EINVAL` for a range or unit that cannot be, `EBUSY` while one is on.
    pub fn storm_start(&self, spec: &StormSpec) -> Result<(), Errno> {
        let aligned = spec.iova.is_multiple_of(PAGE as u64) && spec.len.is_multiple_of(PAGE as u64);
        let pages = spec.len / PAGE as u64;
        let unit = spec.unit as usize;
        if !aligned
            || !(1..=MOST_PAGES).contains(&pages)
            || spec.iova.checked_add(spec.len).is_none()
            || !(HEADER..=PAGE).contains(&unit)
            || !unit.is_multiple_of(8)
        {
            return Err(Errno::EINVAL);
        }
        let _control = self.storm.lock();
        if self.storm.mode() != IDLE {
            return Err(Errno::EBUSY);
        }
        self.storm.set_up(spec);
        self.storm.next_ns.store(now_ns(), Ordering::Relaxed);
        self.storm.mode.store(WRITE, Ordering::Release);
        Ok(())
    }

    /// Ends the storm: when this returns, nothing is written any more, and the ledger stays.
    pub fn storm_stop(&self) {
        let _control = self.storm.lock();
        let _engine = self.quiesce_engine();
        self.storm.mode.store(IDLE, Ordering::Release);
    }

    /// The storm that is on or was the last; `None` when there was none.
    #[must_use]
    pub fn storm_status(&self) -> Option<StormStatus> {
        self.storm.status()
    }

    /// Whether [`Self::storm_step`] may have something to do; one load, for polling.
    #[must_use]
    pub fn storm_may_work(&self) -> bool {
        self.storm.mode() != IDLE
    }

    /// Writes some pages, or reads some for a check; answers whether there was anything to do. Nothing while the VF is not in RUNNING.
    /// `dma` must not block and not call into this VF.
    pub fn storm_step(&self, dma: &dyn Dma) -> bool {
        if !self.is_running() {
            return false;
        }
        if self.engine_is_wanted() {
            // The lock is not fair: without a pause whoever wants the engine to rest could wait for long.
            std::thread::sleep(YIELD);
        }
        let engine = self.lock_engine();
        if !self.is_running() {
            return false;
        }
        match self.storm.mode() {
            WRITE => self.storm_write(&engine, dma),
            CHECK => {
                self.storm.check_some(|iova, unit| dma.read(iova, unit));
                true
            }
            _ => false,
        }
    }

    /// Holds the engine's lock.
    fn storm_write(&self, _engine: &Guard<'_, EngineState>, dma: &dyn Dma) -> bool {
        let storm = &*self.storm;
        let spec = storm.spec();
        let due = match spec.rate {
            0 => BATCH,
            rate => {
                let (now, next) = (now_ns(), storm.next_ns.load(Ordering::Relaxed));
                let next = next.max(now.saturating_sub(CATCH_UP_NS));
                if now < next {
                    return false;
                }
                let due = ((now - next).saturating_mul(rate) / 1_000_000_000 + 1).min(BATCH);
                let cost = due * 1_000_000_000 / rate;
                storm.next_ns.store(next + cost.max(1), Ordering::Relaxed);
                due
            }
        };
        let mut bytes = [0; PAGE];
        let unit = &mut bytes[..spec.unit as usize];
        for _ in 0..due {
            let (number, pages) = (
                storm.numbers.load(Ordering::Relaxed) + 1,
                spec.len / PAGE as u64,
            );
            if spec.sweep && number > pages {
                storm.mode.store(IDLE, Ordering::Release);
                return true;
            }
            storm.numbers.store(number, Ordering::Relaxed);
            let index = if spec.sweep {
                number - 1
            } else {
                page::scramble(spec.seed ^ number) % pages
            };
            page::fill(unit, spec.seed, index, number);
            match self.dma_write(dma, spec.iova + index * PAGE as u64, unit) {
                Ok(()) => {
                    storm.ledger[index as usize].store(number, Ordering::Release);
                    storm.writes.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    storm.faults.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        true
    }

    /// A reset, or the last close. The caller holds the engine's lock or has closed the gate.
    pub(super) fn storm_ends(&self) {
        self.storm.mode.store(IDLE, Ordering::Release);
    }
}
