// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! BARs: where they lie, which of their pages the guest reaches directly and which the VMM answers for.

use std::ops::Range;

use crate::memory::{HIGH_END, LOW_END, PAGE_SIZE};

/// Where 32-bit BARs may lie: above low RAM, below the I/O APIC.
pub const WINDOW_32: Range<u64> = LOW_END..0xfec0_0000;
/// Where 64-bit BARs may lie: above all RAM, within 40 bits of physical address.
pub const WINDOW_64: Range<u64> = HIGH_END..1 << 40;

/// A memory BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Index of its (first) register.
    pub index: u8,
    /// Guest physical address.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
    /// Takes two registers.
    pub is_64bit: bool,
    /// Reads have no side effects.
    pub prefetchable: bool,
}

impl Bar {
    /// The read-only low bits of its register.
    #[must_use]
    pub fn flags(&self) -> u32 {
        u32::from(self.is_64bit) << 2 | u32::from(self.prefetchable) << 3
    }

    /// Whether its address is one at which the VMM shows BARs; while a guest asks for sizes, it is not.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        let window = if self.is_64bit && self.address >= WINDOW_64.start {
            WINDOW_64
        } else {
            WINDOW_32
        };
        window.contains(&self.address)
            && self
                .address
                .checked_add(self.size)
                .is_some_and(|end| end <= window.end)
    }
}

/// Places BARs as firmware would, upwards and aligned to their size.
#[derive(Debug, Clone)]
pub struct Placer {
    next_32: u64,
    next_64: u64,
}

impl Default for Placer {
    fn default() -> Self {
        Self {
            next_32: WINDOW_32.start,
            next_64: WINDOW_64.start,
        }
    }
}

impl Placer {
    /// The address for a BAR; none when its window is full.
    pub fn place(&mut self, size: u64, is_64bit: bool) -> Option<u64> {
        let (next, window) = if is_64bit {
            (&mut self.next_64, WINDOW_64)
        } else {
            (&mut self.next_32, WINDOW_32)
        };
        let address = next.checked_next_multiple_of(size)?;
        let end = address.checked_add(size).filter(|end| *end <= window.end)?;
        *next = end;
        Some(address)
    }
}

/// A run of pages of a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// From the BAR's start.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// The guest reaches it without the VMM.
    pub direct: bool,
}

/// Divides a BAR of `size` bytes: direct is what may be mapped (`mappable`) and holds nothing that must be `trapped`.
///
/// Everything is rounded to pages, in the direction that traps more.
#[must_use]
pub fn divide(size: u64, mappable: &[Range<u64>], trapped: &[Range<u64>]) -> Vec<Piece> {
    let mut cuts = vec![0, size];
    for range in mappable {
        cuts.extend([
            range.start.next_multiple_of(PAGE_SIZE),
            range.end - range.end % PAGE_SIZE,
        ]);
    }
    for range in trapped {
        cuts.extend([
            range.start - range.start % PAGE_SIZE,
            range.end.next_multiple_of(PAGE_SIZE),
        ]);
    }
    cuts.retain(|cut| *cut <= size);
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces: Vec<Piece> = Vec::new();
    for cut in cuts.windows(2) {
        let (offset, end) = (cut[0], cut[1]);
        let inside = |r: &Range<u64>| r.start <= offset && end <= r.end;
        let touches = |r: &Range<u64>| r.start < end && offset < r.end;
        let whole_pages = offset.is_multiple_of(PAGE_SIZE) && end.is_multiple_of(PAGE_SIZE);
        let direct = whole_pages && mappable.iter().any(inside) && !trapped.iter().any(touches);
        match pieces.last_mut() {
            Some(last) if last.direct == direct => last.size += end - offset,
            _ => pieces.push(Piece {
                offset,
                size: end - offset,
                direct,
            }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn piece(offset: u64, size: u64, direct: bool) -> Piece {
        Piece {
            offset,
            size,
            direct,
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one range is what is meant
    fn the_msix_page_is_cut_out_of_a_mapped_bar() {
        let pieces = divide(
            0x80_0000,
            &[0..0x80_0000],
            &[0x1000..0x1040, 0x1800..0x1808],
        );
        assert_eq!(
            pieces,
            [
                piece(0, 0x1000, true),
                piece(0x1000, 0x1000, false),
                piece(0x2000, 0x7f_e000, true)
            ]
        );
    }

    #[test]
    fn a_bar_that_cannot_be_mapped_is_trapped_whole() {
        assert_eq!(divide(0x4000, &[], &[]), [piece(0, 0x4000, false)]);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one range is what is meant
    fn a_page_that_is_mappable_in_part_is_trapped() {
        assert_eq!(
            divide(0x3000, &[0x800..0x2800], &[]),
            [
                piece(0, 0x1000, false),
                piece(0x1000, 0x1000, true),
                piece(0x2000, 0x1000, false)
            ]
        );
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one range is what is meant
    fn a_bar_smaller_than_a_page_is_trapped() {
        assert_eq!(divide(0x100, &[0..0x100], &[]), [piece(0, 0x100, false)]);
    }

    #[test]
    fn bars_are_placed_aligned_apart_and_never_beyond_the_window() {
        let mut placer = Placer::default();
        assert_eq!(placer.place(0x1000, false), Some(0xc000_0000));
        assert_eq!(placer.place(8 << 20, false), Some(0xc080_0000));
        assert_eq!(placer.place(1 << 30, false), None);
        assert_eq!(placer.place(4 << 30, true), Some(1 << 35));
    }

    #[test]
    fn the_question_for_the_size_places_nothing() {
        let bar = Bar {
            index: 0,
            address: 0xff80_0000,
            size: 8 << 20,
            is_64bit: false,
            prefetchable: false,
        };
        assert!(!bar.is_placed());
        assert!(
            Bar {
                address: 0xc000_0000,
                ..bar
            }
            .is_placed()
        );
        assert!(
            !Bar {
                address: 0xffff_ffff_fc00_0000,
                is_64bit: true,
                ..bar
            }
            .is_placed()
        );
    }
}
