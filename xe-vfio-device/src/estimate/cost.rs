// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a byte costs.

use std::fmt;
use std::time::Duration;

/// Time per byte: never negative, always finite. Costs add up where rates do not.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Cost(f64);

impl Cost {
    /// Nothing.
    pub const FREE: Self = Self(0.0);

    /// What `bytes` that took `time` cost each; `None` for no bytes.
    pub fn of(time: Duration, bytes: u64) -> Option<Self> {
        (bytes > 0).then(|| Self(time.as_secs_f64() / bytes as f64))
    }

    /// The cost at a rate in bytes per second; `None` for a rate that is none.
    pub fn per_second(bytes: f64) -> Option<Self> {
        (bytes.is_finite() && bytes >= 1.0).then(|| Self(1.0 / bytes))
    }

    /// Seconds that so many bytes take.
    pub fn seconds(self, bytes: f64) -> f64 {
        self.0 * bytes.max(0.0)
    }

    /// Bytes per second; `None` when they cost nothing.
    pub fn rate(self) -> Option<f64> {
        (self.0 > 0.0).then(|| 1.0 / self.0)
    }

    /// Seconds per byte.
    pub(super) fn get(self) -> f64 {
        self.0
    }

    /// From seconds per byte; what is no cost is none.
    pub(super) fn new(seconds: f64) -> Self {
        Self(if seconds.is_finite() {
            seconds.max(0.0)
        } else {
            0.0
        })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate() {
            Some(rate) => write!(f, "{:.2} GB/s", rate / 1e9),
            None => f.write_str("free"),
        }
    }
}
