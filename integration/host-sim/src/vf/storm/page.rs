// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a storm writes into a page, and what a look at a page tells. No memory, no locks.
//!
//! Four words say who wrote it: magic, number of the write, page, and a hash of these and the storm's seed. The words after them follow
//! from the hash, so that any mixture of two writes is noticed.

/// Bytes that say who wrote a page, and fewest bytes of a write.
pub const HEADER: usize = 32;
/// Bytes of a page, and most bytes of a write.
pub const PAGE: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"hs storm");

/// What is in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of the write with this number.
    Write(u64),
    /// Parts of a write.
    Torn,
    /// Nothing that this storm wrote there.
    Foreign,
}

/// Fills `unit` with write `number` to page `page`.
pub fn fill(unit: &mut [u8], seed: u64, page: u64, number: u64) {
    let hash = hash(seed, page, number);
    let head = [MAGIC, number, page, hash];
    for (i, word) in unit.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let value = head.get(i).copied().unwrap_or_else(|| body(hash, i));
        *word = value.to_le_bytes();
    }
}

/// What `unit`, the beginning of page `page`, holds.
pub fn look(unit: &[u8], seed: u64, page: u64) -> Content {
    let words = unit.as_chunks::<8>().0;
    let [magic, number, at, sum, rest @ ..] = words else {
        return Content::Foreign;
    };
    let [magic, number, at, sum] = [magic, number, at, sum].map(|w| u64::from_le_bytes(*w));
    if magic != MAGIC || at != page {
        // The end of a write without its beginning cannot be told from other data, and need not: it is not the last write.
        return Content::Foreign;
    }
    let whole = sum == hash(seed, page, number)
        && rest
            .iter()
            .enumerate()
            .all(|(i, w)| u64::from_le_bytes(*w) == body(sum, i + 4));
    if whole {
        Content::Write(number)
    } else {
        Content::Torn
    }
}

/// A number without a pattern.
pub fn scramble(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn hash(seed: u64, page: u64, number: u64) -> u64 {
    scramble(scramble(scramble(seed.wrapping_add(1)) ^ page) ^ number)
}

fn body(hash: u64, index: usize) -> u64 {
    let x = (hash ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_its_write_and_every_mixture_of_two_is_torn_or_foreign() {
        let (mut old, mut new) = ([0; PAGE], [0; PAGE]);
        fill(&mut old, 1, 7, 10);
        fill(&mut new, 1, 7, 11);
        assert_eq!(look(&old, 1, 7), Content::Write(10));
        assert_eq!(look(&new, 1, 7), Content::Write(11));
        for cut in (8..PAGE).step_by(8) {
            let mut mixed = old;
            mixed[..cut].copy_from_slice(&new[..cut]);
            let seen = look(&mixed, 1, 7);
            assert!(
                matches!(seen, Content::Torn | Content::Write(10)),
                "{cut}: {seen:?}"
            );
            // The magic alone is the same in both.
            assert!(cut == 8 || seen == Content::Torn, "{cut}");
        }
    }

    #[test]
    fn what_another_storm_or_nobody_wrote_is_no_write() {
        let mut unit = [0; HEADER];
        assert_eq!(look(&unit, 1, 7), Content::Foreign);
        fill(&mut unit, 2, 7, 10);
        assert_eq!(look(&unit, 2, 7), Content::Write(10));
        assert_eq!(look(&unit, 1, 7), Content::Torn, "another seed");
        assert_eq!(look(&unit, 2, 8), Content::Foreign, "another page");
    }
}
