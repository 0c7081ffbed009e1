// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who did what when in a migration, and a picture of it.
//!
//! A [`Timeline`] is plain data: a VMM fills it while it migrates, its answer carries it as JSON. [`svg`] makes a picture of it and
//! nothing else: the same timeline gives the same text, on any machine.

mod axis;
mod picture;
mod style;
#[cfg(test)]
mod tests;
mod text;

use serde::{Deserialize, Serialize};

pub use picture::svg;

/// Times of a migration in milliseconds since it began, by one clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// In the order in which they were noted; a lane is where its first bar is.
    pub bars: Vec<Bar>,
    /// When the guest stood still.
    pub downtime: Option<Span>,
    /// What was predicted for it, and how sure that was.
    pub predicted: Option<Predicted>,
}

/// Something that took time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Whose it is: `source`, `vf0 source`, `guest` ...
    pub lane: String,
    /// What it is.
    pub name: String,
    /// When, and how long.
    #[serde(flatten)]
    pub span: Span,
    /// Bytes that it has moved, if it moves any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A time with a beginning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Beginning.
    pub at_ms: f64,
    /// Duration.
    pub ms: f64,
}

impl Span {
    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> f64 {
        self.at_ms + self.ms
    }

    /// Whether a picture can be made of it.
    fn is_sound(&self) -> bool {
        self.at_ms.is_finite() && self.ms.is_finite() && self.ms >= 0.0
    }
}

/// A prediction of the downtime.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// The best guess.
    pub likely_ms: f64,
    /// Hardly less.
    pub low_ms: f64,
    /// Hardly more.
    pub high_ms: f64,
}

impl Timeline {
    /// Notes something.
    pub fn note(&mut self, lane: &str, name: &str, span: Span, bytes: Option<u64>) {
        self.bars.push(Bar {
            lane: lane.to_owned(),
            name: name.to_owned(),
            span,
            bytes,
        });
    }

    /// Its lanes, in order.
    fn lanes(&self) -> Vec<&str> {
        let mut lanes: Vec<&str> = Vec::new();
        for bar in &self.bars {
            if !lanes.contains(&bar.lane.as_str()) {
                lanes.push(&bar.lane);
            }
        }
        lanes
    }
}
