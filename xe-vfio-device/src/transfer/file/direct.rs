// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writing a file past the page cache.
//!
//! Such writes are whole blocks from whole blocks of memory, and a stream's frames are neither: the bytes go through one buffer that begins on
//! a page. That copy is cheap beside the one into the page cache, which also has to be taken from others and written out in the end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::super::buffer::{Buffer, PAGE};
use crate::uapi::set_direct;

/// Bytes of one write: a disk's queue is one write long, so a write has to be worth its latency.
const SIZE: usize = 4 << 20;

/// What was not written yet, and where it goes.
pub(super) struct Direct {
    buffer: Buffer,
    filled: usize,
    offset: u64,
}

impl Direct {
    /// Has a new file go past the page cache; `None` where its filesystem has no such thing.
    pub(super) fn begin(file: &File) -> Option<Self> {
        set_direct(file.as_fd(), true)
            .inspect_err(|error| tracing::info!(%error, "the file goes through the page cache"))
            .ok()?;
        Some(Self {
            buffer: Buffer::touched_of(SIZE),
            filled: 0,
            offset: 0,
        })
    }

    /// Takes all of `bytes`, and writes whenever there is enough.
    pub(super) fn write(&mut self, file: &File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = &mut self.buffer.bytes()[self.filled..];
            let count = bytes.len().min(room.len());
            let (now, rest) = bytes.split_at(count);
            room[..count].copy_from_slice(now);
            bytes = rest;
            self.filled += count;
            if self.filled == SIZE {
                self.put(file, SIZE)?;
            }
        }
        Ok(())
    }

    /// Writes what is left, with zeros up to a whole page, and cuts the file to its bytes.
    pub(super) fn end(&mut self, file: &File) -> io::Result<()> {
        let end = self.offset + self.filled as u64;
        let whole = self.filled.next_multiple_of(PAGE);
        self.buffer.bytes()[self.filled..whole].fill(0);
        self.put(file, whole)?;
        file.set_len(end)
    }

    fn put(&mut self, file: &File, length: usize) -> io::Result<()> {
        let bytes = &self.buffer.as_slice()[..length];
        match file.write_all_at(bytes, self.offset) {
            // The filesystem takes the flag and not the writes, or wants larger blocks.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                tracing::info!(%error, "the file goes through the page cache");
                set_direct(file.as_fd(), false)?;
                file.write_all_at(bytes, self.offset)?;
            }
            result => result?,
        }
        self.offset += length as u64;
        self.filled = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ from each other.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| ((at * 7) ^ (at >> 9)) as u8).collect()
    }

    #[test]
    fn bytes_in_pieces_of_any_size_arrive_and_the_file_ends_with_them() {
        for (length, piece) in [
            (0, 1),
            (1, 1),
            (4096, 24),
            (SIZE, 8191),
            (2 * SIZE + 777, SIZE - 1),
        ] {
            let file = tempfile::tempfile().unwrap();
            let Some(mut direct) = Direct::begin(&file) else {
                println!(
                    "skipped: bytes_in_pieces_of_any_size_arrive_and_the_file_ends_with_them: no O_DIRECT here"
                );
                return;
            };
            let bytes = pattern(length);
            for piece in bytes.chunks(piece) {
                direct.write(&file, piece).unwrap();
            }
            direct.end(&file).unwrap();
            set_direct(file.as_fd(), false).unwrap();
            let mut found = vec![0; length];
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found == bytes, "{length} by {piece}");
            assert_eq!(file.metadata().unwrap().len(), length as u64);
        }
    }

    #[test]
    fn a_filesystem_that_refuses_the_writes_gets_them_through_the_cache() {
        let file = tempfile::tempfile().unwrap();
        let Some(mut direct) = Direct::begin(&file) else {
            println!(
                "skipped: a_filesystem_that_refuses_the_writes_gets_them_through_the_cache: no O_DIRECT here"
            );
            return;
        };
        // No block begins at such an offset.
        direct.offset = 100;
        direct.write(&file, &pattern(5000)).unwrap();
        direct.end(&file).unwrap();
        let mut found = vec![0; 5000];
        file.read_exact_at(&mut found, 100).unwrap();
        assert!(found == pattern(5000));
        assert_eq!(file.metadata().unwrap().len(), 5100);
    }
}
