// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long the GPUs may stand still while the guest runs, before the guest's driver would call them hung.
//!
//! A prediction decides whether memory is compared with the guest running; a deadline holds where the prediction was wrong: what is
//! not compared and sent by then is compared and sent while the guest stands still, where it costs downtime and nothing else.

use std::fmt;
use std::time::{Duration, Instant};

use super::Scanned;

/// What the user allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Longest time in RUNNING_P2P with the vCPUs running. None at all means: only with the guest stopped.
    pub limit: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(1),
        }
    }
}

/// What it will take, from what it took before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// To compare memory.
    pub scan: Duration,
    /// To send what differs.
    pub send: Duration,
    /// Whether both fit into the pause.
    pub fits: bool,
}

impl Pause {
    /// Predicts from the last comparison, and from the rate at which memory was sent, in bytes per second.
    pub fn predict(&self, last: &Scanned, send_rate: f64) -> Prediction {
        let scan = last.took;
        let send = last.dirty as f64 / send_rate.max(1.0);
        let send = Duration::try_from_secs_f64(send).unwrap_or(Duration::MAX);
        Prediction {
            scan,
            send,
            fits: scan.saturating_add(send) <= self.limit,
        }
    }

    /// When a pause that begins now has to be over.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (scan, send) = (ms(self.scan), ms(self.send));
        write!(
            f,
            "{scan:.1} ms to compare memory, {send:.1} ms to send what differs"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(ms: u64, dirty: u64) -> Scanned {
        Scanned {
            covered: 1 << 30,
            read: 1 << 30,
            dirty,
            left: 0,
            took: Duration::from_millis(ms),
            cpu: Duration::from_millis(ms),
        }
    }

    #[test]
    fn a_pause_has_to_hold_the_comparison_and_what_it_finds() {
        let pause = Pause::default();
        assert!(pause.predict(&took(600, 400), 1000.0).fits);
        assert!(!pause.predict(&took(600, 401), 1000.0).fits);
        assert!(!pause.predict(&took(1001, 0), 1000.0).fits);
        assert!(!pause.predict(&took(1, 1 << 20), 0.0).fits);
    }

    #[test]
    fn no_pause_at_all_leaves_everything_to_the_stop() {
        let pause = Pause {
            limit: Duration::ZERO,
        };
        assert!(!pause.predict(&took(1, 0), 1e9).fits);
    }
}
