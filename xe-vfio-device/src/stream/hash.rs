// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! XXH3, the checksum of everything in a stream.
//!
//! Every byte of state is hashed once on each side, so the hash must cost little beside a copy. XXH3 does where it has
//! vectors to work with, which this implementation finds out when it runs and not when it was built; docs/performance.md has
//! the figures and those of CRC32C. It is against damage, not against an attacker.

use std::hash::Hasher;

use twox_hash::{XxHash3_64, XxHash3_128};

/// XXH3-64 of `bytes`.
pub fn xxh3_64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// XXH3-64 of pieces.
#[derive(Clone)]
pub struct Hash64(XxHash3_64);

impl Hash64 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(XxHash3_64::new())
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

impl Default for Hash64 {
    fn default() -> Self {
        Self::new()
    }
}

/// XXH3-128 of pieces.
#[derive(Clone)]
pub struct Hash128(XxHash3_128);

impl Hash128 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(XxHash3_128::new())
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(&self) -> u128 {
        self.0.finish_128()
    }
}

impl Default for Hash128 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_another_implementation_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..5000u32).map(|at| ((at * at) >> 3) as u8).collect();
        for length in (0..300).chain([1023, 1024, 1025, 4096, 5000]) {
            let bytes = &bytes[..length];
            let expected = (
                xxhash_rust::xxh3::xxh3_64(bytes),
                xxhash_rust::xxh3::xxh3_128(bytes),
            );
            let (mut short, mut long) = (Hash64::new(), Hash128::new());
            for piece in bytes.chunks(97) {
                short.update(piece);
                long.update(piece);
            }
            assert_eq!((short.finish(), long.finish()), expected, "{length}");
            assert_eq!(xxh3_64(bytes), expected.0, "{length}");
        }
    }
}
