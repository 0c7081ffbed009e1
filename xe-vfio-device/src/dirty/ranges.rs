// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges of guest memory in order.

use super::{DirtyError, GuestRange, PAGE_SIZE};

/// The same memory as ranges in order, neighbours joined.
///
/// # Errors
/// [`DirtyError::Unaligned`] for what is not whole pages.
pub(super) fn normal(ranges: &[GuestRange]) -> Result<Vec<GuestRange>, DirtyError> {
    let mut sorted = ranges.to_vec();
    for &GuestRange { gpa, length } in ranges {
        let whole = gpa.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(PAGE_SIZE);
        if !whole || gpa.checked_add(length).is_none() {
            return Err(DirtyError::Unaligned { gpa, length });
        }
    }
    sorted.retain(|range| range.length > 0);
    sorted.sort_unstable();
    Ok(joined(sorted, 0))
}

/// The same memory in order and without overlaps, grown to whole pages: what is sent by several threads, so that no page is on
/// its way twice and the destination has the copy whose fingerprint was taken last.
pub fn disjoint(ranges: impl IntoIterator<Item = GuestRange>) -> Vec<GuestRange> {
    let whole = |GuestRange { gpa, length }| {
        let start = gpa / PAGE_SIZE * PAGE_SIZE;
        let end = gpa.saturating_add(length);
        let end = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(end);
        GuestRange {
            gpa: start,
            length: end - start,
        }
    };
    let mut sorted: Vec<_> = (ranges.into_iter())
        .filter(|range| range.length > 0)
        .map(whole)
        .collect();
    sorted.sort_unstable();
    joined(sorted, 0)
}

/// Sorted ranges with holes of at most `hole` bytes filled.
pub(super) fn joined(sorted: Vec<GuestRange>, hole: u64) -> Vec<GuestRange> {
    let mut joined: Vec<GuestRange> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.gpa <= last.gpa + last.length + hole => {
                last.length = last.length.max(range.gpa + range.length - last.gpa);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Whether all of `inner` lies in `outer`, both in order and joined; the first byte that does not otherwise.
pub(super) fn covers(outer: &[GuestRange], inner: &[GuestRange]) -> Result<(), DirtyError> {
    for range in inner {
        let around = outer
            .iter()
            .find(|o| o.gpa <= range.gpa && range.gpa < o.gpa + o.length);
        match around {
            Some(o) if range.gpa + range.length <= o.gpa + o.length => {}
            Some(o) => {
                return Err(DirtyError::Moved {
                    gpa: o.gpa + o.length,
                });
            }
            None => return Err(DirtyError::Moved { gpa: range.gpa }),
        }
    }
    Ok(())
}

/// All of both, in order and joined.
pub(super) fn union(a: &[GuestRange], b: &[GuestRange]) -> Vec<GuestRange> {
    let mut both = [a, b].concat();
    both.sort_unstable();
    joined(both, 0)
}

/// What of `outer` does not lie in `inner`, both in order and joined, appended to `to`.
pub(super) fn without(outer: &[GuestRange], inner: &[GuestRange], to: &mut Vec<GuestRange>) {
    for range in outer {
        let (mut at, end) = (range.gpa, range.gpa + range.length);
        let inside = inner.iter().filter(|i| i.gpa < end);
        for hole in inside.filter(|i| range.gpa < i.gpa + i.length) {
            if at < hole.gpa {
                let length = hole.gpa - at;
                to.push(GuestRange { gpa: at, length });
            }
            at = at.max(hole.gpa + hole.length);
        }
        if at < end {
            let length = end - at;
            to.push(GuestRange { gpa: at, length });
        }
    }
}

/// What of `range` lies in `within`, appended to `to`.
pub(super) fn clip(range: GuestRange, within: &[GuestRange], to: &mut Vec<GuestRange>) {
    for piece in within {
        let start = range.gpa.max(piece.gpa);
        let end = (range.gpa + range.length).min(piece.gpa + piece.length);
        if start < end {
            to.push(GuestRange {
                gpa: start,
                length: end - start,
            });
        }
    }
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
    fn memory_in_any_order_becomes_ranges_in_order() {
        let ranges = [
            range(8, 2),
            range(0, 0),
            range(2, 2),
            range(4, 1),
            range(3, 1),
        ];
        assert_eq!(normal(&ranges).unwrap(), [range(2, 3), range(8, 2)]);
        let crooked = GuestRange {
            gpa: 1,
            length: PAGE_SIZE,
        };
        assert!(matches!(
            normal(&[crooked]),
            Err(DirtyError::Unaligned { .. })
        ));
        let beyond = GuestRange {
            gpa: !(PAGE_SIZE - 1),
            length: 2 * PAGE_SIZE,
        };
        assert!(normal(&[beyond]).is_err());
    }

    #[test]
    fn disjoint_ranges_have_each_page_once() {
        let byte = GuestRange {
            gpa: 9 * PAGE_SIZE - 1,
            length: 2,
        };
        let ranges = [range(4, 4), byte, range(0, 0), range(5, 1), range(12, 1)];
        assert_eq!(disjoint(ranges), [range(4, 6), range(12, 1)]);
    }

    #[test]
    fn memory_outside_is_named_by_its_first_byte() {
        let outer = [range(2, 3), range(8, 2)];
        covers(&outer, &[range(2, 1), range(4, 1), range(8, 2)]).unwrap();
        let first_outside = |inner| match covers(&outer, &[inner]) {
            Err(DirtyError::Moved { gpa }) => gpa / PAGE_SIZE,
            other => panic!("{other:?}"),
        };
        assert_eq!(first_outside(range(4, 2)), 5);
        assert_eq!(first_outside(range(6, 1)), 6);
    }

    #[test]
    fn what_is_taken_out_of_ranges_and_put_back_are_the_same_ranges() {
        let outer = [range(2, 10), range(20, 2), range(30, 1)];
        let inner = [
            range(0, 3),
            range(5, 1),
            range(8, 1),
            range(11, 9),
            range(21, 20),
        ];
        let mut left = Vec::new();
        without(&outer, &inner, &mut left);
        assert_eq!(left, [range(3, 2), range(6, 2), range(9, 2), range(20, 1)]);
        let mut taken = Vec::new();
        inner.iter().for_each(|i| clip(*i, &outer, &mut taken));
        assert_eq!(union(&left, &taken), outer);
    }

    #[test]
    fn only_what_is_mapped_is_left_of_a_range() {
        let mut left = Vec::new();
        clip(
            range(0, 20),
            &[range(2, 3), range(8, 2), range(30, 1)],
            &mut left,
        );
        assert_eq!(left, [range(2, 3), range(8, 2)]);
    }
}
