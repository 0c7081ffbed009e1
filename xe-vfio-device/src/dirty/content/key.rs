// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fingerprint of a page: two XXH3-64 under two secrets, drawn at random for every log.
//!
//! Two of them and not the 128 bits of one: XXH3 multiplies the halves of a word, so two pages that differ by
//! two exchanged words of one column have the same accumulators under one secret in 2^32 or so, whatever is made of them
//! afterwards, and a GPU exchanges words. Under two independent secrets both have to fail. Nobody outside sees key
//! or fingerprints, so there is nothing to search for; a guest that wants to lose its own page has no better way than luck.

use std::io;

use twox_hash::XxHash3_64;

use crate::dirty::PAGE_SIZE;

/// Bytes of a page.
pub(super) const PAGE: usize = PAGE_SIZE as usize;
const SECRET: usize = 192;

/// What a fingerprint is taken with.
#[derive(Clone)]
pub struct Key {
    secrets: [[u8; SECRET]; 2],
    zeros: u128,
}

impl Key {
    /// A new one from the kernel's random numbers.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn random() -> io::Result<Self> {
        let mut secrets = [[0; SECRET]; 2];
        for secret in &mut secrets {
            getrandom::fill(secret)?;
        }
        Ok(Self::of(secrets))
    }

    fn of(secrets: [[u8; SECRET]; 2]) -> Self {
        let mut key = Self { secrets, zeros: 0 };
        key.zeros = key.fingerprint(&[0; PAGE]);
        key
    }

    /// The fingerprint of a page; 0 for a page of zeros.
    pub fn fingerprint(&self, page: &[u8; PAGE]) -> u128 {
        let half = |secret: &[u8]| {
            XxHash3_64::oneshot_with_secret(secret, page).expect("the secret is long enough")
        };
        let both = u128::from(half(&self.secrets[0])) << 64 | u128::from(half(&self.secrets[1]));
        both ^ self.zeros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_zeros_has_the_fingerprint_zero_and_no_other_page_of_one_bit() {
        let key = Key::random().unwrap();
        let mut page = [0; PAGE];
        assert_eq!(key.fingerprint(&page), 0);
        for bit in 0..8 * PAGE {
            page[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(key.fingerprint(&page), 0, "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn exchanged_words_of_a_column_change_both_halves() {
        let key = Key::random().unwrap();
        let mut page = [0; PAGE];
        page[0] = 1;
        page[64] = 2;
        let before = key.fingerprint(&page);
        page.swap(0, 64);
        let changed = before ^ key.fingerprint(&page);
        assert!(changed >> 64 != 0 && changed << 64 != 0);
    }

    #[test]
    fn two_keys_have_nothing_in_common() {
        let page = [7; PAGE];
        let (a, b) = (Key::random().unwrap(), Key::random().unwrap());
        assert_ne!(a.fingerprint(&page), b.fingerprint(&page));
    }
}
