// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fingerprint per page: 16 bytes for 4 KiB, in memory that is taken when it is first written.

use crate::dirty::{GuestRange, PAGE_SIZE};

/// No page has this one: what the destination has is not known.
const UNKNOWN: u128 = u128::MAX;

/// Fingerprints of what the destination has; it has zeros until something else was sent.
#[derive(Default)]
pub(super) struct Table {
    segments: Vec<Segment>,
}

struct Segment {
    range: GuestRange,
    fingerprints: Vec<u128>,
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes / PAGE_SIZE).unwrap_or(usize::MAX)
}

fn end(range: GuestRange) -> u64 {
    range.gpa.saturating_add(range.length)
}

impl Table {
    /// Takes in memory, which is in order and joined, as far as it is not in yet.
    pub(super) fn cover(&mut self, memory: &[GuestRange]) {
        for range in memory {
            let mut at = range.gpa;
            while at < end(*range) {
                let next = self.segments.iter().find(|s| end(s.range) > at);
                let stop = match next {
                    Some(s) if s.range.gpa <= at => {
                        at = end(s.range);
                        continue;
                    }
                    Some(s) => s.range.gpa.min(end(*range)),
                    None => end(*range),
                };
                let new = GuestRange {
                    gpa: at,
                    length: stop - at,
                };
                let fingerprints = vec![0; index(new.length)];
                let place = self.segments.partition_point(|s| s.range.gpa < at);
                self.segments.insert(
                    place,
                    Segment {
                        range: new,
                        fingerprints,
                    },
                );
                at = stop;
            }
        }
    }

    /// What is covered, in order.
    pub(super) fn ranges(&self) -> Vec<GuestRange> {
        let ranges = self.segments.iter().map(|segment| segment.range).collect();
        crate::dirty::ranges::joined(ranges, 0)
    }

    /// Bytes of memory that it takes at most.
    pub(super) fn size(&self) -> u64 {
        let pages = |s: &Segment| s.fingerprints.len() as u64;
        self.segments.iter().map(pages).sum::<u64>() * 16
    }

    /// The fingerprint of a page; `None` when it is not covered.
    pub(super) fn get(&self, gpa: u64) -> Option<u128> {
        let place = self.segments.partition_point(|s| end(s.range) <= gpa);
        let segment = self.segments.get(place)?;
        let offset = gpa.checked_sub(segment.range.gpa)?;
        segment.fingerprints.get(index(offset)).copied()
    }

    /// Notes what the destination has of a page; nothing when it is not covered.
    pub(super) fn set(&mut self, gpa: u64, fingerprint: u128) {
        let place = self.segments.partition_point(|s| end(s.range) <= gpa);
        if let Some(segment) = self.segments.get_mut(place)
            && let Some(offset) = gpa.checked_sub(segment.range.gpa)
            && let Some(known) = segment.fingerprints.get_mut(index(offset))
        {
            // One in 2^128 pages is sent once more for this.
            *known = fingerprint;
        }
    }

    /// Notes that nothing is known of a page.
    pub(super) fn forget(&mut self, gpa: u64) {
        self.set(gpa, UNKNOWN);
    }
}

/// Whether a page that holds `now` is what the destination has.
pub(super) fn same(known: Option<u128>, now: u128) -> bool {
    known.is_some_and(|known| known == now && known != UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, pages: u64) -> GuestRange {
        GuestRange {
            gpa: first * PAGE_SIZE,
            length: pages * PAGE_SIZE,
        }
    }

    #[test]
    fn memory_of_a_second_vf_is_added_and_what_is_known_stays() {
        let mut table = Table::default();
        table.cover(&[range(4, 4)]);
        table.set(5 * PAGE_SIZE, 55);
        table.cover(&[range(0, 2), range(3, 8)]);
        assert_eq!(table.ranges(), [range(0, 2), range(3, 8)]);
        assert_eq!(table.size(), 10 * 16);
        let at = |page: u64| table.get(page * PAGE_SIZE);
        assert_eq!(
            (at(5), at(3), at(10), at(2), at(11)),
            (Some(55), Some(0), Some(0), None, None)
        );
    }

    #[test]
    fn a_page_of_which_nothing_is_known_is_the_same_as_none() {
        let mut table = Table::default();
        table.cover(&[range(0, 1)]);
        assert!(same(table.get(0), 0));
        table.forget(0);
        assert!(!same(table.get(0), 0) && !same(table.get(0), u128::MAX));
    }
}
