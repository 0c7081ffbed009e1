// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that is mapped, once, when the VF stands still.

use super::ranges::{normal, union};
use super::{DirtyError, GuestRange, Kind, Moment, Strategy};

/// Knows nothing and so answers everything: right on any host, and the whole guest memory is sent while the guest stands
/// still.
#[derive(Debug, Default)]
pub struct All {
    log: Log,
    /// What was mapped at any time since the log began: memory that is not any more may hold writes all the same.
    ever: Vec<GuestRange>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Log {
    #[default]
    Off,
    Pending,
    Answered,
}

impl Strategy for All {
    fn kind(&self) -> Kind {
        Kind::All
    }

    fn start(&mut self, mapped: &[GuestRange]) -> Result<(), DirtyError> {
        self.ever = normal(mapped)?;
        self.log = Log::Pending;
        Ok(())
    }

    fn dirty(
        &mut self,
        moment: Moment,
        mapped: &[GuestRange],
    ) -> Result<Vec<GuestRange>, DirtyError> {
        if self.log == Log::Off {
            return Err(DirtyError::NotStarted);
        }
        self.ever = union(&self.ever, &normal(mapped)?);
        match (moment, &self.log) {
            // Whatever could be answered now would be written again.
            (Moment::Running, _) => {
                self.log = Log::Pending;
                Ok(Vec::new())
            }
            (Moment::Still, Log::Answered) => Ok(Vec::new()),
            (Moment::Still, _) => {
                self.log = Log::Answered;
                Ok(self.ever.clone())
            }
        }
    }

    fn leaves_all_to_the_end(&self) -> bool {
        true
    }

    fn resumed(&mut self) {
        if self.log == Log::Answered {
            self.log = Log::Pending;
        }
    }

    fn stop(&mut self) {
        self.log = Log::Off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: GuestRange = GuestRange {
        gpa: 0,
        length: 1 << 20,
    };

    #[track_caller]
    fn read(log: &mut All, moment: Moment) -> Vec<GuestRange> {
        log.dirty(moment, &[MEMORY]).unwrap()
    }

    #[test]
    fn all_memory_is_dirty_once_after_the_vf_stopped() {
        let mut log = All::default();
        log.start(&[]).unwrap();
        assert_eq!(read(&mut log, Moment::Running), []);
        assert_eq!(read(&mut log, Moment::Still), [MEMORY]);
        assert_eq!(read(&mut log, Moment::Still), []);
        log.start(&[]).unwrap();
        assert_eq!(
            read(&mut log, Moment::Still),
            [MEMORY],
            "a new log begins anew"
        );
    }

    #[test]
    fn memory_that_is_not_mapped_any_more_is_dirty_too() {
        let mut log = All::default();
        let [gone, new] = [1 << 20, 2 << 20].map(|gpa| GuestRange {
            gpa,
            length: 1 << 20,
        });
        log.start(&[MEMORY, gone]).unwrap();
        assert_eq!(log.dirty(Moment::Running, &[MEMORY, new]).unwrap(), []);
        let all = GuestRange {
            gpa: 0,
            length: 3 << 20,
        };
        assert_eq!(read(&mut log, Moment::Still), [all]);
    }

    #[test]
    fn memory_is_dirty_again_once_the_vf_has_run_again() {
        let mut log = All::default();
        log.start(&[]).unwrap();
        assert_eq!(read(&mut log, Moment::Still), [MEMORY]);
        log.resumed();
        assert_eq!(read(&mut log, Moment::Still), [MEMORY]);
    }

    #[test]
    fn a_log_that_is_off_stays_off_when_the_vf_runs() {
        let mut log = All::default();
        log.resumed();
        assert!(log.dirty(Moment::Still, &[]).is_err());
    }

    #[test]
    fn a_log_that_was_not_started_is_an_error() {
        assert!(matches!(
            All::default().dirty(Moment::Still, &[]),
            Err(DirtyError::NotStarted)
        ));
    }
}
