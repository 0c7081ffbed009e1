// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host with as many sources as destinations, and what is in their VRAM.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use demo::host::scratch_directory;
use host_sim::host::{Host, HostConfig};
use host_sim::vf::Vf;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::row::Row;

const MIB: u64 = 1 << 20;
/// VRAM begins here in a VF's memory file.
const VRAM_AT: u64 = 4 * MIB;
const BLOCK: usize = 64 << 10;

/// What VRAM holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Bytes without a pattern.
    Random,
    /// Blocks of 64 KiB, zero and random in turn.
    Half,
    /// Zeros.
    Zero,
}

impl Content {
    /// Its name, here and on host-sim's command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Half => "half",
            Self::Zero => "zero",
        }
    }
}

/// A host in memory; its files go with it.
pub struct Bench {
    host: Host,
    pairs: u16,
    vram: u64,
    dir: TempDir,
}

impl Bench {
    /// A host with `pairs` sources and as many destinations, each with `vram` bytes that have memory from the start: a load pays for no pages,
    /// as it does not on a GPU.
    ///
    /// # Errors
    /// When there is not enough memory, among others.
    pub fn new(pairs: u16, vram: u64) -> anyhow::Result<Self> {
        let dir = scratch_directory("xe-bench-")?;
        let config = HostConfig {
            vfs: 2 * pairs,
            vram,
            flr_ms: 0,
            suspend_ms: 0,
            resume_ms: 0,
            populate: true,
            ..HostConfig::default()
        };
        let host = Host::create(&dir.path().join("host"), &config).context("no host")?;
        Ok(Self {
            host,
            pairs,
            vram,
            dir,
        })
    }

    /// Where it is, for the sides.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    /// Number of sources.
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// Whether its VFs are those of `row`.
    pub fn is(&self, row: Row) -> bool {
        self.pairs == row.vfs && self.vram * u64::from(self.pairs) == row.size
    }

    fn vf(&self, index: u16) -> anyhow::Result<Arc<Vf>> {
        self.host.vf(index).context("no such VF")
    }

    /// Fills the sources' VRAM.
    ///
    /// # Errors
    /// Those of writing it.
    pub fn fill(&self, content: Content) -> anyhow::Result<()> {
        for index in 1..=self.pairs {
            let vf = self.vf(index)?;
            fill(vf.memory_file(), VRAM_AT, self.vram, content, index.into())?;
        }
        Ok(())
    }

    /// Fails unless each destination's VRAM is its source's.
    ///
    /// # Errors
    /// Where they differ.
    pub fn check(&self) -> anyhow::Result<()> {
        let (mut left, mut right) = (vec![0; MIB as usize], vec![0; MIB as usize]);
        for index in 1..=self.pairs {
            let (from, to) = (self.vf(index)?, self.vf(index + self.pairs)?);
            for at in (0..self.vram).step_by(MIB as usize) {
                from.memory_file().read_exact_at(&mut left, VRAM_AT + at)?;
                to.memory_file().read_exact_at(&mut right, VRAM_AT + at)?;
                ensure!(left == right, "VF {index} has other bytes at {at:#x}");
            }
        }
        Ok(())
    }

    /// A file with as many bytes as a VF's VRAM has, without a pattern, for `dd` to read.
    ///
    /// # Errors
    /// Those of writing it.
    pub fn random_file(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path)?;
        fill(&file, 0, self.vram, Content::Random, 1)
    }
}

/// Blocks of random bytes are one another's with a number of their own added to each word: that is as fast as memory, no two blocks are alike, and
/// nothing that moves state compares blocks.
fn fill(file: &File, start: u64, bytes: u64, content: Content, seed: u64) -> anyhow::Result<()> {
    let mut random = seed << 48 | 1;
    let pattern: Vec<u64> = (0..BLOCK / 8)
        .map(|_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            random ^ random >> 29
        })
        .collect();
    let mut buffer = vec![0; 16 * BLOCK];
    for at in (0..bytes).step_by(buffer.len()) {
        let length = buffer.len().min((bytes - at) as usize);
        for (block, number) in buffer.chunks_mut(BLOCK).zip(at / BLOCK as u64..) {
            if content == Content::Zero || content == Content::Half && number % 2 == 0 {
                block.fill(0);
                continue;
            }
            let own = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for (word, pattern) in block.as_chunks_mut::<8>().0.iter_mut().zip(&pattern) {
                *word = pattern.wrapping_add(own).to_le_bytes();
            }
        }
        file.write_all_at(&buffer[..length], start + at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_blocks_are_zero_and_no_two_others_are_alike() {
        let file = tempfile::tempfile().unwrap();
        fill(&file, 0, 2 * MIB, Content::Half, 1).unwrap();
        let mut bytes = vec![0; 2 * MIB as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut blocks: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
        assert!(
            blocks
                .iter()
                .step_by(2)
                .all(|block| block.iter().all(|&b| b == 0))
        );
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), 17);
    }
}
