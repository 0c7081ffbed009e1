// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The downtime before it happens: told at the start, asked between the passes over memory, told again before the pause, compared and
//! learned from in the end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vm_migration::protocol::MemoryRange;
use xe_vfio_device::dirty::{Kind, Wish};
use xe_vfio_device::estimate::{Cost, Estimate, Goal, Hosts, Route, Verdict, Work};

use super::super::report::{PredictionReport, ms};
use super::Error;
use super::attempt::Attempt;

/// Bytes of memory that tell a rate.
const TELLING: u64 = 4 << 20;

/// What an attempt has thought of its downtime.
#[derive(Default)]
pub(super) struct Predictions {
    /// Before anything was done.
    start: Option<Estimate>,
    /// Before the guest was stopped, and of what.
    pause: Option<(Estimate, Work)>,
    /// Bytes that were dirty when it was asked before.
    dirty: Option<u64>,
    /// Bytes that the first pass over memory has sent: what is in use.
    pub(super) in_use: u64,
    /// What finding memory that VFs have written took with the guest stopped.
    pub(super) scan: Duration,
    /// What has been said of the goal.
    told: bool,
}

impl Attempt<'_> {
    /// Tells what is thought before anything is done.
    pub(super) fn predict_start(&mut self) -> Result<(), Error> {
        self.forecaster.begin();
        let mut work = self.work(self.limits.few_bytes)?;
        // The VFs' strategies are chosen later; until then each would leave all to the end.
        if self.limits.dirty != Wish::Only(Kind::All) {
            work.memory_bytes = self.limits.few_bytes;
        }
        work.memory_bytes = work.memory_bytes.min(self.vm.ram().size());
        let estimate = self.forecaster.estimate(&work);
        self.tell("start", &estimate);
        self.predictions.start = Some(estimate);
        Ok(())
    }

    /// Tells what is thought before the guest is stopped with `rest` still to be sent.
    pub(super) fn predict_pause(&mut self, rest: &[MemoryRange]) -> Result<(), Error> {
        let work = self.work(rest.iter().map(|range| range.length).sum())?;
        let estimate = self.forecaster.estimate(&work);
        self.tell("pause", &estimate);
        self.predictions.pause = Some((estimate, work));
        Ok(())
    }

    /// Whether the guest is stopped with so many bytes dirty; without a goal when they are few, or were sent often enough, or in vain.
    ///
    /// # Errors
    /// [`Error::Goal`] when it cannot be met and the user wants it met or nothing.
    pub(super) fn converged(&mut self, dirty: u64, in_vain: bool) -> Result<bool, Error> {
        let enough = self.report.passes >= self.limits.passes;
        let few = dirty <= self.limits.few_bytes || enough || in_vain;
        let Some(downtime) = self.limits.downtime else {
            return Ok(few);
        };
        let work = self.work(dirty)?;
        let left = self.vm.with_group(|group| group.memory_left())?;
        let before = self.predictions.dirty.replace(dirty);
        let goal = Goal { downtime };
        let (unmet, estimate) = match self.forecaster.converge(goal, &work, left, before) {
            Verdict::Fits(estimate) => {
                tracing::info!(%estimate, goal_ms = ms(downtime), "the downtime goal is met");
                return Ok(true);
            }
            Verdict::Again(estimate) if !enough => {
                tracing::info!(%estimate, goal_ms = ms(downtime), dirty, "another pass over memory");
                return Ok(false);
            }
            Verdict::Again(now) | Verdict::NotShrinking(now) => {
                ("memory is written as fast as it is sent".to_owned(), now)
            }
            Verdict::NoPassHelps { now, least } => {
                let what = if self.vm.devices().is_empty() {
                    "stopping and starting the VM"
                } else {
                    "device state"
                };
                let why = format!(
                    "no pass over memory helps, {what} alone needs {:.0} ms",
                    ms(least)
                );
                // Less dirty memory is a shorter downtime all the same.
                if !few && !self.limits.downtime_strict {
                    self.tell_unmet(&why, &now);
                    return Ok(false);
                }
                (why, now)
            }
        };
        self.tell_unmet(&unmet, &estimate);
        if self.limits.downtime_strict {
            return Err(Error::Goal {
                goal: downtime,
                likely: estimate.likely,
                why: unmet,
            });
        }
        Ok(true)
    }

    /// Compares and learns; the phase of the streams took `streaming`.
    pub(super) fn learn(&mut self, downtime: Duration, streaming: Duration) {
        let Some((estimate, work)) = self.predictions.pause.take() else {
            return;
        };
        let scan = self.predictions.scan;
        let mut finished = self.vm.with_group(|group| group.finished(&work));
        finished.memory_bytes = self.report.last_pass_bytes;
        finished.streaming = streaming.saturating_sub(scan);
        finished.around = downtime.saturating_sub(streaming);
        for moved in &mut finished.devices {
            let there = self.there.iter().find(|device| device.id == moved.device);
            moved.far_device =
                there.and_then(|device| Duration::try_from_secs_f64(device.device_ms / 1e3).ok());
        }
        self.forecaster.learn(finished);

        let start = self.predictions.start.take();
        let actual = ms(downtime);
        let likely = ms(estimate.likely);
        let prediction = PredictionReport {
            start_ms: start.map_or(0.0, |estimate| ms(estimate.likely)),
            predicted_ms: likely,
            low_ms: ms(estimate.low),
            high_ms: ms(estimate.high),
            actual_ms: actual,
            ratio: if actual > 0.0 { likely / actual } else { 0.0 },
            basis: estimate.basis.to_string(),
            bound: estimate.bound.to_string(),
        };
        tracing::info!(?prediction, "downtime as predicted and as it was");
        self.report.prediction = Some(prediction);
    }

    /// What would move if the guest was stopped now with so many bytes dirty.
    fn work(&self, dirty: u64) -> Result<Work, Error> {
        let hosts = Hosts::of(self.endpoint);
        let route = if self.limits.local {
            Route::HandOver
        } else {
            Route::from(self.endpoint)
        };
        let left = self.vm.with_group(|group| group.memory_left())?;
        // What nobody has ever written is not sent.
        let left = if self.predictions.in_use > 0 {
            left.min(self.predictions.in_use)
        } else {
            left
        };
        let sent = self.report.memory_bytes;
        let mut work = self.vm.with_group(|group| group.work(route, hosts));
        work.memory_bytes = dirty.max(left);
        work.memory_cost = (sent >= TELLING)
            .then(|| Cost::of(self.sending, sent))
            .flatten();
        work.compression = self.wants_compression();
        // A comparison that has to wait for the guest's stop.
        if self.report.dirty.fallback.is_some()
            && let Some(last) = self.tracking.last_comparison()
        {
            work.scan = last.took;
            work.memory_bytes = work.memory_bytes.saturating_add(last.dirty);
        }
        Ok(work)
    }

    fn tell(&self, when: &str, estimate: &Estimate) {
        tracing::info!(when, %estimate, "downtime to be expected");
        let mut detail = described(estimate);
        detail["when"] = when.into();
        self.events.report("estimate", &detail);
    }

    fn tell_unmet(&mut self, why: &str, estimate: &Estimate) {
        if std::mem::replace(&mut self.predictions.told, true) {
            return;
        }
        let goal = self.limits.downtime.map_or(0.0, ms);
        tracing::warn!(why, goal_ms = goal, %estimate, "the downtime goal is not met");
        let mut detail = described(estimate);
        detail["goal_ms"] = goal.into();
        detail["why"] = why.into();
        self.events.report("downtime-goal", &detail);
    }

    /// When the last dirty memory was found, with the guest stopped.
    pub(super) fn scanned(&mut self, since: Instant) {
        self.predictions.scan = since.elapsed();
    }
}

fn described(estimate: &Estimate) -> Value {
    json!({
        "likely_ms": ms(estimate.likely),
        "low_ms": ms(estimate.low),
        "high_ms": ms(estimate.high),
        "state_ms": ms(estimate.parts.state),
        "memory_ms": ms(estimate.parts.memory),
        "else_ms": ms(estimate.parts.scan + estimate.parts.around),
        "zeros": estimate.zeros,
        "basis": estimate.basis.to_string(),
        "bound": estimate.bound.to_string(),
    })
}
