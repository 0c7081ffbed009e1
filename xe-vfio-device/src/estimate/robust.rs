// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Middles and edges of what was observed, which a few odd observations do not move.

/// Observations with weights.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<(f64, f64)>);

impl Samples {
    /// Takes one; what is no number or has no weight is left out.
    pub(super) fn add(&mut self, value: f64, weight: f64) {
        if value.is_finite() && weight.is_finite() && weight > 0.0 {
            self.0.push((value, weight));
        }
    }

    pub(super) fn weight(&self) -> f64 {
        self.0.iter().map(|(_, weight)| weight).sum()
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that a share of the weight is below, between observations in proportion.
    pub(super) fn quantile(&mut self, share: f64) -> Option<f64> {
        self.0.sort_by(|a, b| a.0.total_cmp(&b.0));
        let goal = self.weight() * share.clamp(0.0, 1.0);
        let mut before = 0.0;
        let mut last: Option<(f64, f64)> = None;
        for (value, weight) in &self.0 {
            // An observation sits in the middle of its weight.
            let at = before + weight / 2.0;
            if at >= goal {
                return Some(match last {
                    Some((from, lower)) if at > from => {
                        lower + (value - lower) * (goal - from) / (at - from)
                    }
                    _ => *value,
                });
            }
            last = Some((at, *value));
            before += weight;
        }
        last.map(|(_, value)| value)
    }

    pub(super) fn median(&mut self) -> Option<f64> {
        self.quantile(0.5)
    }
}
