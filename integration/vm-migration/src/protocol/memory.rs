// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges of guest memory.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::MigratableError;

/// A range of guest memory; 16 bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[repr(C)]
pub struct MemoryRange {
    /// First guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub length: u64,
}

const RANGE_SIZE: usize = size_of::<MemoryRange>();
const _: () = assert!(RANGE_SIZE == 16);

impl MemoryRange {
    /// Reads a range.
    ///
    /// # Errors
    /// `MigrateSocket`.
    pub fn read_from(fd: &mut dyn Read) -> Result<MemoryRange, MigratableError> {
        let mut bytes = [0; RANGE_SIZE];
        fd.read_exact(&mut bytes)
            .map_err(MigratableError::MigrateSocket)?;
        Ok(Self::decode(&bytes))
    }

    /// Writes the range.
    ///
    /// # Errors
    /// `MigrateSocket`.
    pub fn write_to(&self, fd: &mut dyn Write) -> Result<(), MigratableError> {
        fd.write_all(&self.encode())
            .map_err(MigratableError::MigrateSocket)
    }

    fn encode(self) -> [u8; RANGE_SIZE] {
        let mut bytes = [0; RANGE_SIZE];
        bytes[..8].copy_from_slice(&self.gpa.to_le_bytes());
        bytes[8..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; RANGE_SIZE]) -> Self {
        let value = u128::from_le_bytes(*bytes);
        Self {
            gpa: value as u64,
            length: (value >> 64) as u64,
        }
    }
}

/// Ranges of guest memory, in any order; a range that was added twice is in it twice.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct MemoryRangeTable {
    data: Vec<MemoryRange>,
}

impl MemoryRangeTable {
    /// The ranges.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.data
    }

    /// The ranges.
    pub fn regions(&self) -> &[MemoryRange] {
        &self.data
    }

    /// Whether there is no range.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Adds a range.
    pub fn push(&mut self, range: MemoryRange) {
        self.data.push(range);
    }

    /// Adds all ranges of another table.
    pub fn extend(&mut self, table: Self) {
        self.data.extend(table.data);
    }

    /// All ranges of all tables.
    pub fn new_from_tables(tables: Vec<Self>) -> Self {
        Self {
            data: tables.into_iter().flat_map(|table| table.data).collect(),
        }
    }

    /// Bytes of the table itself on the wire.
    pub fn length(&self) -> u64 {
        (self.data.len() * RANGE_SIZE) as u64
    }

    /// Bytes of guest memory in the ranges.
    pub fn effective_size(&self) -> u64 {
        self.data.iter().map(|range| range.length).sum()
    }

    /// One range for each run of set bits: bit `n` stands for the page at `start_addr + n * page_size`.
    pub fn from_dirty_bitmap(
        bitmap: impl IntoIterator<Item = u64>,
        start_addr: u64,
        page_size: u64,
    ) -> Self {
        let mut data: Vec<MemoryRange> = Vec::new();
        for (word, mut bits) in (0..).zip(bitmap) {
            while bits != 0 {
                let first = u64::from(bits.trailing_zeros());
                let count = u64::from((bits >> first).trailing_ones());
                bits &= u64::MAX.checked_shl((first + count) as u32).unwrap_or(0);
                let gpa = start_addr + (word * 64 + first) * page_size;
                let length = count * page_size;
                match data.last_mut() {
                    Some(last) if last.gpa + last.length == gpa => last.length += length,
                    _ => data.push(MemoryRange { gpa, length }),
                }
            }
        }
        Self { data }
    }

    /// Cuts the table into tables of at most `chunk_size` bytes of guest memory, in no promised order; a range may be cut.
    pub fn partition(self, chunk_size: u64) -> impl Iterator<Item = MemoryRangeTable> {
        let mut rest = self.data;
        std::iter::from_fn(move || {
            let mut chunk = Vec::new();
            let mut room = chunk_size;
            while room > 0 {
                let Some(last) = rest.last_mut() else { break };
                let take = last.length.min(room);
                last.length -= take;
                chunk.push(MemoryRange {
                    gpa: last.gpa + last.length,
                    length: take,
                });
                room -= take;
                if last.length == 0 {
                    rest.pop();
                }
            }
            (!chunk.is_empty()).then_some(MemoryRangeTable { data: chunk })
        })
    }

    /// Reads a table of `length` bytes.
    ///
    /// # Errors
    /// `MigrateSocket`.
    ///
    /// # Panics
    /// When `length` is no multiple of 16.
    pub fn read_from(fd: &mut dyn Read, length: u64) -> Result<MemoryRangeTable, MigratableError> {
        assert!(
            length.is_multiple_of(RANGE_SIZE as u64),
            "a range has 16 bytes, and {length} is no multiple of that"
        );
        let count = length / RANGE_SIZE as u64;
        (0..count)
            .map(|_| MemoryRange::read_from(fd))
            .collect::<Result<_, _>>()
            .map(|data| Self { data })
    }

    /// Writes the ranges.
    ///
    /// # Errors
    /// `MigrateSocket`.
    pub fn write_to(&self, fd: &mut dyn Write) -> Result<(), MigratableError> {
        let bytes: Vec<u8> = self.data.iter().flat_map(|range| range.encode()).collect();
        fd.write_all(&bytes).map_err(MigratableError::MigrateSocket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x1000;

    fn range(first_page: u64, pages: u64) -> MemoryRange {
        MemoryRange {
            gpa: first_page * PAGE,
            length: pages * PAGE,
        }
    }

    #[test]
    fn a_range_is_address_then_length() {
        let mut bytes = Vec::new();
        MemoryRange {
            gpa: 0x1234,
            length: 0x10,
        }
        .write_to(&mut bytes)
        .unwrap();
        assert_eq!(
            bytes,
            [0x34, 0x12, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            MemoryRange::read_from(&mut bytes.as_slice()).unwrap(),
            MemoryRange {
                gpa: 0x1234,
                length: 0x10
            }
        );
    }

    #[test]
    fn runs_of_dirty_pages_become_one_range_across_words() {
        let table = MemoryRangeTable::from_dirty_bitmap([0b0110 | 1 << 63, 0b11], 0, PAGE);
        assert_eq!(table.regions(), [range(1, 2), range(63, 3)]);
        assert_eq!(
            MemoryRangeTable::from_dirty_bitmap([u64::MAX, u64::MAX], PAGE, PAGE).regions(),
            [range(1, 128)]
        );
        assert!(MemoryRangeTable::from_dirty_bitmap([0, 0], 0, PAGE).is_empty());
    }

    #[test]
    fn chunks_cover_each_page_once_and_stay_in_bounds() {
        let table = MemoryRangeTable {
            data: vec![range(0, 5), range(8, 1), range(16, 7)],
        };
        let chunks: Vec<_> = table.clone().partition(3 * PAGE).collect();
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.effective_size() <= 3 * PAGE)
        );
        let pages = |table: &MemoryRangeTable| -> Vec<u64> {
            let mut pages: Vec<u64> = table
                .regions()
                .iter()
                .flat_map(|range| (range.gpa..range.gpa + range.length).step_by(PAGE as usize))
                .collect();
            pages.sort_unstable();
            pages
        };
        assert_eq!(
            pages(&MemoryRangeTable::new_from_tables(chunks)),
            pages(&table)
        );
    }

    #[test]
    fn a_table_comes_back_as_it_was_sent() {
        let table = MemoryRangeTable {
            data: vec![range(1, 2), range(9, 9)],
        };
        let mut bytes = Vec::new();
        table.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, table.length());
        assert_eq!(
            MemoryRangeTable::read_from(&mut bytes.as_slice(), table.length())
                .unwrap()
                .regions(),
            table.regions()
        );
        assert!(matches!(
            MemoryRangeTable::read_from(&mut [0; 8].as_slice(), 16),
            Err(MigratableError::MigrateSocket(_))
        ));
    }
}
