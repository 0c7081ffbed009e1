// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `host-sim fill` and `host-sim digest`: what VRAM holds beyond what a guest works on.

use std::io;
use std::path::PathBuf;

use clap::ValueEnum;
use guest::abi;
use host_sim::host::Host;
use host_sim::shm::bulk;
use host_sim::vf::Vf;

use super::{Error, size, vf};

/// Unit of content: what `half` alternates, and what a digest skips when it is zero.
const BLOCK: usize = 64 << 10;

/// Arguments of `host-sim fill`.
#[derive(Debug, clap::Args)]
pub struct Fill {
    /// Directory of the host
    dir: PathBuf,
    /// The VF
    #[arg(long)]
    vf: u16,
    /// The content
    content: Content,
    /// First byte of VRAM to be written
    #[arg(long, default_value = "4M", value_parser = size::parse)]
    from: u64,
    /// Another seed, another content
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What to fill VRAM with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Content {
    /// Bytes without a pattern
    Random,
    /// Blocks of 64 KiB, zero and random in turn
    Half,
    /// Zeros
    Zero,
}

/// Arguments of `host-sim digest`.
#[derive(Debug, clap::Args)]
pub struct Digest {
    /// Directory of the host
    dir: PathBuf,
    /// The VF
    #[arg(long)]
    vf: u16,
    /// First byte of VRAM to be looked at
    #[arg(long, default_value = "4M", value_parser = size::parse)]
    from: u64,
}

impl Fill {
    /// Fills VRAM.
    pub fn run(&self) -> Result<(), Error> {
        let vf = vf(&Host::open(&self.dir)?, self.vf)?;
        fill(&vf, self.content, self.from, self.seed).map_err(|source| Error::Vram {
            what: "fill",
            source,
        })
    }
}

impl Digest {
    /// Prints the hash.
    pub fn run(&self) -> Result<(), Error> {
        let vf = vf(&Host::open(&self.dir)?, self.vf)?;
        let digest = digest(&vf, self.from).map_err(|source| Error::Vram {
            what: "read",
            source,
        })?;
        println!("{digest:032x}");
        Ok(())
    }
}

fn fill(vf: &Vf, content: Content, from: u64, seed: u64) -> io::Result<()> {
    let mut buffer = vec![0; 16 * BLOCK];
    let mut at = from;
    while at < vf.vram() {
        let n = buffer
            .len()
            .min(usize::try_from(vf.vram() - at).unwrap_or(usize::MAX));
        for (block, number) in buffer.chunks_mut(BLOCK).zip(at / BLOCK as u64..) {
            match content {
                Content::Random => random(block, seed ^ number.rotate_left(32)),
                Content::Half if number % 2 == 1 => random(block, seed ^ number.rotate_left(32)),
                Content::Half | Content::Zero => block.fill(0),
            }
        }
        bulk::write_at(
            vf.memory_file(),
            &buffer[..n],
            u64::from(abi::VRAM_WINDOW) + at,
        )?;
        at += n as u64;
    }
    Ok(())
}

/// Fills `block` with what four generators that only add, rotate and multiply give.
fn random(block: &mut [u8], seed: u64) {
    let mut lanes: [u64; 4] =
        std::array::from_fn(|i| scramble(seed.wrapping_mul(4).wrapping_add(i as u64)));
    for words in block.as_chunks_mut::<8>().0.as_chunks_mut::<4>().0 {
        for (word, lane) in words.iter_mut().zip(&mut lanes) {
            *lane = lane.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (*lane ^ (*lane >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *word = (x ^ (x >> 32)).to_le_bytes();
        }
    }
}

fn scramble(x: u64) -> u64 {
    let x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ x
}

/// A hash of VRAM from `from` on to which blocks of zeros add nothing, so that holes can be skipped.
fn digest(vf: &Vf, from: u64) -> io::Result<u128> {
    let (window, block_size) = (u64::from(abi::VRAM_WINDOW), BLOCK as u64);
    let end = window + vf.vram();
    let mut buffer = vec![0; BLOCK];
    let mut at = window + from;
    let mut sum = 0u128;
    while let Some((start, stop)) = bulk::next_data(vf.memory_file(), at, end)? {
        // Blocks begin at multiples of their size, or at `from`.
        at = (start - start % block_size).max(at);
        while at < stop {
            let n = block_size - at % block_size;
            let n = usize::try_from(n.min(end - at)).unwrap_or(BLOCK);
            bulk::read_at(vf.memory_file(), &mut buffer[..n], at)?;
            if buffer[..n].iter().any(|byte| *byte != 0) {
                sum = sum.wrapping_add(hash(&buffer[..n], at - window));
            }
            at += n as u64;
        }
    }
    Ok(sum)
}

/// A hash of `block` and its place.
fn hash(block: &[u8], place: u64) -> u128 {
    let mut lanes: [u64; 4] = std::array::from_fn(|i| scramble(place.wrapping_add(i as u64 + 1)));
    let mut mix = |words: &[[u8; 8]]| {
        for (word, lane) in words.iter().zip(&mut lanes) {
            *lane = (lane.rotate_left(23) ^ u64::from_le_bytes(*word))
                .wrapping_mul(0x9fb2_1c65_1e98_df25);
        }
    };
    let (words, tail) = block.as_chunks::<8>();
    words.chunks(4).for_each(&mut mix);
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    mix(&[last]);
    let [a, b, c, d] = lanes.map(scramble);
    let low = scramble(a ^ b.rotate_left(17)) ^ c;
    let high = scramble(c ^ d.rotate_left(41)) ^ a;
    u128::from(high) << 64 | u128::from(low)
}
