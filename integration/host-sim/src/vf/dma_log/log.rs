// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Start, stop, marks and reports of a log.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::file::{LogControl, LogFile, LogRange, MAGIC, WORDS};
use super::ranges::{Plan, Range, cover};
use crate::host::DmaLogConfig;
use crate::shm::{Guard, Shared};
use crate::vf::Errno;

/// The log of one VF.
pub struct DmaLog {
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

    /// Whether pages are marked.
    pub fn is_active(&self) -> bool {
        self.file.active.load(Ordering::Acquire) != 0
    }

    /// Begins with pages of about `page` bytes; answers what they are.
    pub fn start(&self, page: u64, ranges: Vec<Range>) -> Result<u64, Errno> {
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

    /// Ends it.
    pub fn stop(&self) {
        let _control = self.lock();
        self.file.active.store(0, Ordering::SeqCst);
    }

    /// Notes a write of `len` bytes at `iova` that has landed, wholly or in part.
    pub fn mark(&self, iova: u64, len: u64) {
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
    pub fn take(&self, (first, last): Range, mut each: impl FnMut(Range)) -> Result<(), Errno> {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

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
