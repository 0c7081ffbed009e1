// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bitmap of dirty pages in the caller's memory (drivers/vfio/iova_bitmap.c): bits are set, never cleared, and those that
//! stand for nothing are left alone.

use std::ops::RangeInclusive;

use super::{ioas, user, worker};
use crate::vf::Errno;

/// The bitmap: bit n is the page n of an IOVA range.
#[derive(Clone, Copy, Debug)]
pub struct Bitmap {
    address: usize,
    first: u64,
    last: u64,
    shift: u32,
}

impl Bitmap {
    /// For the bytes from `first` to `last`, with `1 << shift` bytes for each bit, at `address`.
    ///
    /// # Errors
    /// `EFAULT` when the caller does not have all of that memory; nothing is looked at before.
    pub fn new(address: u64, first: u64, last: u64, shift: u32) -> Result<Self, Errno> {
        const PAGE: u64 = ioas::PAGE;
        let bytes = (((last - first) >> shift) / 64 + 1) * 8;
        let end = address.checked_add(bytes - 1).ok_or(Errno::EFAULT)?;
        let start = address & !(PAGE - 1);
        let len = (end & !(PAGE - 1)) + PAGE - start;
        if address < PAGE || !worker::run(|| ioas::is_mapped(start, len)) {
            return Err(Errno::EFAULT);
        }
        let address = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        Ok(Self {
            address,
            first,
            last,
            shift,
        })
    }

    /// Sets the bits of the pages that `[first, last]` touches.
    pub fn set(&self, first: u64, last: u64) -> Result<(), Errno> {
        if last < self.first || first > self.last {
            return Ok(());
        }
        let bit = |iova: u64| (iova - self.first) >> self.shift;
        self.set_bits(bit(first.max(self.first))..=bit(last.min(self.last)))
    }

    fn set_bits(&self, bits: RangeInclusive<u64>) -> Result<(), Errno> {
        let (first, last) = bits.into_inner();
        for byte in first / 8..=last / 8 {
            let low = if byte == first / 8 { first % 8 } else { 0 };
            let high = if byte == last / 8 { last % 8 } else { 7 };
            let mask = (0xff_u8 << low) & (0xff_u8 >> (7 - high));
            let at = self.address + byte as usize;
            let old = if mask == 0xff {
                0
            } else {
                user::get::<u8>(at)?
            };
            user::put(at, old | mask)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_added_to_those_that_are_set() {
        let mut words = [0x8000_0000_0000_0001_u64, 0, 7];
        let at = words.as_mut_ptr() as u64;
        let bitmap = Bitmap::new(at, 0x10_0000, 0x10_0000 + 130 * 4096 - 1, 12).expect("mapped");
        bitmap.set(0x10_1800, 0x10_3000).expect("set");
        bitmap
            .set(0x10_0000 + 60 * 4096, 0x10_0000 + 72 * 4096)
            .expect("set");
        bitmap.set(0, 0xf_ffff).expect("outside");
        let mut seen = [0u8; 24];
        user::get_bytes(at as usize, &mut seen).expect("readable");
        let word =
            |i: usize| u64::from_le_bytes(seen[8 * i..8 * i + 8].try_into().expect("8 bytes"));
        assert_eq!(word(0), 0xf000_0000_0000_000f);
        assert_eq!(word(1), 0x1ff);
        assert_eq!(word(2), 7);
    }

    #[test]
    fn memory_that_the_caller_does_not_have_is_a_fault() {
        assert_eq!(Bitmap::new(0, 0, 0xfff, 12).err(), Some(Errno::EFAULT));
        assert_eq!(
            Bitmap::new(u64::MAX - 7, 0, u64::MAX >> 1, 12).err(),
            Some(Errno::EFAULT)
        );
    }
}
