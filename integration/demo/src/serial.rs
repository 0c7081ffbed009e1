// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's word on its own work, read from the serial files of the VMMs it has lived in, in order.
//!
//! One parser goes over all of them, since a line may begin at the source and end at the destination.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use guest::report::{Event, Parser};

/// Jobs between two reports of a VF.
const REPORT_EVERY: u32 = 256;

/// What the guest has reported so far.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// VFs the guest found.
    pub vfs: u32,
    /// Last job reported as verified, for each VF.
    pub jobs: BTreeMap<u32, u32>,
    /// Reports that were not the next one due: a job lost or done twice.
    pub out_of_order: Vec<String>,
    /// The guest's last words, when it has halted.
    pub failure: Option<String>,
}

impl Tally {
    /// Jobs verified by all VFs together.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.jobs.values().map(|jobs| u64::from(*jobs)).sum()
    }

    /// Discrepancies of any kind.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.out_of_order.len() as u64 + u64::from(self.failure.is_some())
    }

    /// Jobs of the VF that has done the fewest.
    #[must_use]
    pub fn slowest(&self) -> u32 {
        if self.jobs.len() < self.vfs as usize {
            return 0;
        }
        self.jobs.values().copied().min().unwrap_or(0)
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Started { vfs } => self.vfs = vfs,
            Event::Jobs { vf, jobs } => {
                let last = self.jobs.insert(vf, jobs).unwrap_or(0);
                if jobs != last.wrapping_add(REPORT_EVERY) {
                    self.out_of_order
                        .push(format!("vf{vf} reported job {jobs} after job {last}"));
                }
            }
            Event::Failed(failure) => self.failure = Some(failure.to_string()),
            Event::NoVf => self.failure = Some("no VF found".to_owned()),
            Event::Exception { vector } => {
                self.failure = Some(format!("processor exception {vector}"));
            }
            Event::Other(line) => self.failure = Some(format!("unexpected line: {line}")),
        }
    }
}

/// Follows a guest from VMM to VMM.
pub struct SerialLog {
    parser: Parser,
    file: Option<File>,
    path: PathBuf,
    tally: Tally,
}

impl SerialLog {
    /// Begins with the first VMM's serial file, which may not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            parser: Parser::new(),
            file: None,
            path,
            tally: Tally::default(),
        }
    }

    /// Reads the rest of the present file and goes on with the next VMM's.
    ///
    /// # Errors
    /// When the present file cannot be read.
    pub fn moved_to(&mut self, path: PathBuf) -> Result<()> {
        self.read()?;
        self.file = None;
        self.path = path;
        Ok(())
    }

    /// Reads what is new.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&mut self) -> Result<&Tally> {
        if self.file.is_none() && self.path.exists() {
            let file = File::open(&self.path)
                .with_context(|| format!("Cannot open {}", self.path.display()))?;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            for event in self.parser.push(&bytes) {
                self.tally.note(event);
            }
        }
        Ok(&self.tally)
    }

    /// Waits until each VF has done `more` jobs beyond what it has now.
    ///
    /// # Errors
    /// When the guest has halted with a failure, or does not get there within `patience`.
    pub fn wait_for_jobs(&mut self, more: u32, patience: Duration) -> Result<&Tally> {
        let target = self.read()?.slowest().saturating_add(more);
        let deadline = Instant::now() + patience;
        loop {
            let tally = self.read()?;
            if let Some(failure) = &tally.failure {
                bail!("The guest halted: {failure}");
            }
            if tally.slowest() >= target {
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "The guest makes no progress: {:?} after {patience:?}, wanted job {target} of each VF",
                    tally.jobs
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(&self.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally_of(pieces: &[&str]) -> Tally {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut log = SerialLog::new(directory.path().join("not there yet"));
        for (index, piece) in pieces.iter().enumerate() {
            let path = directory.path().join(index.to_string());
            std::fs::write(&path, piece).expect("write");
            log.moved_to(path).expect("move");
        }
        log.read().expect("read").clone()
    }

    #[test]
    fn a_line_cut_by_the_migration_is_one_line() {
        let tally = tally_of(&[
            "xe-guest: 1 VFs\nvf0 jobs 256\nvf0 jo",
            "bs 512\nvf0 jobs 768\n",
        ]);
        assert_eq!((tally.verified(), tally.lost()), (768, 0));
    }

    #[test]
    fn a_gap_and_a_repeat_are_counted_as_lost() {
        assert_eq!(
            tally_of(&["xe-guest: 1 VFs\nvf0 jobs 256\n", "vf0 jobs 768\n"]).lost(),
            1
        );
        assert_eq!(
            tally_of(&["xe-guest: 1 VFs\nvf0 jobs 256\n", "vf0 jobs 256\n"]).lost(),
            1
        );
    }

    #[test]
    fn the_guests_own_complaint_is_counted_as_lost() {
        let tally = tally_of(&[
            "xe-guest: 1 VFs\nFAIL vf0 job 7 VRAM expected 0x00000001 got 0x00000002\n",
        ]);
        assert_eq!(tally.lost(), 1);
        assert!(tally.failure.is_some_and(|words| words.contains("VRAM")));
    }
}
