// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! XXH3, the checksum of everything in a stream.
//!
//! Every byte of state is hashed once on each side, so the hash must cost little beside a copy. XXH3 does where it has
//! vectors to work with: those that the machine has are found out when it runs and not when it was built; docs/performance.md has
//! the figures and those of CRC32C. It is against damage, not against an attacker.

#[cfg(target_arch = "x86_64")]
mod wide;

use std::hash::Hasher;

use twox_hash::{XxHash3_64, XxHash3_128};

/// XXH3-64 of `bytes`.
pub fn xxh3_64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// XXH3-64 of pieces.
#[derive(Clone)]
pub struct Hash64(Kind);

#[derive(Clone)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Wide(Box<wide::Wide>),
    Other(Box<XxHash3_64>),
}

impl Hash64 {
    /// Of nothing yet.
    pub fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        if wide::is_available() {
            return Self(Kind::Wide(Box::new(wide::Wide::new())));
        }
        Self(Kind::Other(Box::default()))
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Wide(hash) => hash.update(bytes),
            Kind::Other(hash) => hash.write(bytes),
        }
    }

    /// The hash of all pieces.
    pub fn finish(&self) -> u64 {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Wide(hash) => hash.finish().unwrap_or_else(xxh3_64),
            Kind::Other(hash) => hash.finish(),
        }
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
        let bytes: Vec<u8> = (0..9000u32).map(|at| ((at * at) >> 3) as u8).collect();
        let lengths = (0..300)
            .chain(900..1200)
            .chain(2040..2060)
            .chain([8999, 9000]);
        for length in lengths {
            let bytes = &bytes[..length];
            let expected = (
                xxhash_rust::xxh3::xxh3_64(bytes),
                xxhash_rust::xxh3::xxh3_128(bytes),
            );
            assert_eq!(xxh3_64(bytes), expected.0, "{length}");
            for cut in [16, 97, 1000, 1024, 4096, 9000] {
                let (mut short, mut long) = (Hash64::new(), Hash128::new());
                short.update(&[]);
                let mut other = Hash64(Kind::Other(Box::default()));
                for piece in bytes.chunks(cut) {
                    short.update(piece);
                    other.update(piece);
                    long.update(piece);
                    long.update(&[]);
                    short.update(&[]);
                }
                let found = (short.finish(), long.finish());
                assert_eq!(found, expected, "{length} bytes, {cut} at a time");
                assert_eq!(other.finish(), expected.0);
            }
        }
    }
}
