// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host with as many sources as destinations, and what is in their VRAM.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail, ensure};
use demo::host::scratch_directory;
use host_sim::host::{Host, HostConfig};
use host_sim::vf::Vf;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::row::Row;

const MIB: u64 = 1 << 20;
/// VRAM begins so many MiB behind the beginning of a VF's memory file.
pub const VRAM_MIB_IN_FILE: u64 = 4;
const VRAM_AT: u64 = VRAM_MIB_IN_FILE * MIB;
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

    /// Bytes of each VF's VRAM.
    pub fn vram(&self) -> u64 {
        self.vram
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

    /// Fills the sources' VRAM, whatever state they are in.
    ///
    /// # Errors
    /// Those of writing it.
    pub fn fill(&self, content: Content) -> anyhow::Result<()> {
        self.each_part(|pattern, index, part| {
            let vf = self.vf(index)?;
            pattern.fill(content, vf.memory_file(), VRAM_AT, part)
        })
    }

    /// Fails unless each destination's VRAM has every byte that its source was filled with.
    ///
    /// # Errors
    /// Where it has others.
    pub fn check(&self, content: Content) -> anyhow::Result<()> {
        self.each_part(|pattern, index, part| {
            let vf = self.vf(index + self.pairs)?;
            let different = pattern.differs(content, vf.memory_file(), VRAM_AT, part)?;
            ensure!(
                different.is_none(),
                "VF {index} has other bytes at {:#x}",
                different.unwrap_or_default()
            );
            Ok(())
        })
    }

    /// Leaves a byte in each block of the destinations' VRAM, so that zeros that do not arrive are missed.
    ///
    /// # Errors
    /// Those of writing it.
    pub fn soil(&self) -> anyhow::Result<()> {
        self.each_part(|_, index, part| {
            let vf = self.vf(index + self.pairs)?;
            for at in part.step_by(BLOCK) {
                let within = at / BLOCK as u64 * 4099 % BLOCK as u64;
                vf.memory_file()
                    .write_all_at(&[0xa5], VRAM_AT + at + within)?;
            }
            Ok(())
        })
    }

    /// Does something to all of the sources' VRAM, or their destinations': each VF's pattern, the number of its source, a range of its VRAM. Both
    /// cores work, since nothing is measured meanwhile.
    fn each_part(
        &self,
        work: impl Fn(&Pattern, u16, Range<u64>) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        let half = (self.vram / 2).next_multiple_of(MIB).min(self.vram);
        let parts = [0..half, half..self.vram];
        for index in 1..=self.pairs {
            let pattern = Pattern::new(index.into());
            thread::scope(|scope| {
                let (pattern, work) = (&pattern, &work);
                let [first, second] = parts.clone();
                let other = scope.spawn(move || work(pattern, index, second));
                let here = work(pattern, index, first);
                let there = other.join();
                here.and(there.unwrap_or_else(|_| bail!("a thread panicked")))
            })?;
        }
        Ok(())
    }

    /// The file that a VF's memory is, for `dd`: VRAM begins [`VRAM_MIB_IN_FILE`] MiB behind its beginning.
    #[must_use]
    pub fn memory_path(&self, index: u16) -> PathBuf {
        self.dir().join(format!("vf{index}")).join("memory")
    }
}

/// Blocks of random bytes are one another's with a number of their own added to each word: that is as fast as memory, no two blocks are alike, and
/// nothing that moves state compares blocks.
struct Pattern(Vec<u64>);

impl Pattern {
    fn new(seed: u64) -> Self {
        let mut random = seed << 48 | 1;
        let words = (0..BLOCK / 8).map(|_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            random ^ random >> 29
        });
        Self(words.collect())
    }

    /// Makes `buffer` what stands at `at`, which is a multiple of the buffer's length.
    fn make(&self, content: Content, at: u64, buffer: &mut [u8]) {
        for (block, number) in buffer.chunks_mut(BLOCK).zip(at / BLOCK as u64..) {
            if content == Content::Zero || content == Content::Half && number % 2 == 0 {
                block.fill(0);
                continue;
            }
            let own = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for (word, pattern) in block.as_chunks_mut::<8>().0.iter_mut().zip(&self.0) {
                *word = pattern.wrapping_add(own).to_le_bytes();
            }
        }
    }

    fn fill(
        &self,
        content: Content,
        file: &File,
        start: u64,
        part: Range<u64>,
    ) -> anyhow::Result<()> {
        let mut buffer = vec![0; MIB as usize];
        for at in part.clone().step_by(buffer.len()) {
            let length = buffer.len().min((part.end - at) as usize);
            self.make(content, at, &mut buffer);
            file.write_all_at(&buffer[..length], start + at)?;
        }
        Ok(())
    }

    /// The first MiB in which a file has anything else.
    fn differs(
        &self,
        content: Content,
        file: &File,
        start: u64,
        part: Range<u64>,
    ) -> anyhow::Result<Option<u64>> {
        let (mut wanted, mut found) = (vec![0; MIB as usize], vec![0; MIB as usize]);
        for at in part.clone().step_by(wanted.len()) {
            let length = wanted.len().min((part.end - at) as usize);
            self.make(content, at, &mut wanted);
            file.read_exact_at(&mut found[..length], start + at)?;
            if wanted[..length] != found[..length] {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_blocks_are_zero_and_no_two_others_are_alike() {
        let (file, pattern) = (tempfile::tempfile().unwrap(), Pattern::new(1));
        let all = 0..2 * MIB;
        pattern.fill(Content::Half, &file, 0, all).unwrap();
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

    #[test]
    fn one_other_byte_is_found_and_so_is_another_content() {
        let (file, pattern) = (tempfile::tempfile().unwrap(), Pattern::new(1));
        let all = 0..3 * MIB;
        let fill = |content| pattern.fill(content, &file, 7, all.clone()).unwrap();
        let differs = |content| pattern.differs(content, &file, 7, all.clone()).unwrap();
        for content in [Content::Random, Content::Half, Content::Zero] {
            fill(content);
            assert_eq!(differs(content), None);
            file.write_all_at(&[0x5a], 7 + 2 * MIB + 12345).unwrap();
            assert_eq!(differs(content), Some(2 * MIB));
        }
        fill(Content::Random);
        assert_eq!(differs(Content::Half), Some(0));
    }
}
