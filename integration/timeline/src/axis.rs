// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a time is on a line, and which times to name.

use crate::Span;

/// Times to be named, at most.
const TICKS: f64 = 10.0;

/// A stretch of time on a stretch of pixels.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    from: f64,
    scale: f64,
    left: f64,
    width: f64,
}

impl Axis {
    /// Shows `span` on `width` pixels from `left` on.
    pub fn new(span: Span, left: f64, width: f64) -> Self {
        Self {
            from: span.at_ms,
            scale: width / span.ms.max(1e-3),
            left,
            width,
        }
    }

    /// Where a time is; what lies outside is at the edge.
    pub fn x(&self, at: f64) -> f64 {
        self.left + ((at - self.from) * self.scale).clamp(0.0, self.width)
    }

    /// Where a span is and how wide; `None` when it is not on the axis at all.
    pub fn place(&self, span: &Span) -> Option<(f64, f64)> {
        let until = self.from + self.width / self.scale;
        if span.end() < self.from || span.at_ms > until {
            return None;
        }
        let x = self.x(span.at_ms);
        // What is too short to be seen is seen all the same.
        Some((x, (self.x(span.end()) - x).max(1.5)))
    }

    /// Round times on the axis.
    pub fn ticks(&self) -> Vec<f64> {
        let length = self.width / self.scale;
        let rough = length / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough)
            .unwrap_or(10.0 * power);
        let first = (self.from / step).ceil() as i64;
        (first..)
            .map(|number| number as f64 * step)
            .take_while(|at| *at <= self.from + length)
            .collect()
    }
}
