// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Between the VFs' RUNNING_P2P and the vCPU's pause: what the VFs have written is final and the guest still runs.
//!
//! Here memory is compared with its fingerprints, or a log read for the last time, and what is found is sent, so that the guest's
//! downtime has none of it. The guest waits for its GPUs meanwhile, so this ends when the user's limit is reached: the rest is
//! done with the guest stopped. Where it is known not to fit, it is not begun.

use std::time::Instant;

use vm_migration::protocol::{MemoryRange, MemoryRangeTable};
use xe_vfio_device::device::When;
use xe_vfio_device::dirty::Scanned;

use super::super::channel::Channel;
use super::super::ram::{self, Zeros};
use super::super::report::ms;
use super::Error;
use super::attempt::{Attempt, table};

/// Passes while the GPUs stand still, however little time they took.
const PASSES: u32 = 3;

impl Attempt<'_> {
    /// Compares memory while the VFs run, if that is how their writes are found: what it finds is sent with the guest running, and what
    /// it takes is what the one at the end will take.
    pub(super) fn rehearse(&mut self) -> Result<Vec<MemoryRangeTable>, Error> {
        let rehearsed = self.tracking.rehearse().map_err(Error::Fingerprints)?;
        let Some((found, scanned)) = rehearsed else {
            return Ok(Vec::new());
        };
        let report = &mut self.report.dirty;
        let shared = self.tracking.fingerprints();
        report.fingerprint_bytes = shared.map_or(0, |shared| shared.memory());
        report.rehearsal_ms = ms(scanned.took);
        report.cpu_ms += ms(scanned.cpu);
        let ranges = found.into_iter().map(|range| MemoryRange {
            gpa: range.gpa,
            length: range.length,
        });
        Ok(vec![table(ranges.collect())])
    }

    /// Whether the GPUs stand still for it while the guest runs.
    pub(super) fn settles(&mut self) -> bool {
        if self.vm.devices().is_empty() {
            return false;
        }
        let rate = self.report.memory_bytes as f64 / self.sending.as_secs_f64();
        match self.tracking.when(rate) {
            When::GuestRuns => true,
            When::GuestIsStopped { why } => {
                let last = self.tracking.last_comparison();
                let ms = last.map_or(0.0, |last| ms(last.took));
                tracing::warn!(
                    why,
                    predicted_ms = ms,
                    "what VFs have written is found after the guest has stopped"
                );
                self.report.dirty.fallback = Some(why);
                false
            }
        }
    }

    /// Finds and sends what the VFs have written, until little is left or `until`; answers what is left.
    pub(super) fn settle(
        &mut self,
        channel: &mut Channel,
        rest: Vec<MemoryRange>,
        until: Instant,
    ) -> Result<Vec<MemoryRange>, Error> {
        let mut left = rest;
        for pass in 0.. {
            let written = self.timed_dirty()?;
            let dirty = ram::union(vec![table(left), written], self.vm.ram().layout());
            let bytes: u64 = dirty.iter().map(|range| range.length).sum();
            let late = Instant::now() >= until;
            if bytes <= self.limits.few_bytes || pass >= PASSES || late {
                return Ok(dirty);
            }
            left = self.pass(channel, &dirty, Zeros::Send, Some(until))?;
        }
        Ok(left)
    }

    /// Everything that was written and not told yet; all stands still.
    pub(super) fn last_dirty(&mut self) -> Result<MemoryRangeTable, Error> {
        self.tracking.end_window();
        self.timed_dirty()
    }

    /// Reads the logs, and notes what a comparison that this begins takes.
    fn timed_dirty(&mut self) -> Result<MemoryRangeTable, Error> {
        let before = self.tracking.last_comparison();
        let written = self.dirty()?;
        let after = self.tracking.last_comparison();
        if let Some(Scanned {
            took, read, cpu, ..
        }) = after.filter(|_| after != before)
        {
            let report = &mut self.report.dirty;
            report.scan_ms += ms(took);
            report.scan_bytes += read;
            report.cpu_ms += ms(cpu);
        }
        Ok(written)
    }
}
