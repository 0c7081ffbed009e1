// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ranges of IOVA that a log watches, as a device with limits takes them. No memory, no locks.

use crate::host::DmaLogConfig;
use crate::vf::Errno;

/// First and last byte of a range.
pub type Range = (u64, u64);

/// What a device makes of a start: its granularity in bytes and the ranges that it watches, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// log2 of the granularity.
    pub shift: u32,
    /// Ranges, sorted, apart from each other.
    pub ranges: Vec<Range>,
}

impl Plan {
    /// Takes the hint for the granularity and the ranges of a start, sorted and apart from each other.
    ///
    /// # Errors
    /// `EINVAL` for no granularity or an empty range, `E2BIG` for more ranges than a device takes that joins none, `EOPNOTSUPP`
    /// for more bytes than it has memory for.
    pub fn new(limits: &DmaLogConfig, page: u64, mut ranges: Vec<Range>) -> Result<Self, Errno> {
        let hint = page.checked_ilog2().ok_or(Errno::EINVAL)?;
        let shift = hint.clamp(limits.min_page.ilog2(), limits.max_page.ilog2());
        if ranges.is_empty() || ranges.iter().any(|(first, last)| last < first) {
            return Err(Errno::EINVAL);
        }
        if ranges.len() > limits.ranges as usize {
            if limits.refuse_ranges {
                return Err(Errno::E2BIG);
            }
            join_nearest(&mut ranges, limits.ranges as usize);
        }
        // The device's address space is a power of two.
        let bytes: u128 = ranges.iter().map(|&r| len(r)).sum();
        if bytes.next_power_of_two() > u128::from(limits.bytes).next_power_of_two() {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(Self { shift, ranges })
    }
}

fn len((first, last): Range) -> u128 {
    u128::from(last - first) + 1
}

/// Joins neighbours, those with the smallest hole between them first, until `most` (at least 1) are left.
fn join_nearest(ranges: &mut Vec<Range>, most: usize) {
    while ranges.len() > most.max(1) {
        let hole = |i: &usize| ranges[i + 1].0 - ranges[*i].1;
        let Some(nearest) = (0..ranges.len() - 1).min_by_key(hole) else {
            return;
        };
        ranges[nearest].1 = ranges.remove(nearest + 1).1;
    }
}

/// Whether all of `asked` lies in `ranges`, which are sorted.
pub fn cover(ranges: &[Range], (first, last): Range) -> bool {
    let mut next = first;
    for &(from, to) in ranges.iter().filter(|r| r.1 >= first) {
        if from > next {
            return false;
        }
        if to >= last {
            return true;
        }
        next = to + 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut DmaLogConfig)) -> DmaLogConfig {
        let mut limits = DmaLogConfig::default();
        change(&mut limits);
        limits
    }

    #[test]
    fn the_granularity_is_the_hint_within_what_the_device_has() {
        let limits = limits(|l| (l.min_page, l.max_page) = (0x2000, 0x10000));
        for (hint, shift) in [
            (1, 13),
            (0x1000, 13),
            (0x2000, 13),
            (0x4000, 14),
            (0x7000, 14),
            (1 << 30, 16),
        ] {
            let plan = Plan::new(&limits, hint, vec![(0, 0xfff)]).expect("a plan");
            assert_eq!(plan.shift, shift, "{hint:#x}");
        }
        assert_eq!(Plan::new(&limits, 0, vec![(0, 1)]), Err(Errno::EINVAL));
    }

    #[test]
    fn too_many_ranges_are_joined_over_their_smallest_holes_or_refused() {
        let asked = vec![(0, 9), (20, 29), (31, 39), (1000, 1009)];
        let joining = limits(|l| l.ranges = 2);
        let plan = Plan::new(&joining, 4096, asked.clone()).expect("a plan");
        assert_eq!(plan.ranges, [(0, 39), (1000, 1009)]);
        let strict = limits(|l| (l.ranges, l.refuse_ranges) = (3, true));
        assert_eq!(Plan::new(&strict, 4096, asked), Err(Errno::E2BIG));
    }

    #[test]
    fn more_bytes_than_the_device_has_memory_for_are_not_supported() {
        let limits = limits(|l| l.bytes = 1 << 20);
        assert!(Plan::new(&limits, 4096, vec![(0, (1 << 20) - 1)]).is_ok());
        assert_eq!(
            Plan::new(&limits, 4096, vec![(0, 1 << 20)]),
            Err(Errno::EOPNOTSUPP)
        );
    }

    #[test]
    fn a_range_is_covered_by_neighbours_and_not_over_a_hole() {
        let ranges = [(10, 19), (20, 29), (40, 49)];
        for inside in [(10, 29), (15, 25), (40, 49), (20, 20)] {
            assert!(cover(&ranges, inside), "{inside:?}");
        }
        for outside in [(9, 12), (25, 40), (29, 30), (50, 60), (0, 5)] {
            assert!(!cover(&ranges, outside), "{outside:?}");
        }
        assert!(cover(&[(0, u64::MAX)], (5, u64::MAX)));
    }
}
