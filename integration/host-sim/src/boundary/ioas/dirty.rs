// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty bits of an IOMMU's page table (IOMMU_HWPT_ALLOC_DIRTY_TRACKING).
//!
//! As in an IOPTE, a bit belongs to a mapping: it is gone with it. Bits are set only while tracking is on; what is set stays when it
//! is switched off, and switching it on clears everything.
//!
//! Whoever writes by DMA holds the address space over the write and the bit, and whoever reads bits holds it too, so that no
//! reader comes between a page's data and its bit, and none sees the bit before the data.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::PAGE;
use crate::boundary::lock::Lock;

/// Bytes of IOVA in a chunk: a page of bits.
const CHUNK: u64 = 512 * 64 * PAGE;

/// Dirty bits of a page table of this process.
#[derive(Debug, Default)]
pub struct PageTable {
    tracking: AtomicBool,
    chunks: Lock<BTreeMap<u64, Box<[u64; 512]>>>,
}

impl PageTable {
    /// Whether writes set bits.
    pub fn is_tracking(&self) -> bool {
        self.tracking.load(Ordering::Acquire)
    }

    /// Switches tracking.
    pub(super) fn set_tracking(&self, on: bool) {
        if on {
            self.chunks.lock().clear();
        }
        self.tracking.store(on, Ordering::Release);
    }

    /// The bytes from `first` to `last` have been written.
    pub(super) fn mark(&self, first: u64, last: u64) {
        let mut chunks = self.chunks.lock();
        for (chunk, word, mask) in words(first, last) {
            chunks.entry(chunk).or_insert_with(|| Box::new([0; 512]))[word] |= mask;
        }
    }

    /// Takes the bits of the bytes from `first` to `last` away.
    pub(super) fn clear(&self, first: u64, last: u64) {
        let mut chunks = self.chunks.lock();
        let ids: Vec<_> = chunks
            .range(first / CHUNK..=last / CHUNK)
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            let (begin, end) = (id * CHUNK, id * CHUNK + (CHUNK - 1));
            if first <= begin && end <= last {
                chunks.remove(&id);
            } else if let Some(bits) = chunks.get_mut(&id) {
                for (_, word, mask) in words(first.max(begin), last.min(end)) {
                    bits[word] &= !mask;
                }
            }
        }
    }

    /// Tells the pages with a bit in `first` to `last`, in order, neighbours together.
    pub(super) fn each(&self, first: u64, last: u64, mut each: impl FnMut(u64, u64)) {
        let chunks = self.chunks.lock();
        let mut run: Option<(u64, u64)> = None;
        for (&id, bits) in chunks.range(first / CHUNK..=last / CHUNK) {
            let begin = id * CHUNK;
            let window = (first.max(begin), last.min(begin + (CHUNK - 1)));
            for (_, word, mask) in words(window.0, window.1) {
                let mut left = bits[word] & mask;
                while left != 0 {
                    let page = begin + (word as u64 * 64 + u64::from(left.trailing_zeros())) * PAGE;
                    left &= left - 1;
                    run = match run {
                        Some((a, b)) if b + 1 == page => Some((a, page + (PAGE - 1))),
                        Some((a, b)) => {
                            each(a, b);
                            Some((page, page + (PAGE - 1)))
                        }
                        None => Some((page, page + (PAGE - 1))),
                    };
                }
            }
        }
        if let Some((a, b)) = run {
            each(a, b);
        }
    }
}

/// Chunk, word in it and bits of the pages from `first` to `last`.
fn words(first: u64, last: u64) -> impl Iterator<Item = (u64, usize, u64)> {
    let (start, end) = (first / PAGE, last / PAGE);
    (start / 64..=end / 64).map(move |word| {
        let low = if word == start / 64 { start % 64 } else { 0 };
        let high = if word == end / 64 { end % 64 } else { 63 };
        let mask = (u64::MAX << low) & (u64::MAX >> (63 - high));
        (word / 512, (word % 512) as usize, mask)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(table: &PageTable, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        table.each(first, last, |a, b| all.push((a, b)));
        all
    }

    #[test]
    fn bits_are_set_told_and_cleared_over_the_borders_of_chunks() {
        let table = PageTable::default();
        table.mark(CHUNK - 1, CHUNK);
        table.mark(5 * CHUNK + 0x3800, 5 * CHUNK + 0x4000);
        assert_eq!(
            all(&table, 0, u64::MAX),
            [
                (CHUNK - PAGE, CHUNK + PAGE - 1),
                (5 * CHUNK + 0x3000, 5 * CHUNK + 0x4fff)
            ]
        );
        assert_eq!(all(&table, CHUNK, CHUNK + PAGE - 1).len(), 1);
        assert_eq!(all(&table, CHUNK + PAGE, 5 * CHUNK + 0x2fff), []);
        table.clear(CHUNK, 5 * CHUNK + 0x3fff);
        assert_eq!(
            all(&table, 0, u64::MAX),
            [
                (CHUNK - PAGE, CHUNK - 1),
                (5 * CHUNK + 0x4000, 5 * CHUNK + 0x4fff)
            ]
        );
        table.set_tracking(true);
        assert_eq!(all(&table, 0, u64::MAX), []);
    }
}
