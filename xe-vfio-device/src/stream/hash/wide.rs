// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // vector instructions
//! XXH3-64 with vectors of 512 bits, for input of more than [`SHORT`] bytes.
//!
//! Eight sums of 64 bits take a stripe of 64 bytes at a time, each with a window of the secret that moves on by eight bytes; after sixteen stripes they are
//! scrambled. The last 64 bytes of the input are taken once more, whatever stripe they are in, so the end of what came before is kept. As
//! specified in xxHash's doc/xxhash_spec.md.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_loadu_si512, _mm512_mul_epu32, _mm512_mullo_epi64,
    _mm512_set1_epi64, _mm512_shuffle_epi32, _mm512_srli_epi64, _mm512_storeu_si512,
    _mm512_xor_si512,
};

/// Input of at most this length is hashed in another way.
pub(super) const SHORT: usize = 240;
const STRIPE: usize = 64;
const BLOCK: usize = 16 * STRIPE;

const PRIME32_1: u64 = 0x9e37_79b1;
const PRIME32_2: u64 = 0x85eb_ca77;
const PRIME32_3: u64 = 0xc2b2_ae3d;
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME64_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME64_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME64_5: u64 = 0x27d4_eb2f_1656_67c5;
const AVALANCHE: u64 = 0x1656_6791_9e37_79f9;

/// The default secret, in words.
const SECRET: [u64; 24] = [
    0xbe4b_a423_396c_feb8,
    0x1cad_21f7_2c81_017c,
    0xdb97_9083_e96d_d4de,
    0x1f67_b3b7_a4a4_4072,
    0x78e5_c0cc_4ee6_79cb,
    0x2172_ffcc_7dd0_5a82,
    0x8e24_43f7_7446_08b8,
    0x4c26_3a81_e690_35e0,
    0xcb00_c391_bb52_283c,
    0xa32e_531b_8b65_d088,
    0x4ef9_0da2_9748_6471,
    0xd8ac_dea9_46ef_1938,
    0x3f34_9ce3_3f76_faa8,
    0x1d4f_0bc7_c7bb_dcf9,
    0x3159_b4cd_4be0_518a,
    0x6473_78d9_c97e_9fc8,
    0xc3eb_d334_83ac_c5ea,
    0xeb63_13fa_ffa0_81c5,
    0x49da_f0b7_51dd_0d17,
    0x9e68_d429_2655_16d3,
    0xfca1_477d_58be_162b,
    0xce31_d07a_d1b8_f88f,
    0x2804_1695_8f3a_cb45,
    0x7e40_4bbb_cafb_d7af,
];
/// Where in the secret the last stripe's window begins, the scramble's, and that of the end.
const LAST: usize = 121;
const SCRAMBLE: usize = 128;
const MERGE: usize = 11;

/// The state of a hash.
#[derive(Clone)]
pub(super) struct Wide {
    sums: [u64; 8],
    /// Input that may be the last: a block is only taken when more follows.
    held: [u8; BLOCK],
    length: usize,
    /// The last stripe of the block before.
    before: [u8; STRIPE],
    total: u64,
}

/// Whether this machine has the vectors.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq")
}

impl Wide {
    /// Of nothing yet; only where [`is_available`].
    pub(super) fn new() -> Self {
        Self {
            sums: [
                PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5,
                PRIME32_1,
            ],
            held: [0; BLOCK],
            length: 0,
            before: [0; STRIPE],
            total: 0,
        }
    }

    pub(super) fn update(&mut self, mut input: &[u8]) {
        if input.is_empty() {
            return;
        }
        self.total += input.len() as u64;
        if self.length > 0 {
            let taken = input.len().min(BLOCK - self.length);
            self.held[self.length..self.length + taken].copy_from_slice(&input[..taken]);
            self.length += taken;
            input = &input[taken..];
            if input.is_empty() {
                return;
            }
            let held = self.held;
            self.blocks(&held);
            self.length = 0;
        }
        let whole = (input.len() - 1) / BLOCK * BLOCK;
        if whole > 0 {
            self.blocks(&input[..whole]);
            input = &input[whole..];
        }
        self.held[..input.len()].copy_from_slice(input);
        self.length = input.len();
    }

    /// The hash, or the input when it was short.
    pub(super) fn finish(&self) -> Result<u64, &[u8]> {
        let held = &self.held[..self.length];
        if self.total <= SHORT as u64 {
            return Err(held);
        }
        let mut last = [0; STRIPE];
        let missing = STRIPE.saturating_sub(held.len());
        last[..missing].copy_from_slice(&self.before[STRIPE - missing..]);
        last[missing..].copy_from_slice(&held[held.len() + missing - STRIPE..]);
        let stripes = (held.len() - 1) / STRIPE;
        let mut sums = self.sums;
        // SAFETY: a `Wide` is only made where the machine has the instructions.
        unsafe {
            stripes_into(&mut sums, &held[..stripes * STRIPE]);
            one_into(&mut sums, &last, LAST);
        }
        Ok(merged(&sums, self.total))
    }

    /// Takes whole blocks.
    fn blocks(&mut self, input: &[u8]) {
        // SAFETY: a `Wide` is only made where the machine has the instructions.
        unsafe { blocks_into(&mut self.sums, input) };
        self.before.copy_from_slice(&input[input.len() - STRIPE..]);
    }
}

/// Eight words of the secret from byte `at` on.
fn window(at: usize) -> [u64; 8] {
    std::array::from_fn(|n| word(at + 8 * n))
}

/// The word of the secret at byte `at`.
fn word(at: usize) -> u64 {
    let (index, shift) = (at / 8, at % 8 * 8);
    if shift == 0 {
        SECRET[index]
    } else {
        SECRET[index] >> shift | SECRET[index + 1] << (64 - shift)
    }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn load(words: &[u64; 8]) -> __m512i {
    // SAFETY: 64 bytes, of any alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512dq")]
fn store(words: &mut [u64; 8], vector: __m512i) {
    // SAFETY: 64 bytes, of any alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) };
}

/// The sums with one more stripe, under a window of the secret.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn stripe(sums: __m512i, input: &[u8; STRIPE], key: __m512i) -> __m512i {
    // SAFETY: 64 bytes, of any alignment.
    let data = unsafe { _mm512_loadu_si512(input.as_ptr().cast()) };
    let keyed = _mm512_xor_si512(data, key);
    let product = _mm512_mul_epu32(keyed, _mm512_srli_epi64::<32>(keyed));
    // Each sum gets its neighbour's input as it is.
    let swapped = _mm512_shuffle_epi32::<0x4e>(data);
    _mm512_add_epi64(sums, _mm512_add_epi64(product, swapped))
}

#[target_feature(enable = "avx512f,avx512dq")]
fn blocks_into(sums: &mut [u64; 8], input: &[u8]) {
    let keys: [__m512i; 16] = std::array::from_fn(|n| load(&window(8 * n)));
    let (scramble, prime) = (
        load(&window(SCRAMBLE)),
        _mm512_set1_epi64(PRIME32_1.cast_signed()),
    );
    let mut all = load(sums);
    for block in input.as_chunks::<BLOCK>().0 {
        for (input, key) in block.as_chunks::<STRIPE>().0.iter().zip(&keys) {
            all = stripe(all, input, *key);
        }
        let mixed = _mm512_xor_si512(all, _mm512_srli_epi64::<47>(all));
        all = _mm512_mullo_epi64(_mm512_xor_si512(mixed, scramble), prime);
    }
    store(sums, all);
}

/// Takes the first stripes of a block.
#[target_feature(enable = "avx512f,avx512dq")]
fn stripes_into(sums: &mut [u64; 8], input: &[u8]) {
    let mut all = load(sums);
    for (n, input) in input.as_chunks::<STRIPE>().0.iter().enumerate() {
        all = stripe(all, input, load(&window(8 * n)));
    }
    store(sums, all);
}

#[target_feature(enable = "avx512f,avx512dq")]
fn one_into(sums: &mut [u64; 8], input: &[u8; STRIPE], at: usize) {
    let all = stripe(load(sums), input, load(&window(at)));
    store(sums, all);
}

fn merged(sums: &[u64; 8], total: u64) -> u64 {
    let keys = window(MERGE);
    let pairs = sums.as_chunks::<2>().0.iter().zip(keys.as_chunks::<2>().0);
    let sum = pairs.fold(
        total.wrapping_mul(PRIME64_1),
        |sum, ([low, high], [key, next])| {
            let product = u128::from(low ^ key) * u128::from(high ^ next);
            sum.wrapping_add(product as u64 ^ (product >> 64) as u64)
        },
    );
    let sum = (sum ^ (sum >> 37)).wrapping_mul(AVALANCHE);
    sum ^ (sum >> 32)
}
