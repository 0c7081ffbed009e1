// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether another pass over guest memory is worth it.

use std::time::Duration;

use super::{Estimate, Estimator, Work};

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// Longest downtime.
    pub downtime: Duration,
}

/// What to do before the next pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Stop the guest: the goal is met as far as anybody can tell.
    Fits(Estimate),
    /// Send what is dirty once more.
    Again(Estimate),
    /// The goal cannot be met: what no pass makes less takes longer alone.
    NoPassHelps {
        /// As things are.
        now: Estimate,
        /// With no dirty memory at all.
        least: Duration,
    },
    /// The goal is not met, and memory is written as fast as it is sent.
    NotShrinking(Estimate),
}

/// Decides from the work as it is now. `left` are the bytes of guest memory that are sent at the end whatever was sent before, and
/// `before` those that were dirty when this was asked the last time.
pub fn converge(
    goal: Goal,
    estimator: &Estimator,
    work: &Work,
    left: u64,
    before: Option<u64>,
) -> Verdict {
    let now = estimator.estimate(work);
    if now.likely <= goal.downtime {
        return Verdict::Fits(now);
    }
    let least = estimator
        .estimate(&work.with_memory(left.min(work.memory_bytes)))
        .likely;
    if least > goal.downtime {
        return Verdict::NoPassHelps { now, least };
    }
    // A tenth less in a pass would take dozens of them.
    if before.is_some_and(|before| work.memory_bytes > before - before / 10) {
        return Verdict::NotShrinking(now);
    }
    Verdict::Again(now)
}
