// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's own log of the pages that it writes by DMA: VFIO's `log_ops`, modelled on mlx5.
//!
//! The log belongs to the device, so it lies in a file that every process of the host maps: whoever was given the device's
//! fd can start, report and stop, and a process that dies takes nothing of it along. It ends with the last close of the device; a
//! reset and a change of the device state leave it alone.
//!
//! # Why no write is lost
//! The VF marks a page *after* its data is in memory, and a report *takes* marks (an atomic swap with 0) before its caller
//! can look at memory. Of a write W and a report R: when the mark comes after R's swap, it stays for the next report. When it
//! comes before, W's data was in memory before R's swap, and what R's caller reads after it has W's data. Marked before the
//! write, a page could be reported, copied, and only then written: lost. Two things follow. A mark is always a read-modify-write,
//! also when the bit is set already: a plain load could see a bit that a report is about to take while the data is still in
//! the writer's store buffer. And the look whether the log is on comes after a full fence behind the data, as the start has
//! one between switching it on and answering: else both could miss each other, and the caller's first copy miss the data.
//! Between data and mark nothing may look final: RUNNING -> RUNNING_P2P waits for the engine's lock, which is held over both.

mod file;
mod log;
mod ranges;

use super::op::Op;
use super::{Dma, Errno, Vf};
pub(super) use log::DmaLog;
use ranges::Range;

impl Vf {
    /// Whether the device has a DMA log: VFIO's `log_ops`.
    #[must_use]
    pub fn has_dma_log(&self) -> bool {
        self.dma_log.is_some()
    }

    fn dma_log(&self) -> Result<&DmaLog, Errno> {
        self.dma_log.as_ref().ok_or(Errno::ENOTTY)
    }

    /// DMA_LOGGING_START: pages of these ranges (first and last byte, sorted, apart from each other) are noted from now on. `page` is a
    /// hint for the granularity in bytes; answers the one taken.
    ///
    /// # Errors
    /// `ENOTTY` without a log, `EINVAL` when it is on already or a range is empty; a device may refuse the number of ranges
    /// with `E2BIG` and their size with `EOPNOTSUPP`.
    pub fn dma_log_start(&self, page: u64, ranges: Vec<Range>) -> Result<u64, Errno> {
        let log = self.dma_log()?;
        self.faults.check(Op::LogStart)?;
        log.start(page, ranges)
    }

    /// DMA_LOGGING_STOP: what was noted is forgotten. Nothing when the log is off.
    ///
    /// # Errors
    /// `ENOTTY` without a log.
    pub fn dma_log_stop(&self) -> Result<(), Errno> {
        let log = self.dma_log()?;
        self.faults.check(Op::LogStop)?;
        log.stop();
        Ok(())
    }

    /// DMA_LOGGING_REPORT of the bytes from `first` to `last`: tells the noted ranges to `each`, in order, and forgets them.
    ///
    /// # Errors
    /// `ENOTTY` without a log, `EINVAL` when it is off or does not watch all of the range.
    pub fn dma_log_take(
        &self,
        first: u64,
        last: u64,
        each: impl FnMut(Range),
    ) -> Result<(), Errno> {
        let log = self.dma_log()?;
        self.faults.check(Op::LogReport)?;
        log.take((first, last), each)
    }

    /// The last close, or the first open after an owner that died.
    pub(super) fn dma_log_ends(&self) {
        if let Some(log) = &self.dma_log {
            log.stop();
        }
    }

    /// Whether DMA is being logged.
    pub(super) fn dma_log_is_on(&self) -> bool {
        self.dma_log.as_ref().is_some_and(DmaLog::is_active)
    }

    /// DMA write with the note about it. Needs the engine's lock.
    pub(super) fn dma_write(&self, dma: &dyn Dma, iova: u64, bytes: &[u8]) -> Result<(), Errno> {
        let result = dma.write(iova, bytes);
        // Also after a failure, before which a part may have landed.
        if let Some(log) = &self.dma_log {
            log.mark(iova, bytes.len() as u64);
        }
        result
    }
}
