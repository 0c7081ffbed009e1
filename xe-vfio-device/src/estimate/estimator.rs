// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The estimate, corrected by what earlier ones would have been.
//!
//! For each finished transfer the model is asked with the costs that are believed now, and what it took is compared with the
//! answer. The weighted median of these ratios corrects the answer for the work at hand; their spread, and how few they are, makes the
//! interval. A ratio counts as much as its transfer was like the work: the same way, content and number of VFs, and late. Its size does
//! not count, so that more bytes never take less time.

use std::fmt;
use std::time::Duration;

use super::learn::{self, Costs, likeness};
use super::model::streaming;
use super::robust::Samples;
use super::{Basis, Bound, Finished, History, Machine, Work};

/// How far off the model may be: beyond it an observation is no better than nothing.
const MOST: f64 = 8.0;
/// Weight of the model's own word against that of one transfer just like the work.
const MODEL: f64 = 0.15;
/// So much weight of ratios is something to go by.
const TELLING: f64 = 0.3;
/// What surrounds a transfer of state in a VM, when nobody has seen it.
const AROUND: f64 = 0.02;
/// What was seen of a device's zeros lately counts.
const CONTENT: usize = 8;

/// A downtime to come.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The best guess.
    pub likely: Duration,
    /// Hardly less than that.
    pub low: Duration,
    /// Hardly more than that.
    pub high: Duration,
    /// What it is made of.
    pub parts: Parts,
    /// What the others wait for.
    pub bound: Bound,
    /// How it is known.
    pub basis: Basis,
    /// Share of the state that is thought to be zeros.
    pub zeros: f64,
    /// The costs behind it.
    pub costs: Costs,
}

/// Parts of a downtime, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Finding memory that the VFs have written.
    pub scan: Duration,
    /// The VFs' state.
    pub state: Duration,
    /// What guest memory adds to it.
    pub memory: Duration,
    /// Everything else: pausing, VM state, starting.
    pub around: Duration,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "{:.0} ms ({:.0} to {:.0} ms, {}; state {:.0} ms, bound by {}; memory {:.0} ms, else {:.0} ms)",
            ms(self.likely),
            ms(self.low),
            ms(self.high),
            self.basis,
            ms(self.parts.state),
            self.bound,
            ms(self.parts.memory),
            ms(self.parts.scan + self.parts.around)
        )
    }
}

/// Estimates, and learns.
#[derive(Debug, Clone)]
pub struct Estimator {
    machine: Machine,
    history: History,
}

/// What the past says of the model.
struct Correction {
    factor: f64,
    low: f64,
    high: f64,
    weight: f64,
    like: u32,
}

impl Estimator {
    /// Of a machine and what is known of its transfers.
    pub fn new(machine: Machine, history: History) -> Self {
        Self { machine, history }
    }

    /// What is known.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Takes what happened.
    pub fn learn(&mut self, finished: Finished) {
        self.history.push(finished);
    }

    /// How long the guest would stand still.
    pub fn estimate(&self, work: &Work) -> Estimate {
        let zeros: Vec<_> = work.lanes.iter().map(|lane| self.zeros(lane)).collect();
        let likely: Vec<f64> = zeros.iter().map(|(_, likely, _)| *likely).collect();
        let share = share(&likely);
        let costs = learn::costs(&self.machine, &self.history, work, share);
        let correction = self.correct(work, share);
        let cores = self.machine.cores;
        let at = |work: &Work, shares: &[f64]| streaming(work, shares, &costs, cores);

        let (modelled, bound) = at(work, &likely);
        let stream = modelled * correction.factor;
        let state = at(&work.with_memory(0), &likely).0 * correction.factor;
        let (around_low, around, around_high) = self.around(work, share);
        let scan = work.scan.as_secs_f64();

        let most: Vec<f64> = zeros.iter().map(|(_, _, most)| *most).collect();
        let fewest: Vec<f64> = zeros.iter().map(|(fewest, _, _)| *fewest).collect();
        let least = at(work, &most).0 * correction.factor * correction.low;
        let longest = at(work, &fewest).0 * correction.factor * correction.high;
        let total = scan + stream + around;
        let basis = if correction.weight >= TELLING {
            Basis::Learned(correction.like)
        } else {
            match costs.link.basis {
                Basis::Guessed => Basis::Guessed,
                _ => Basis::Measured,
            }
        };
        Estimate {
            likely: duration(total),
            low: duration((scan + least + around_low).min(total)),
            high: duration((scan + longest + around_high).max(total)),
            parts: Parts {
                scan: work.scan,
                state: duration(state),
                memory: duration(stream - state),
                around: duration(around),
            },
            bound,
            basis,
            zeros: share,
            costs,
        }
    }

    /// Share of a device's state that is zeros: at least, likely, at most.
    fn zeros(&self, lane: &super::Lane) -> (f64, f64, f64) {
        if let Some(known) = lane.zeros.filter(|zeros| zeros.is_finite()) {
            let known = known.clamp(0.0, 1.0);
            return (known, known, known);
        }
        let mut seen = self
            .history
            .newest_first()
            .flat_map(|finished| &finished.devices)
            .filter(|moved| moved.device == lane.device && moved.state_bytes > 0)
            .map(super::Moved::zero_share)
            .take(CONTENT);
        // Who has nothing to go by counts on nothing.
        let Some(last) = seen.next() else {
            return (0.0, 0.0, 1.0);
        };
        let (least, most) = seen.fold((last, last), |(least, most), share| {
            (share.min(least), share.max(most))
        });
        ((least - 0.05).max(0.0), last, (most + 0.05).min(1.0))
    }

    fn correct(&self, work: &Work, share: f64) -> Correction {
        let mut ratios = Samples::default();
        let mut like = 0;
        for (age, seen) in self.history.aged() {
            let again = seen.work();
            let shares: Vec<f64> = again
                .lanes
                .iter()
                .map(|lane| lane.zeros.unwrap_or(0.0))
                .collect();
            let costs = learn::costs(&self.machine, &self.history, &again, seen.zero_share());
            let cores = usize::try_from(seen.cores).unwrap_or(1);
            let (modelled, _) = streaming(&again, &shares, &costs, cores);
            let ratio = seen.streaming.as_secs_f64() / modelled;
            if seen.is_of_a_source() && ratio > 0.0 {
                let weight = likeness(work, share, seen, age);
                like += u32::from(weight >= TELLING / 2.0);
                ratios.add(ratio.ln().clamp(-MOST.ln(), MOST.ln()), weight);
            }
        }
        let weight = ratios.weight();
        let edges = (ratios.quantile(0.1), ratios.quantile(0.9));
        ratios.add(0.0, MODEL);
        let middle = ratios.median().unwrap_or(0.0);
        // What the model alone is worth, and less room the more it was seen to be right.
        let room = if weight >= TELLING {
            0.06 + 0.3 / (1.0 + 2.0 * weight)
        } else {
            0.7
        };
        let (low, high) = match edges {
            (Some(low), Some(high)) => (low.min(middle), high.max(middle)),
            _ => (middle, middle),
        };
        Correction {
            factor: middle.exp(),
            low: (low - middle - room).exp(),
            high: (high - middle + room).exp(),
            weight,
            like: like.max(1),
        }
    }

    /// What surrounds the streams: hardly less, likely, hardly more. Nothing with no VM seen and none asked for.
    fn around(&self, work: &Work, share: f64) -> (f64, f64, f64) {
        let mut samples = Samples::default();
        for (age, seen) in self.history.aged() {
            if seen.is_of_a_source() {
                let weight = likeness(work, share, seen, age);
                samples.add(seen.around.as_secs_f64(), weight);
            }
        }
        let likely = samples.median().unwrap_or(AROUND);
        let edge = |samples: &mut Samples, share, factor: f64| {
            samples.quantile(share).unwrap_or(likely) * factor
        };
        let (low, high) = (edge(&mut samples, 0.1, 0.7), edge(&mut samples, 0.9, 1.5));
        (low, likely, high)
    }
}

/// Zeros of all lanes together, each counting the same: what is learned must not depend on sizes.
fn share(zeros: &[f64]) -> f64 {
    let count = zeros.len().max(1) as f64;
    (zeros.iter().sum::<f64>() / count).clamp(0.0, 1.0)
}

/// A time that a clock could show: never negative, a century at most.
fn duration(seconds: f64) -> Duration {
    const CENTURY: f64 = 3.2e9;
    Duration::from_secs_f64(if seconds.is_nan() {
        CENTURY
    } else {
        seconds.clamp(0.0, CENTURY)
    })
}
