// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who did what when, for a picture. The destination says how long ago, so its clock is not needed.

use std::time::{Duration, Instant};

use timeline::{Predicted, Span, Timeline};

use super::super::protocol::LoadedDevice;
use super::super::report::ms;
use super::attempt::Attempt;

impl Attempt<'_> {
    /// All that the reports of both sides tell, once the guest runs at the destination.
    pub(super) fn timeline(&mut self, stopped: Instant, ended: Instant) -> Timeline {
        let mut timeline = std::mem::take(&mut self.timeline);
        let clock = self.clock.start();
        let at = |when: Instant| ms(when.saturating_duration_since(clock));
        let still = Span {
            at_ms: at(stopped),
            ms: ms(ended.saturating_duration_since(stopped)),
        };
        let running = Span {
            at_ms: 0.0,
            ms: still.at_ms,
        };
        timeline.note("guest", "runs at the source", running, None);
        timeline.note("guest", "stands still", still, None);
        for (phase, at_ms, ms) in self.clock.spans() {
            timeline.note(
                "source",
                phase.name(),
                Span {
                    at_ms: *at_ms,
                    ms: *ms,
                },
                None,
            );
        }
        timeline.bars.append(&mut self.passes);
        for device in self.vm.devices() {
            let Some((moved, end)) = device.last_moved() else {
                continue;
            };
            let lane = format!("{} source", device.device_id());
            let times = [moved.enter, moved.stream, moved.confirm].map(ms);
            let begin = at(end) - times.iter().sum::<f64>();
            steps(&mut timeline, &lane, begin, times, moved.state_bytes);
        }
        timeline.bars.append(&mut self.far_bars);
        for device in &self.there {
            let lane = format!("{} destination", device.id);
            let times = [device.enter_ms, device.stream_ms, device.confirm_ms];
            let begin = device.ended_ms - times.iter().sum::<f64>();
            steps(&mut timeline, &lane, begin, times, device.state_bytes);
        }
        timeline.downtime = Some(still);
        timeline.predicted = self.report.prediction.as_ref().map(|prediction| Predicted {
            likely_ms: prediction.predicted_ms,
            low_ms: prediction.low_ms,
            high_ms: prediction.high_ms,
        });
        timeline
    }

    /// Something that the destination says to have just done.
    pub(super) fn note_far(&mut self, name: &str, took_ms: f64) {
        let end = ms(self.clock.start().elapsed());
        let mut noted = Timeline::default();
        // What it says is no more than a picture's.
        let ms = took_ms.clamp(0.0, end);
        let at_ms = end - ms;
        noted.note("destination", name, Span { at_ms, ms }, None);
        self.far_bars.append(&mut noted.bars);
    }

    /// The destination's VFs, whose ends are turned into times of this clock.
    pub(super) fn note_loaded(&mut self, devices: Vec<LoadedDevice>) {
        let now = ms(self.clock.start().elapsed());
        self.there = devices;
        for device in &mut self.there {
            device.ended_ms = now - device.ended_ms;
        }
    }

    /// A pass over memory.
    pub(super) fn note_pass(&mut self, begun: Instant, took: Duration, bytes: u64) {
        let at_ms = ms(begun.saturating_duration_since(self.clock.start()));
        let mut noted = Timeline::default();
        let name = format!("pass {}", self.report.passes);
        let ms = ms(took);
        noted.note("memory", &name, Span { at_ms, ms }, Some(bytes));
        self.passes.append(&mut noted.bars);
    }
}

/// The three steps of a VF's transfer.
fn steps(timeline: &mut Timeline, lane: &str, begin: f64, times: [f64; 3], bytes: u64) {
    let mut at_ms = begin;
    for ((name, bytes), ms) in [("enter", None), ("stream", Some(bytes)), ("confirm", None)]
        .into_iter()
        .zip(times)
    {
        timeline.note(lane, name, Span { at_ms, ms }, bytes);
        at_ms += ms;
    }
}
