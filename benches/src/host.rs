// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host with as many sources as destinations, and what is in their VRAM.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use host_sim::host::{Host, HostConfig};
use host_sim::vf::Vf;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// VRAM begins here in a VF's memory file.
const VRAM_AT: u64 = 4 * MIB;
const BLOCK: usize = 64 << 10;

/// What VRAM holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Content {
    /// Bytes without a pattern.
    Random,
    /// Blocks of 64 KiB, zero and random in turn.
    Half,
    /// Zeros.
    Zero,
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
        let dir = tempfile::tempdir_in("/dev/shm")?;
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

    /// Bytes of VRAM of each VF.
    pub fn vram(&self) -> u64 {
        self.vram
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

fn fill(file: &File, start: u64, bytes: u64, content: Content, seed: u64) -> anyhow::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut random = seed << 48 | 1;
    for (at, number) in (0..bytes).step_by(BLOCK).zip(0u64..) {
        let zero = match content {
            Content::Random => false,
            Content::Half => number % 2 == 0,
            Content::Zero => true,
        };
        for word in block.as_chunks_mut::<8>().0 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *word = if zero { 0 } else { random ^ random >> 29 }.to_le_bytes();
        }
        file.write_all_at(&block, start + at)?;
    }
    Ok(())
}
