// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bitmaps in which the kernel answers: bit n of them is the nth unit of a range.

use super::GuestRange;

/// Bytes of memory whose bits are asked for at once: 64 KiB of bitmap at 4 KiB per bit.
pub(super) const WINDOW: u64 = 2 << 30;

/// A bitmap for `length` bytes in units of `unit`, all bits clear.
pub(super) fn empty(length: u64, unit: u64) -> Vec<u64> {
    let bits = length.div_ceil(unit);
    vec![0; usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX)]
}

/// The runs of set bits as memory from `gpa` on, at most `length` bytes.
pub(super) fn runs(bitmap: &[u64], gpa: u64, length: u64, unit: u64) -> Vec<GuestRange> {
    let mut runs: Vec<GuestRange> = Vec::new();
    for (index, word) in bitmap.iter().enumerate().filter(|(_, word)| **word != 0) {
        let mut rest = *word;
        let mut at = 64 * index as u64;
        while rest != 0 {
            let zeros = u64::from(rest.trailing_zeros());
            rest >>= zeros;
            let ones = u64::from(rest.trailing_ones());
            at += zeros;
            let start = at * unit;
            let end = ((at + ones) * unit).min(length);
            at += ones;
            rest = if ones == 64 { 0 } else { rest >> ones };
            if start >= end {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.gpa + last.length == gpa + start => last.length += end - start,
                _ => runs.push(GuestRange {
                    gpa: gpa + start,
                    length: end - start,
                }),
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_set_bit_is_in_a_run_and_no_other(
            words in proptest::collection::vec(
                prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..5),
            shift in 12u32..22,
            short in 0u64..3,
        ) {
            let unit = 1 << shift;
            let bits = 64 * words.len() as u64;
            let length = (bits * unit).saturating_sub(short * unit / 2);
            let runs = runs(&words, 1 << 30, length, unit);
            for bit in 0..bits {
                let set = words[bit as usize / 64] >> (bit % 64) & 1 == 1;
                let start = (1 << 30) + bit * unit;
                let end = (start + unit).min((1 << 30) + length);
                let inside = runs.iter().any(|r| r.gpa <= start && end <= r.gpa + r.length && start < end);
                prop_assert_eq!(inside, set && start < end, "bit {}", bit);
            }
            prop_assert!(runs.windows(2).all(|w| w[0].gpa + w[0].length < w[1].gpa));
            prop_assert!(runs.iter().all(|r| r.gpa + r.length <= (1 << 30) + length));
        }
    }
}
