// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Between the VFs' RUNNING_P2P and the vCPU's pause: what the VFs have written is final and the guest still runs.
//!
//! Here memory is compared with its fingerprints, or a log read for the last time, and what is found is sent, so that the guest's
//! downtime has none of it. The guest waits for its GPUs meanwhile, so this ends when the user's limit is reached: the rest is
//! done with the guest stopped. Where it is known not to fit, it is not begun.

use std::time::Instant;

use vm_migration::protocol::{MemoryRange, MemoryRangeTable};
use xe_vfio_device::dirty::{Fingerprints, Scanned};

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
        let Some(known) = &self.known else {
            return Ok(Vec::new());
        };
        let report = &mut self.report.dirty;
        report.fingerprint_bytes = known.memory();
        let (found, scanned) = known.rehearse().map_err(Error::Fingerprints)?;
        report.rehearsal_ms = ms(scanned.took);
        report.cpu_ms += ms(scanned.cpu);
        let ranges = found.into_iter().map(|range| MemoryRange {
            gpa: range.gpa,
            length: range.length,
        });
        Ok(vec![table(ranges.collect())])
    }

    /// Whether the GPUs stand still for it while the guest runs.
    pub(super) fn settles(&mut self) -> Result<bool, Error> {
        let limit = self.limits.gpu_pause.limit;
        if self.vm.devices().is_empty() {
            return Ok(false);
        }
        for device in self.vm.devices() {
            if device.memory_left_to_the_end()? > 0 {
                return Ok(false);
            }
        }
        let fallback = if limit.is_zero() {
            Some("the GPUs may not pause while the guest runs".to_owned())
        } else if let Some(last) = self.known.as_ref().and_then(|known| known.last()) {
            let rate = self.report.memory_bytes as f64 / self.sending.as_secs_f64();
            let prediction = self.limits.gpu_pause.predict(&last, rate);
            tracing::info!(%prediction, ?limit, fits = prediction.fits, "pause of the GPUs");
            (!prediction.fits)
                .then(|| format!("more than the limit of {limit:?} for the GPUs: {prediction}"))
        } else {
            None
        };
        if let Some(why) = &fallback {
            let cost = self.known.as_ref().and_then(|known| known.last());
            let ms = cost.map_or(0.0, |last| ms(last.took));
            tracing::warn!(
                why,
                predicted_ms = ms,
                "memory is compared after the guest has stopped"
            );
        }
        let settles = fallback.is_none();
        self.report.dirty.fallback = fallback;
        Ok(settles)
    }

    /// Finds and sends what the VFs have written, until little is left or `until`; answers what is left.
    pub(super) fn settle(
        &mut self,
        channel: &mut Channel,
        rest: Vec<MemoryRange>,
        until: Instant,
    ) -> Result<Vec<MemoryRange>, Error> {
        if let Some(known) = &self.known {
            known.set_deadline(Some(until));
        }
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
        if let Some(known) = &self.known {
            known.set_deadline(None);
        }
        self.timed_dirty()
    }

    /// Reads the logs, and notes what a comparison that this begins takes.
    fn timed_dirty(&mut self) -> Result<MemoryRangeTable, Error> {
        let last = |known: &Fingerprints| known.last();
        let before = self.known.as_deref().and_then(last);
        let written = self.dirty()?;
        let after = self.known.as_deref().and_then(last);
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
