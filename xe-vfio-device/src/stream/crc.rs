// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CRC-64/NVME, the checksum of everything in a stream: of a slice by [`crc64`], of pieces by [`Crc64`].
//!
//! Every byte of state is summed once on each side, so the sum must cost little beside a copy. `crc-fast` multiplies with the widest
//! vectors that the machine has, which it finds out when it runs; docs/performance.md has figures of it and of others.
//! docs/stream-format.md has the parameters and what they promise. It is against damage, not against an attacker.
//!
//! The CRC of bytes with their own CRC behind them is the same for all bytes: whatever sums a checksum must not sum all that it
//! is of just before it.

use crc_fast::{CrcAlgorithm, Digest};

const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// The CRC of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(ALGORITHM, bytes)
}

/// The CRC of pieces.
#[derive(Clone)]
pub struct Crc64(Digest);

impl Crc64 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Digest::new(ALGORITHM))
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC of all pieces.
    pub fn finish(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By definition, a bit at a time.
    fn slow(bytes: &[u8]) -> u64 {
        let polynomial = 0xad93_d235_94c9_3659u64.reverse_bits();
        !bytes.iter().fold(u64::MAX, |crc, byte| {
            (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { polynomial } else { 0 }
            })
        })
    }

    #[test]
    fn the_check_value_is_that_of_the_format() {
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(crc64(&[]), 0);
    }

    #[test]
    fn the_crc_is_that_of_the_definition_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..9000u32).map(|at| ((at * at) >> 3) as u8).collect();
        let lengths = (0..600)
            .chain(1020..1030)
            .chain(2040..2060)
            .chain([8999, 9000]);
        for length in lengths {
            let bytes = &bytes[..length];
            let expected = slow(bytes);
            assert_eq!(crc64(bytes), expected, "{length}");
            for cut in [16, 97, 1000, 1024, 4096, 9000] {
                let mut crc = Crc64::new();
                crc.update(&[]);
                for piece in bytes.chunks(cut) {
                    crc.update(piece);
                    crc.update(&[]);
                }
                assert_eq!(crc.finish(), expected, "{length} bytes, {cut} at a time");
            }
        }
    }

    #[test]
    fn the_crc_of_bytes_and_their_crc_says_nothing_of_them() {
        let closed = |bytes: &[u8]| crc64(&[bytes, &crc64(bytes).to_le_bytes()].concat());
        assert_eq!(closed(b"a preamble"), closed(b"another one, and longer"));
    }
}
