// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where RAM lies in the guest's address space: from 0 up to the 32-bit BARs, and what is left of it from 4 GiB on.
//!
//! The file behind RAM has no such hole: a [`Region`] knows both places.

use super::{Error, PAGE_SIZE};

/// First address that is not RAM at any size: 32-bit BARs and the interrupt controllers live from here to 4 GiB.
pub const LOW_END: u64 = 3 << 30;
/// Where RAM goes on.
pub const HIGH_START: u64 = 4 << 30;
/// First address above RAM of any size: 64-bit BARs live from here on.
pub const HIGH_END: u64 = 32 << 30;
/// Smallest RAM that a guest is given, in bytes.
pub const RAM_MIN: u64 = 4 << 20;
/// Largest RAM, in bytes.
pub const RAM_MAX: u64 = LOW_END + (HIGH_END - HIGH_START);

/// RAM in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Where it begins in the file.
    pub offset: u64,
}

impl Region {
    /// First address after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.gpa + self.size
    }

    /// Where an address of this region is in the file.
    #[must_use]
    pub fn offset_of(&self, gpa: u64) -> u64 {
        gpa - self.gpa + self.offset
    }
}

/// All of a guest's RAM, in one piece or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    low: Region,
    high: Option<Region>,
}

impl Layout {
    /// Of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Size`] for what is not made of pages, too little or too much.
    pub fn new(size: u64) -> Result<Self, Error> {
        if !size.is_multiple_of(PAGE_SIZE) || !(RAM_MIN..=RAM_MAX).contains(&size) {
            return Err(Error::Size(size));
        }
        let low = Region {
            gpa: 0,
            size: size.min(LOW_END),
            offset: 0,
        };
        let high = (size > LOW_END).then(|| Region {
            gpa: HIGH_START,
            size: size - LOW_END,
            offset: LOW_END,
        });
        Ok(Self { low, high })
    }

    /// Its pieces, upwards.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        std::iter::once(&self.low).chain(&self.high)
    }

    /// Bytes of all of it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.regions().map(|region| region.size).sum()
    }

    /// The piece that holds all of a range.
    ///
    /// # Errors
    /// [`Error::Range`], also for a range that begins in one piece and ends in another.
    pub fn find(&self, gpa: u64, length: u64) -> Result<&Region, Error> {
        let size = self.size();
        let end = gpa.checked_add(length);
        self.regions()
            .find(|r| r.gpa <= gpa && end.is_some_and(|end| end <= r.end()))
            .ok_or(Error::Range { gpa, length, size })
    }

    /// What of `start..end` is RAM, as (start, end), upwards.
    pub fn clip(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        self.regions()
            .map(move |r| (start.max(r.gpa), end.min(r.end())))
            .filter(|(start, end)| start < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_of_more_than_3_gib_goes_on_at_4_gib() {
        let layout = Layout::new(8 << 30).unwrap();
        let pieces: Vec<_> = layout.regions().map(|r| (r.gpa, r.end())).collect();
        assert_eq!(pieces, [(0, 3 << 30), (4 << 30, 9 << 30)]);
        assert_eq!(layout.size(), 8 << 30);
        let high = layout.find(4 << 30, 5 << 30).unwrap();
        assert_eq!(high.offset_of(5 << 30), 4 << 30);
        assert_eq!(Layout::new(LOW_END).unwrap().regions().count(), 1);
    }

    #[test]
    fn a_range_that_leaves_its_piece_is_not_ram() {
        let layout = Layout::new(4 << 30).unwrap();
        assert!(layout.find(LOW_END - PAGE_SIZE, PAGE_SIZE).is_ok());
        for (gpa, length) in [
            (LOW_END - PAGE_SIZE, 2 * PAGE_SIZE),
            (LOW_END, PAGE_SIZE),
            (0, HIGH_START + PAGE_SIZE),
            (HIGH_START - 1, 1),
            (HIGH_START, (1 << 30) + 1),
            (u64::MAX, 2),
        ] {
            let found = layout.find(gpa, length);
            assert!(matches!(found, Err(Error::Range { .. })), "{gpa:#x}");
        }
        let clipped: Vec<_> = layout.clip(LOW_END - 5, u64::MAX).collect();
        assert_eq!(clipped, [(LOW_END - 5, LOW_END), (4 << 30, 5 << 30)]);
    }

    #[test]
    fn a_size_that_would_reach_into_the_64_bit_bars_is_refused() {
        let top = Layout::new(RAM_MAX).unwrap();
        assert_eq!(top.regions().last().unwrap().end(), HIGH_END);
        for size in [RAM_MAX + PAGE_SIZE, RAM_MIN + 1, 0] {
            assert!(
                matches!(Layout::new(size), Err(Error::Size(_))),
                "{size:#x}"
            );
        }
    }
}
