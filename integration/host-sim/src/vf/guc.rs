// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Content of a GuC packet: the engine's state, then a pattern that only this state gives.
//!
//! Main GT: registers 0x010 to 0x02f, accumulator, completed jobs, pattern. Media GT: a pattern from the first byte.

use std::ops::Range;

/// Bytes of the engine's state at the start of the main GT's payload.
pub(super) const HEAD_SIZE: usize = 40;

/// The bytes of one payload, at any position.
#[derive(Clone, Copy)]
pub(super) struct Payload<'a> {
    head: &'a [u8],
    seed: u64,
}

impl<'a> Payload<'a> {
    pub fn main(head: &'a [u8; HEAD_SIZE]) -> Self {
        let seed = head
            .as_chunks::<8>()
            .0
            .iter()
            .fold(0x6c62_272e_07bb_0142, |seed, word| {
                mix(seed ^ u64::from_le_bytes(*word))
            });
        Self { head, seed }
    }

    pub fn media() -> Self {
        Self {
            head: &[],
            seed: 0x1f83_d9ab_fb41_bd6b,
        }
    }

    /// Writes the bytes from `position` on into `buf`.
    pub fn fill(&self, position: u64, buf: &mut [u8]) {
        self.each_piece(position, buf.len(), |range, bytes| {
            buf[range].copy_from_slice(bytes);
            true
        });
    }

    /// Whether the bytes from `position` on are `buf`.
    pub fn holds(&self, position: u64, buf: &[u8]) -> bool {
        self.each_piece(position, buf.len(), |range, bytes| buf[range] == *bytes)
    }

    /// Hands `len` bytes from `position` on to `take`, piece by piece, as long as it answers true; whether it always did.
    fn each_piece(
        &self,
        position: u64,
        len: usize,
        mut take: impl FnMut(Range<usize>, &[u8]) -> bool,
    ) -> bool {
        let mut done = 0;
        while done < len {
            let at = position + done as u64;
            let word;
            let piece = match usize::try_from(at).ok().and_then(|at| self.head.get(at..)) {
                Some(head) if !head.is_empty() => head,
                _ => {
                    word = mix(self.seed.wrapping_add(at / 8)).to_le_bytes();
                    &word[(at % 8) as usize..]
                }
            };
            let piece = &piece[..piece.len().min(len - done)];
            if !take(done..done + piece.len(), piece) {
                return false;
            }
            done += piece.len();
        }
        true
    }
}

/// A bijection that leaves no bit where it was.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_the_engines_state_shows_in_the_pattern() {
        let pattern = |head: &[u8; HEAD_SIZE]| {
            let mut bytes = [0; 64];
            Payload::main(head).fill(HEAD_SIZE as u64, &mut bytes);
            bytes
        };
        let base = pattern(&[0; HEAD_SIZE]);
        for bit in 0..HEAD_SIZE * 8 {
            let mut head = [0; HEAD_SIZE];
            head[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(pattern(&head), base, "bit {bit}");
        }
    }

    #[test]
    fn the_payload_is_the_same_in_any_pieces() {
        let head: [u8; HEAD_SIZE] = std::array::from_fn(|i| i as u8);
        let payload = Payload::main(&head);
        let mut whole = [0; 300];
        payload.fill(0, &mut whole);
        assert_eq!(whole[..HEAD_SIZE], head);
        for at in 0..299 {
            let mut pieces = [0; 300];
            payload.fill(0, &mut pieces[..at]);
            payload.fill(at as u64, &mut pieces[at..]);
            assert_eq!(pieces, whole);
            assert!(payload.holds(at as u64, &whole[at..]));
        }
        whole[299] ^= 1;
        assert!(!payload.holds(0, &whole));
    }
}
