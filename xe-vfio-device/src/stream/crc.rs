// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CRC-64/NVME, the checksum of everything in a stream: of a slice by [`crc64`], of pieces by [`Crc64`].
//!
//! Every byte of state is summed once on each side, so the sum must cost little beside a copy. `crc-fast` multiplies with the widest
//! vectors that the machine has, which it finds out when it runs; docs/performance.md has figures of it and of others.
//! docs/stream-format.md has the parameters and what they promise. It is against damage, not against an attacker.
//!
//! [`joined`] puts the CRCs of two pieces together, so that a payload can be summed while it comes and before the header that stands in front
//! of it is known. `crc_fast::checksum_combine` answers the same in 400 µs for 1 MiB; this takes a few multiplications.
//!
//! The CRC of bytes with their own CRC behind them is the same for all bytes: whatever sums a checksum must not sum all that it
//! is of just before it.

use crc_fast::{CrcAlgorithm, Digest};

const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// The CRC of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(ALGORITHM, bytes)
}

/// The CRC of two pieces, the second of `second_length` bytes, from the CRC of each.
///
/// Appending so many bytes multiplies what was there by x to the power of their bits; initial value and final xor cancel out.
pub fn joined(first: u64, second: u64, second_length: u64) -> u64 {
    let mut shifted = first;
    let mut left = second_length;
    while left != 0 {
        shifted = times(shifted, POWERS[left.trailing_zeros() as usize]);
        left &= left - 1;
    }
    shifted ^ second
}

/// The polynomial without x^64, the coefficient of x^0 in the highest bit.
const POLYNOMIAL: u64 = 0xad93_d235_94c9_3659_u64.reverse_bits();

/// x to the power of 8 * 2^n.
const POWERS: [u64; 64] = {
    let mut powers = [1 << (63 - 8); 64];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = times(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// The product of two polynomials, modulo the CRC's.
const fn times(a: u64, b: u64) -> u64 {
    let (mut product, mut b, mut bit) = (0, b, 1 << 63);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ if b & 1 == 1 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
}

/// The CRC of pieces.
#[derive(Debug, Clone)]
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
    fn two_crcs_are_joined_as_if_their_pieces_were_one() {
        let bytes: Vec<u8> = (0..9000u32).map(|at| ((at * at) >> 5) as u8).collect();
        for cut in (0..300).chain([4095, 4096, 4097, 8192, 8999, 9000]) {
            let (first, second) = bytes.split_at(cut);
            let sum = joined(crc64(first), crc64(second), second.len() as u64);
            assert_eq!(sum, crc64(&bytes), "cut at {cut}");
        }
        let (zeros, sum) = (vec![0; 3 << 20], crc64(&bytes));
        let all = [&bytes[..], &zeros[..]].concat();
        assert_eq!(joined(sum, crc64(&zeros), 3 << 20), crc64(&all));
    }

    #[test]
    fn the_crc_of_bytes_and_their_crc_says_nothing_of_them() {
        let closed = |bytes: &[u8]| crc64(&[bytes, &crc64(bytes).to_le_bytes()].concat());
        assert_eq!(closed(b"a preamble"), closed(b"another one, and longer"));
    }
}
