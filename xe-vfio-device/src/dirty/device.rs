// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device logs what it writes: DMA_LOGGING_*, which mlx5 and others have and an Xe VF has not.
//!
//! A device has room for so many ranges: where it refuses ours for their number, the smallest holes between them are filled until it
//! takes them; what it then reports of the holes is dropped. It logs addresses, not mappings: memory that is unmapped meanwhile is asked
//! for to the end. It may log in larger units than pages; the kernel spreads those over the bits
//! of pages that are asked for (drivers/vfio/iova_bitmap.c).

use super::bitmap::{self, WINDOW};
use super::ranges::{clip, covers, joined, normal};
use super::{DirtyError, GuestRange, Kind, Moment, PAGE_SIZE, Strategy};
use crate::uapi::{Errno, UapiError};

/// The calls on a device that logs: [`KernelVf`](crate::uapi::KernelVf) has them.
pub trait DmaLog: Send {
    /// Whether the device can log; starts nothing.
    ///
    /// # Errors
    /// ENOTTY when it cannot.
    fn probe(&self) -> Result<(), UapiError>;

    /// DMA_LOGGING_START in units of `page` bytes; the unit that the device has taken, in bytes.
    ///
    /// # Errors
    /// [`UapiError`]; nothing is logged then.
    fn start(&self, ranges: &[GuestRange], page: u64) -> Result<u64, UapiError>;

    /// DMA_LOGGING_REPORT: sets a bit of `bitmap` for each page of `range` that was written since the last report.
    ///
    /// # Errors
    /// [`UapiError`].
    fn report(&self, range: GuestRange, page: u64, bitmap: &mut [u64]) -> Result<(), UapiError>;

    /// DMA_LOGGING_STOP.
    ///
    /// # Errors
    /// [`UapiError`].
    fn stop(&self) -> Result<(), UapiError>;
}

/// The device's own log.
pub struct Device<L> {
    log: L,
    started: Option<Vec<GuestRange>>,
    unanswered: Vec<GuestRange>,
}

impl<L: DmaLog> Device<L> {
    /// Takes the device; nothing is logged yet.
    pub fn new(log: L) -> Self {
        Self {
            log,
            started: None,
            unanswered: Vec::new(),
        }
    }

    fn start_with_fewer(&self, memory: &[GuestRange]) -> Result<u64, DirtyError> {
        let mut ranges = memory.to_vec();
        loop {
            match self.log.start(&ranges, PAGE_SIZE) {
                Ok(unit) => {
                    tracing::info!(ranges = ranges.len(), unit, "the device logs its DMA");
                    return Ok(unit);
                }
                Err(error) if error.errno == Errno(libc::E2BIG) && ranges.len() > 1 => {
                    ranges = halved(ranges);
                }
                Err(source) if ranges.len() < memory.len() => {
                    let ranges = memory.len();
                    return Err(DirtyError::Ranges { ranges, source });
                }
                Err(source) => {
                    let doing = "started";
                    return Err(DirtyError::Kernel { doing, source });
                }
            }
        }
    }
}

/// At most half as many ranges, the smallest holes between them filled.
fn halved(ranges: Vec<GuestRange>) -> Vec<GuestRange> {
    let mut holes: Vec<u64> = ranges
        .windows(2)
        .map(|pair| pair[1].gpa - (pair[0].gpa + pair[0].length))
        .collect();
    holes.sort_unstable();
    let hole = holes[holes.len() / 2];
    joined(ranges, hole)
}

impl<L: DmaLog> Strategy for Device<L> {
    fn kind(&self) -> Kind {
        Kind::Device
    }

    fn start(&mut self, mapped: &[GuestRange]) -> Result<(), DirtyError> {
        self.stop();
        let memory = normal(mapped)?;
        self.start_with_fewer(&memory)?;
        self.started = Some(memory);
        Ok(())
    }

    fn dirty(
        &mut self,
        _moment: Moment,
        mapped: &[GuestRange],
    ) -> Result<Vec<GuestRange>, DirtyError> {
        let started = self.started.as_ref().ok_or(DirtyError::NotStarted)?;
        covers(started, &normal(mapped)?)?;
        read(started, &mut self.unanswered, |range, bits| {
            self.log.report(range, PAGE_SIZE, bits)
        })
    }

    fn resumed(&mut self) {}

    fn stop(&mut self) {
        self.unanswered.clear();
        if self.started.take().is_some()
            && let Err(error) = self.log.stop()
        {
            tracing::warn!(%error, "the device goes on to log its DMA");
        }
    }
}

/// Asks for the bits of all ranges; what was answered before one failed is kept for the next time.
pub(super) fn read(
    ranges: &[GuestRange],
    unanswered: &mut Vec<GuestRange>,
    report: impl Fn(GuestRange, &mut [u64]) -> Result<(), UapiError>,
) -> Result<Vec<GuestRange>, DirtyError> {
    for range in ranges {
        for offset in (0..range.length).step_by(usize::try_from(WINDOW).unwrap_or(usize::MAX)) {
            let window = GuestRange {
                gpa: range.gpa + offset,
                length: (range.length - offset).min(WINDOW),
            };
            let mut bits = bitmap::empty(window.length, PAGE_SIZE);
            let told = report(window, &mut bits);
            // An ioctl that fails half way has set, and cleared where they came from, the bits of the first half.
            for run in bitmap::runs(&bits, window.gpa, window.length, PAGE_SIZE) {
                clip(run, ranges, unanswered);
            }
            told.map_err(|source| DirtyError::Kernel {
                doing: "read",
                source,
            })?;
        }
    }
    let mut all = std::mem::take(unanswered);
    all.sort_unstable();
    Ok(joined(all, 0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A device with room for some ranges.
    #[derive(Clone)]
    struct Fake(Arc<Mutex<State>>);

    struct State {
        most: usize,
        ranges: Vec<GuestRange>,
        written: BTreeSet<u64>,
        fail_report_at: Option<u64>,
    }

    impl DmaLog for Fake {
        fn probe(&self) -> Result<(), UapiError> {
            Ok(())
        }

        fn start(&self, ranges: &[GuestRange], page: u64) -> Result<u64, UapiError> {
            let mut state = self.0.lock().unwrap();
            if ranges.len() > state.most {
                return Err(UapiError::new("START", Errno(libc::E2BIG)));
            }
            if state.most == 0 {
                return Err(UapiError::new("START", Errno(libc::EOPNOTSUPP)));
            }
            state.ranges = ranges.to_vec();
            Ok(page)
        }

        fn report(&self, range: GuestRange, page: u64, bits: &mut [u64]) -> Result<(), UapiError> {
            let mut state = self.0.lock().unwrap();
            if state.fail_report_at == Some(range.gpa) {
                state.fail_report_at = None;
                return Err(UapiError::new("REPORT", Errno(libc::EIO)));
            }
            let inside = |gpa: &u64| range.gpa <= *gpa && *gpa < range.gpa + range.length;
            let (told, rest) = state.written.iter().partition(|gpa| inside(gpa));
            state.written = rest;
            let told: BTreeSet<u64> = told;
            for gpa in told {
                let bit = (gpa - range.gpa) / page;
                bits[bit as usize / 64] |= 1 << (bit % 64);
            }
            Ok(())
        }

        fn stop(&self) -> Result<(), UapiError> {
            self.0.lock().unwrap().ranges.clear();
            Ok(())
        }
    }

    fn range(first: u64, pages: u64) -> GuestRange {
        GuestRange {
            gpa: first * PAGE_SIZE,
            length: pages * PAGE_SIZE,
        }
    }

    fn device(most: usize) -> (Device<Fake>, Arc<Mutex<State>>) {
        let state = Arc::new(Mutex::new(State {
            most,
            ranges: Vec::new(),
            written: BTreeSet::new(),
            fail_report_at: None,
        }));
        (Device::new(Fake(state.clone())), state)
    }

    #[test]
    fn a_device_with_room_for_few_ranges_gets_few_and_is_not_believed_in_the_holes() {
        let memory: Vec<_> = (0..10).map(|i| range(i * 4 + i / 5 * 100, 2)).collect();
        let (mut log, state) = device(3);
        log.start(&memory).unwrap();
        assert_eq!(state.lock().unwrap().ranges.len(), 2);
        state.lock().unwrap().written = [0, 2, 3, 5].map(|page| page * PAGE_SIZE).into();
        let dirty = log.dirty(Moment::Running, &memory).unwrap();
        assert_eq!(dirty, [range(0, 1), range(5, 1)]);
    }

    #[test]
    fn a_device_that_takes_no_range_is_an_error_that_counts_them() {
        let (mut log, _) = device(0);
        let error = log
            .start(&[range(0, 1), range(4, 1), range(8, 1)])
            .unwrap_err();
        assert!(
            matches!(error, DirtyError::Ranges { ranges: 3, .. }),
            "{error}"
        );
        assert!(matches!(
            log.dirty(Moment::Still, &[]),
            Err(DirtyError::NotStarted)
        ));
    }

    #[test]
    fn what_was_reported_before_a_failure_is_answered_afterwards() {
        let memory = [range(0, 4), range(8, 4)];
        let (mut log, state) = device(9);
        log.start(&memory).unwrap();
        state.lock().unwrap().written = [1, 9].map(|page| page * PAGE_SIZE).into();
        state.lock().unwrap().fail_report_at = Some(8 * PAGE_SIZE);
        assert!(log.dirty(Moment::Still, &memory).is_err());
        let dirty = log.dirty(Moment::Still, &memory).unwrap();
        assert_eq!(dirty, [range(1, 1), range(9, 1)]);
    }

    #[test]
    fn what_was_written_before_an_unmap_is_answered_after_it() {
        let (mut log, state) = device(9);
        log.start(&[range(0, 4), range(8, 4)]).unwrap();
        state.lock().unwrap().written = [1, 9].map(|page| page * PAGE_SIZE).into();
        let dirty = log.dirty(Moment::Still, &[range(0, 4)]).unwrap();
        assert_eq!(dirty, [range(1, 1), range(9, 1)]);
    }

    #[test]
    fn memory_that_was_plugged_in_after_the_start_is_refused_by_its_address() {
        let (mut log, _) = device(9);
        log.start(&[range(0, 4)]).unwrap();
        let error = log
            .dirty(Moment::Running, &[range(0, 4), range(8, 4)])
            .unwrap_err();
        assert!(error.to_string().contains("0x8000"), "{error}");
    }
}
