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

// Types in shared memory are declared to be such.
#![allow(unsafe_code)]

mod ranges;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::{Errno, Vf, op::Op};
use crate::host::{DmaLogConfig, LOG_MOST_BYTES, LOG_MOST_RANGES};
use crate::shm::{Guard, LockInit, Plain, RobustMutex, Shareable, Shared};
use ranges::{Plan, Range, cover};

const MAGIC: u64 = u64::from_le_bytes(*b"dmalog 1");
/// Bits for every page, and for the two ends of every range, which may share a page with nothing else of it.
const WORDS: usize = (LOG_MOST_BYTES / 4096 / 64) as usize + 2 * LOG_MOST_RANGES as usize;

#[repr(C)]
struct LogFile {
    magic: AtomicU64,
    control: RobustMutex<LogControl>,
    /// 1 while pages are marked.
    active: AtomicU32,
    /// log2 of the granularity.
    shift: AtomicU32,
    /// Ranges in use.
    count: AtomicU32,
    reserved: AtomicU32,
    ranges: [LogRange; LOG_MOST_RANGES as usize],
    words: [AtomicU64; WORDS],
}

/// Held by start, stop and report.
#[repr(C)]
struct LogControl {
    /// 1 while the ranges are being changed.
    in_flight: u32,
}

/// A range that is watched. Changed only while the log is off.
#[repr(C)]
struct LogRange {
    first: AtomicU64,
    last: AtomicU64,
    /// Word in `words` of the page with `first`.
    word: AtomicU64,
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

/// The log of one VF.
pub(super) struct DmaLog {
    file: Shared<LogFile>,
    limits: DmaLogConfig,
}

impl DmaLog {
    /// Makes the log's file at `path`.
    pub fn create(path: &Path, limits: &DmaLogConfig) -> io::Result<Self> {
        let file = open(path, true)?;
        let file = Shared::<LogFile>::create(&file)?;
        file.magic.store(MAGIC, Ordering::Release);
        Ok(Self {
            file,
            limits: limits.clone(),
        })
    }

    /// Maps what `create` made.
    pub fn open(path: &Path, limits: &DmaLogConfig) -> io::Result<Self> {
        let file = Shared::<LogFile>::open(&open(path, false)?)?;
        if file.magic.load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "The DMA log is not of this version: make the host anew",
            ));
        }
        Ok(Self {
            file,
            limits: limits.clone(),
        })
    }

    fn lock(&self) -> Guard<'_, LogControl> {
        let mut control = self.file.control.lock();
        if control.holder_died() && control.in_flight != 0 {
            // A start was cut off: nothing is logged.
            self.file.active.store(0, Ordering::SeqCst);
            control.in_flight = 0;
        }
        control
    }

    fn is_active(&self) -> bool {
        self.file.active.load(Ordering::Acquire) != 0
    }

    fn start(&self, page: u64, ranges: Vec<Range>) -> Result<u64, Errno> {
        let mut control = self.lock();
        if self.is_active() {
            return Err(Errno::EINVAL);
        }
        let plan = Plan::new(&self.limits, page, ranges)?;
        control.in_flight = 1;
        let mut word = 0;
        for (slot, &(first, last)) in self.file.ranges.iter().zip(&plan.ranges) {
            slot.first.store(first, Ordering::Relaxed);
            slot.last.store(last, Ordering::Relaxed);
            slot.word.store(word, Ordering::Relaxed);
            word += ((last >> plan.shift) - (first >> plan.shift)) / 64 + 1;
        }
        let used = usize::try_from(word).unwrap_or(usize::MAX).min(WORDS);
        for word in &self.file.words[..used] {
            // A load first: a page of the file that nobody wrote stays a hole.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.file.shift.store(plan.shift, Ordering::Relaxed);
        let count = u32::try_from(plan.ranges.len()).unwrap_or(0);
        self.file.count.store(count, Ordering::Relaxed);
        self.file.active.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        control.in_flight = 0;
        Ok(1 << plan.shift)
    }

    fn stop(&self) {
        let _control = self.lock();
        self.file.active.store(0, Ordering::SeqCst);
    }

    /// Notes a write of `len` bytes at `iova` that has landed, wholly or in part.
    fn mark(&self, iova: u64, len: u64) {
        fence(Ordering::SeqCst);
        if !self.is_active() || len == 0 {
            return;
        }
        let shift = self.file.shift.load(Ordering::Relaxed);
        let end = iova.saturating_add(len - 1);
        for slot in self.slots() {
            let (first, last) = slot.bounds();
            if last < iova || first > end {
                continue;
            }
            let base = first >> shift;
            for page in (iova.max(first) >> shift)..=(end.min(last) >> shift) {
                if let Some(word) = self.word(slot, (page - base) / 64) {
                    word.fetch_or(1 << ((page - base) % 64), Ordering::SeqCst);
                }
            }
        }
    }

    fn slots(&self) -> &[LogRange] {
        let count = self.file.count.load(Ordering::Relaxed) as usize;
        &self.file.ranges[..count.min(self.file.ranges.len())]
    }

    fn word(&self, slot: &LogRange, index: u64) -> Option<&AtomicU64> {
        let at = slot.word.load(Ordering::Relaxed).checked_add(index)?;
        self.file.words.get(usize::try_from(at).ok()?)
    }

    /// Takes the marks of `[first, last]` and tells them as ranges within it, in order. A page of the log that lies only in part
    /// in `[first, last]` and goes on within its range keeps its mark.
    fn take(&self, (first, last): Range, mut each: impl FnMut(Range)) -> Result<(), Errno> {
        let _control = self.lock();
        if !self.is_active() {
            return Err(Errno::EINVAL);
        }
        let watched: Vec<_> = self.slots().iter().map(LogRange::bounds).collect();
        if !cover(&watched, (first, last)) {
            return Err(Errno::EINVAL);
        }
        let shift = self.file.shift.load(Ordering::Relaxed);
        let mut run: Option<Range> = None;
        for slot in self.slots() {
            let (from, to) = slot.bounds();
            if to < first || from > last {
                continue;
            }
            let (base, low, high) = (from >> shift, from.max(first), to.min(last));
            let (start, end) = ((low >> shift) - base, (high >> shift) - base);
            // Bounds of a page of the log that are its range's, not the report's.
            let bounds = |page: u64| {
                let begin = ((base + page) << shift).max(from);
                (
                    begin,
                    (((base + page) << shift) | ((1 << shift) - 1)).min(to),
                )
            };
            for index in start / 64..=end / 64 {
                let Some(word) = self.word(slot, index) else {
                    return Err(Errno::EIO);
                };
                if word.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                let mut wanted = mask(index, start, end);
                let mut keep = 0;
                for page in [start, end].into_iter().filter(|p| p / 64 == index) {
                    let (begin, finish) = bounds(page);
                    if begin < first || finish > last {
                        keep |= 1 << (page % 64);
                    }
                }
                keep &= wanted;
                let taken = word.fetch_and(!(wanted & !keep), Ordering::SeqCst);
                wanted &= taken;
                while wanted != 0 {
                    let page = index * 64 + u64::from(wanted.trailing_zeros());
                    wanted &= wanted - 1;
                    let (begin, finish) = bounds(page);
                    let (begin, finish) = (begin.max(first), finish.min(last));
                    run = match run {
                        Some((a, b)) if b.checked_add(1) == Some(begin) => Some((a, finish)),
                        Some(whole) => {
                            each(whole);
                            Some((begin, finish))
                        }
                        None => Some((begin, finish)),
                    };
                }
            }
        }
        if let Some(whole) = run {
            each(whole);
        }
        Ok(())
    }
}

impl LogRange {
    fn bounds(&self) -> Range {
        (
            self.first.load(Ordering::Relaxed),
            self.last.load(Ordering::Relaxed),
        )
    }
}

/// Bits of word `index` that stand for pages `start..=end`.
fn mask(index: u64, start: u64, end: u64) -> u64 {
    let low = if index == start / 64 { start % 64 } else { 0 };
    let high = if index == end / 64 { end % 64 } else { 63 };
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(new)
        .open(path)
}

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
    pub(super) fn dma_write(
        &self,
        dma: &dyn super::Dma,
        iova: u64,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        let result = dma.write(iova, bytes);
        // Also after a failure, before which a part may have landed.
        if let Some(log) = &self.dma_log {
            log.mark(iova, bytes.len() as u64);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(limits: &DmaLogConfig) -> (tempfile::TempDir, DmaLog) {
        let dir = tempfile::tempdir().expect("a directory");
        let log = DmaLog::create(&dir.path().join("log"), limits).expect("a log");
        (dir, log)
    }

    #[track_caller]
    fn taken(log: &DmaLog, first: u64, last: u64) -> Vec<Range> {
        let mut all = Vec::new();
        log.take((first, last), |r| all.push(r)).expect("a report");
        all
    }

    #[test]
    fn pages_are_told_once_and_only_those_of_the_range() {
        let (_dir, log) = log(&DmaLogConfig::default());
        assert_eq!(log.start(4096, vec![(0x10_0000, 0x2f_ffff)]), Ok(4096));
        assert_eq!(log.start(4096, vec![(0, 0xfff)]), Err(Errno::EINVAL));
        log.mark(0x10_0ff0, 32);
        log.mark(0x15_0000, 1);
        log.mark(0x2f_f000, 0x2000);
        log.mark(0x9_0000, 4096);
        assert_eq!(taken(&log, 0x14_0000, 0x15_ffff), [(0x15_0000, 0x15_0fff)]);
        assert_eq!(
            taken(&log, 0x10_0000, 0x2f_ffff),
            [(0x10_0000, 0x10_1fff), (0x2f_f000, 0x2f_ffff)]
        );
        assert_eq!(taken(&log, 0x10_0000, 0x2f_ffff), []);
        assert_eq!(log.take((0, 0x10_0fff), |_| {}), Err(Errno::EINVAL));
        log.mark(0x10_0000, 1);
        log.stop();
        assert_eq!(log.take((0x10_0000, 0x10_0fff), |_| {}), Err(Errno::EINVAL));
        assert_eq!(log.start(4096, vec![(0x10_0000, 0x2f_ffff)]), Ok(4096));
        assert_eq!(
            taken(&log, 0x10_0000, 0x2f_ffff),
            [],
            "a start begins clean"
        );
    }

    #[test]
    fn a_coarse_page_is_told_to_the_bounds_of_the_report_and_kept_when_cut() {
        let (_dir, log) = log(&DmaLogConfig {
            min_page: 0x10000,
            ..DmaLogConfig::default()
        });
        assert_eq!(log.start(4096, vec![(0x8000, 0x3_7fff)]), Ok(0x10000));
        log.mark(0x9000, 1);
        log.mark(0x2_0000, 1);
        assert_eq!(taken(&log, 0x8000, 0x8fff), [(0x8000, 0x8fff)]);
        assert_eq!(
            taken(&log, 0x8000, 0x3_7fff),
            [(0x8000, 0xffff), (0x2_0000, 0x2_ffff)]
        );
        assert_eq!(taken(&log, 0x8000, 0x3_7fff), []);
    }

    #[test]
    fn every_page_of_a_long_write_is_marked() {
        let (_dir, log) = log(&DmaLogConfig::default());
        log.start(4096, vec![(0, 0xff_ffff), (0x100_0000, 0x1ff_ffff)])
            .expect("on");
        log.mark(0, 0x200_0000);
        assert_eq!(taken(&log, 0, 0x1ff_ffff), [(0, 0x1ff_ffff)]);
    }

    #[test]
    fn a_writer_and_a_reporter_lose_nothing_between_them() {
        // One page, a counter in it: whoever copies after a report must have all that was written before the last mark.
        let (_dir, log) = log(&DmaLogConfig::default());
        log.start(4096, vec![(0, 0xfff)]).expect("on");
        let page = AtomicU64::new(0);
        let done = AtomicU32::new(0);
        let copy = std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 1..=200_000u64 {
                    page.store(i, Ordering::Relaxed);
                    log.mark(0, 8);
                }
                done.store(1, Ordering::Release);
            });
            let mut copy = 0;
            loop {
                let over = done.load(Ordering::Acquire) == 1;
                let mut dirty = false;
                log.take((0, 0xfff), |_| dirty = true).expect("a report");
                if dirty {
                    copy = page.load(Ordering::Relaxed);
                }
                if over {
                    return copy;
                }
            }
        });
        assert_eq!(copy, 200_000);
    }
}
