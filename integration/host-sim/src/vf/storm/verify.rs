// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory compared with a storm's ledger: here with any copy of it, or by the VF that reads it by DMA.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::file::{CHECK, IDLE, StormFile};
use super::page::{Content, PAGE, look};
use crate::vf::{Errno, Vf};

/// Pages looked at while the engine is held.
const BATCH: u64 = 64;
/// Entries of the ledger looked at while the engine is held.
const LOOK: u64 = 1 << 16;

/// What a comparison found. The memory is right when [`StormCheck::is_right`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StormCheck {
    /// Pages that hold their last write.
    pub intact: u64,
    /// Pages that hold an earlier write, or none.
    pub lost: u64,
    /// Pages that hold parts of writes.
    pub torn: u64,
    /// Pages that hold a write that the ledger does not know: written after it was taken.
    pub ahead: u64,
    /// Pages that could not be read.
    pub unreadable: u64,
    /// IOVA of the first page that is not intact, plus 1, or 0.
    pub first_bad: u64,
}

impl StormCheck {
    /// Whether all pages that were ever written hold their last write, and there is at least one.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.intact != 0 && self.lost + self.torn + self.ahead + self.unreadable == 0
    }

    fn count(&mut self, iova: u64, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Intact => &mut self.intact,
            Verdict::Lost => &mut self.lost,
            Verdict::Torn => &mut self.torn,
            Verdict::Ahead => &mut self.ahead,
            Verdict::Unreadable => &mut self.unreadable,
        };
        *counter += 1;
        if verdict != Verdict::Intact && self.first_bad == 0 {
            self.first_bad = iova + 1;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Intact,
    Lost,
    Torn,
    Ahead,
    Unreadable,
}

/// Why memory cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StormError {
    /// There was no storm.
    #[error("There was no storm: raise one with `host-sim storm start`")]
    None,
    /// A storm or another comparison is on.
    #[error("A storm or a check is on: end it with `host-sim storm stop`")]
    Busy,
    /// The VF does not read.
    #[error(
        "The VF has not read all of the range in time: it has to be open, attached and in RUNNING"
    )]
    Timeout,
}

impl StormFile {
    /// Compares page `index`, of which `number` was the last write.
    fn compare(
        &self,
        index: u64,
        number: u64,
        check: &mut StormCheck,
        read: &mut impl FnMut(u64, &mut [u8]) -> Result<(), Errno>,
    ) {
        let spec = self.spec();
        let mut bytes = [0; PAGE];
        let unit = &mut bytes[..spec.unit as usize];
        let iova = spec.iova + index * PAGE as u64;
        let verdict = match read(iova, unit) {
            Err(_) => Verdict::Unreadable,
            Ok(()) => match look(unit, spec.seed, index) {
                Content::Write(found) if found == number => Verdict::Intact,
                Content::Write(found) if found > number => Verdict::Ahead,
                Content::Write(_) | Content::Foreign => Verdict::Lost,
                Content::Torn => Verdict::Torn,
            },
        };
        check.count(iova, verdict);
    }

    fn pages(&self) -> u64 {
        self.spec().len / PAGE as u64
    }

    /// Goes on with a check, by DMA.
    pub(super) fn check_some(&self, mut read: impl FnMut(u64, &mut [u8]) -> Result<(), Errno>) {
        let mut check = self.tally();
        let from = self.cursor.load(Ordering::Relaxed);
        let (mut at, mut read_pages) = (from, 0);
        while at < self.pages() && at < from + LOOK && read_pages < BATCH {
            let number = self.ledger[at as usize].load(Ordering::Acquire);
            if number != 0 {
                self.compare(at, number, &mut check, &mut read);
                read_pages += 1;
            }
            at += 1;
        }
        self.cursor.store(at, Ordering::Relaxed);
        self.set_tally(&check);
        if at >= self.pages() {
            self.mode.store(IDLE, Ordering::Release);
        }
    }

    fn tally(&self) -> StormCheck {
        let [intact, lost, torn, ahead, unreadable, first_bad] =
            std::array::from_fn(|i| self.tally[i].load(Ordering::Relaxed));
        StormCheck {
            intact,
            lost,
            torn,
            ahead,
            unreadable,
            first_bad,
        }
    }

    fn set_tally(&self, check: &StormCheck) {
        let values = [
            check.intact,
            check.lost,
            check.torn,
            check.ahead,
            check.unreadable,
            check.first_bad,
        ];
        for (to, value) in self.tally.iter().zip(values) {
            to.store(value, Ordering::Relaxed);
        }
    }
}

impl Vf {
    /// Compares the range, which `read` gets by IOVA, with the ledger. To be called when the VF does not write: it is not in RUNNING,
    /// or the storm is over.
    ///
    /// # Errors
    /// When there was no storm.
    pub fn storm_verify(
        &self,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), Errno>,
    ) -> Result<StormCheck, StormError> {
        self.storm_status().ok_or(StormError::None)?;
        let mut check = StormCheck::default();
        for index in 0..self.storm.pages() {
            let number = self.storm.ledger[index as usize].load(Ordering::Acquire);
            if number != 0 {
                self.storm.compare(index, number, &mut check, &mut read);
            }
        }
        Ok(check)
    }

    /// Has this VF read the range by DMA and compares it with the ledger of `source`, itself or the VF that wrote; the ledger is taken
    /// over.
    ///
    /// # Errors
    /// When there was no storm, one is on, or the VF has not read everything within `limit`.
    pub fn storm_check(&self, source: &Self, limit: Duration) -> Result<StormCheck, StormError> {
        source.storm_status().ok_or(StormError::None)?;
        {
            let _control = self.storm.lock();
            if self.storm.mode() != IDLE {
                return Err(StormError::Busy);
            }
            if !std::ptr::eq(self, source) {
                self.storm.copy_from(&source.storm);
            }
            self.storm.set_tally(&StormCheck::default());
            self.storm.cursor.store(0, Ordering::Relaxed);
            self.storm.mode.store(CHECK, Ordering::Release);
        }
        let start = Instant::now();
        while self.storm.mode() == CHECK {
            if start.elapsed() > limit {
                self.storm_stop();
                return Err(StormError::Timeout);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.storm.cursor.load(Ordering::Acquire) < self.storm.pages() {
            // A reset or a close came between.
            return Err(StormError::Timeout);
        }
        Ok(self.storm.tally())
    }
}
