// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Medians and spreads of few values.

/// What runs of one kind gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// Takes one more.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle; of an even number the lower of the two.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.at(1, 2)
    }

    /// The quartiles.
    #[must_use]
    pub fn quartiles(&self) -> (f64, f64) {
        (self.at(1, 4), self.at(3, 4))
    }

    /// The least and the most.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        (self.at(0, 1), self.at(1, 1))
    }

    fn at(&self, part: usize, of: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * part / of).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut figures = Self::default();
        values.into_iter().for_each(|value| figures.add(value));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_the_quartiles_around_it() {
        let figures: Figures = [5.0, 1.0, 4.0, 2.0, 3.0].into_iter().collect();
        assert_eq!(figures.median(), 3.0);
        assert_eq!(figures.quartiles(), (2.0, 4.0));
        assert_eq!(figures.range(), (1.0, 5.0));
    }

    #[test]
    fn of_nothing_there_is_no_median() {
        assert!(Figures::default().median().is_nan());
    }
}
