// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the frames of state stand in a file: what the index frame before the end record holds.
//!
//! A writer notes an [`Entry`] for each frame (`Noted`). A reader that takes frames in their order compares the index with what came
//! without keeping any of it (`Compared`). A reader that wants frames out of their order finds the index from the file's end and
//! gets an [`Index`], which agrees with itself and with the file's length; whether it agrees with the frames, each frame's own number and checksum
//! tell, and in the end `Compared`.

use std::ops::Range;

use super::crc::Crc64;
use super::frame::{END_SIZE, FRAME_HEADER_SIZE, array};

/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 16;
/// Bytes behind the entries.
pub const TAIL_SIZE: usize = 24;
/// Most entries. A stream of more frames has an index without entries, and is read from its beginning to its end.
pub const ENTRIES_MAX: usize = 65_534;
/// Most payload bytes of an index frame.
pub const INDEX_MAX: u32 = (ENTRIES_MAX * ENTRY_SIZE + TAIL_SIZE) as u32;
/// Bytes of the end record's frame, behind the index.
pub const BEHIND: u64 = (FRAME_HEADER_SIZE + END_SIZE) as u64;

const _: () = assert!(INDEX_MAX <= super::frame::FRAME_DEFAULT);

/// Where a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of the file before its header.
    pub offset: u64,
    /// Bytes of state before its own.
    pub state: u64,
}

impl Entry {
    fn encode(self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.state.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_SIZE]) -> Self {
        Self {
            offset: u64::from_le_bytes(array(bytes, 0)),
            state: u64::from_le_bytes(array(bytes, 8)),
        }
    }
}

/// Behind the entries: how many there are, and what the next entry would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    entries: u64,
    next: Entry,
}

impl Tail {
    fn encode(self) -> [u8; TAIL_SIZE] {
        let mut bytes = [0; TAIL_SIZE];
        bytes[..8].copy_from_slice(&self.entries.to_le_bytes());
        bytes[8..].copy_from_slice(&self.next.encode());
        bytes
    }

    fn decode(bytes: &[u8; TAIL_SIZE]) -> Self {
        Self {
            entries: u64::from_le_bytes(array(bytes, 0)),
            next: Entry::decode(&array(bytes, 8)),
        }
    }
}

/// An index that no writer writes, or that is not of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The stream has no place for it.
    #[error("An index stands where none was announced, or there is more than one")]
    Unannounced,
    /// It was announced and did not come.
    #[error("The preamble announces an index, and the end record comes without one")]
    Missing,
    /// Its length is not that of its entries.
    #[error("The index of {bytes} bytes tells of {entries} entries")]
    Length {
        /// Payload bytes.
        bytes: usize,
        /// Entries as told.
        entries: u64,
    },
    /// An entry that cannot follow the one before it.
    #[error(
        "Entry {number} of the index tells of byte {offset} of the file and {state} of the state, where no frame can begin"
    )]
    Entry {
        /// Number of the entry, from 0; behind the last one the place of the index itself.
        number: usize,
        /// Offset in the file as told.
        offset: u64,
        /// Offset in the state as told.
        state: u64,
    },
    /// It does not tell what the frames before it are.
    #[error("The index tells of other frames than those that stand in the file")]
    Frames,
    /// A frame has another length than the index tells.
    #[error("A frame has {found} bytes where the index tells of {told}")]
    Frame {
        /// Bytes as told, header included.
        told: u64,
        /// Bytes that it has.
        found: u64,
    },
}

/// What a writer notes.
#[derive(Debug, Clone, Default)]
pub(super) struct Noted {
    entries: Vec<u8>,
    frames: usize,
}

impl Noted {
    pub(super) fn add(&mut self, entry: Entry) {
        self.frames += 1;
        if self.frames <= ENTRIES_MAX {
            self.entries.extend_from_slice(&entry.encode());
        } else {
            self.entries = Vec::new();
        }
    }

    /// The index frame's payload, for an index that begins at `next`.
    pub(super) fn encode(mut self, next: Entry) -> Vec<u8> {
        let entries = (self.entries.len() / ENTRY_SIZE) as u64;
        self.entries
            .extend_from_slice(&Tail { entries, next }.encode());
        self.entries
    }
}

/// Sums up what the index has to be, in no memory.
#[derive(Clone)]
pub(super) struct Compared {
    sum: Crc64,
    frames: usize,
}

impl Compared {
    pub(super) fn new() -> Self {
        Self {
            sum: Crc64::new(),
            frames: 0,
        }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.frames += 1;
        self.sum.update(&entry.encode());
    }

    /// Whether `payload` is the index of the frames that came, with itself beginning at `next`.
    pub(super) fn check(&self, payload: &[u8], next: Entry) -> Result<(), IndexError> {
        let (entries, tail) = parts(payload)?;
        let empty = self.frames > ENTRIES_MAX;
        let count = if empty { 0 } else { self.frames };
        let mut sum = Crc64::new();
        sum.update(entries.as_flattened());
        let same = empty || sum.finish() == self.sum.finish();
        if entries.len() == count && tail.next == next && same {
            Ok(())
        } else {
            Err(IndexError::Frames)
        }
    }
}

type Parts<'a> = (&'a [[u8; ENTRY_SIZE]], Tail);

fn parts(payload: &[u8]) -> Result<Parts<'_>, IndexError> {
    let wrong = |entries| IndexError::Length {
        bytes: payload.len(),
        entries,
    };
    let (entries, tail) = payload
        .split_last_chunk::<TAIL_SIZE>()
        .ok_or_else(|| wrong(0))?;
    let tail = Tail::decode(tail);
    match entries.as_chunks::<ENTRY_SIZE>() {
        (entries, []) if entries.len() as u64 == tail.entries => Ok((entries, tail)),
        _ => Err(wrong(tail.entries)),
    }
}

/// Where the index frame of a file of `length` bytes begins, from the last bytes of its payload; `None` when it cannot begin there.
pub fn begins(tail: &[u8; TAIL_SIZE], length: u64) -> Option<u64> {
    let Tail { entries, next } = Tail::decode(tail);
    let payload = entries
        .checked_mul(ENTRY_SIZE as u64)?
        .checked_add(TAIL_SIZE as u64)?;
    let end = next
        .offset
        .checked_add(FRAME_HEADER_SIZE as u64)?
        .checked_add(payload)?
        .checked_add(BEHIND)?;
    (entries <= ENTRIES_MAX as u64 && end == length).then_some(next.offset)
}

/// Where the frames of a file are, as its index tells: one behind the other, each no longer than a frame may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// One for each frame, and what the next would be.
    entries: Vec<Entry>,
}

impl Index {
    /// Reads an index frame's payload. The frames begin at `first`, behind the manifest, and have at most `frame_max` bytes of payload
    /// and of state each.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn decode(payload: &[u8], first: u64, frame_max: u32) -> Result<Self, IndexError> {
        let (entries, tail) = parts(payload)?;
        let mut checked = Vec::with_capacity(entries.len() + 1);
        let begin = Entry {
            offset: first,
            state: 0,
        };
        let mut before = begin;
        for (number, entry) in entries
            .iter()
            .map(Entry::decode)
            .chain([tail.next])
            .enumerate()
        {
            let most = u64::from(frame_max);
            let fits = match number {
                0 if entries.is_empty() => entry.offset >= first,
                0 => entry == begin,
                _ => {
                    let bytes = entry.offset.checked_sub(before.offset);
                    let state = entry.state.checked_sub(before.state);
                    let header = FRAME_HEADER_SIZE as u64;
                    bytes.is_some_and(|bytes| (header + 1..=header + most).contains(&bytes))
                        && state.is_some_and(|state| (1..=most).contains(&state))
                }
            };
            if !fits {
                return Err(IndexError::Entry {
                    number,
                    offset: entry.offset,
                    state: entry.state,
                });
            }
            checked.push(entry);
            before = entry;
        }
        Ok(Self { entries: checked })
    }

    /// Number of frames of state that it tells of; 0 when there were too many.
    pub fn len(&self) -> usize {
        self.entries.len() - 1
    }

    /// Whether it tells of none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the file that frame `number` takes, header included.
    pub fn frame(&self, number: usize) -> Option<Range<u64>> {
        let next = self.entries.get(number + 1)?;
        Some(self.entries[number].offset..next.offset)
    }

    /// Bytes of the state that frame `number` stands for.
    pub fn state(&self, number: usize) -> Option<Range<u64>> {
        let next = self.entries.get(number + 1)?;
        Some(self.entries[number].state..next.state)
    }

    /// Where the index frame itself begins.
    pub fn offset(&self) -> u64 {
        self.entries.last().map_or(0, |next| next.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64, state: u64) -> Entry {
        Entry { offset, state }
    }

    fn encoded(entries: &[Entry], next: Entry) -> Vec<u8> {
        let mut noted = Noted::default();
        entries.iter().for_each(|entry| noted.add(*entry));
        noted.encode(next)
    }

    const FIRST: u64 = 100;
    const GOOD: [Entry; 3] = [
        Entry {
            offset: FIRST,
            state: 0,
        },
        Entry {
            offset: FIRST + 25,
            state: 1,
        },
        Entry {
            offset: FIRST + 25 + 24 + 512,
            state: 513,
        },
    ];

    #[test]
    fn an_index_tells_where_each_frame_is_in_file_and_state() {
        let payload = encoded(&GOOD, entry(700, 600));
        let index = Index::decode(&payload, FIRST, 512).unwrap();
        assert_eq!((index.len(), index.offset()), (3, 700));
        assert_eq!(index.frame(1), Some(125..661));
        assert_eq!(index.state(2), Some(513..600));
        assert_eq!((index.frame(3), index.state(3)), (None, None));
        let tail = payload.last_chunk().unwrap();
        let length = 700 + 24 + payload.len() as u64 + BEHIND;
        assert_eq!(begins(tail, length), Some(700));
        assert_eq!(begins(tail, length + 1), None);
        assert_eq!(begins(&[0xff; TAIL_SIZE], length), None);
    }

    #[test]
    fn frames_that_overlap_leave_a_gap_or_are_too_long_are_refused() {
        let good = encoded(&GOOD, entry(700, 600));
        for (number, other) in [
            (0, entry(FIRST + 1, 0)),
            (0, entry(FIRST, 1)),
            (1, entry(FIRST + 24, 1)),
            (1, entry(FIRST + 24 + 513, 1)),
            (1, entry(FIRST + 25, 0)),
            (1, entry(0, 1)),
            (1, entry(u64::MAX, u64::MAX)),
            (2, entry(FIRST + 25, 513)),
            (2, entry(FIRST + 25 + 24 + 512, 514)),
        ] {
            let mut entries = GOOD;
            entries[number] = other;
            let payload = encoded(&entries, entry(700, 600));
            let refused = Index::decode(&payload, FIRST, 512);
            assert!(
                matches!(refused, Err(IndexError::Entry { .. })),
                "{other:?}"
            );
        }
        for next in [
            entry(661, 600),
            entry(700, 513),
            entry(1198, 600),
            entry(700, 1026),
        ] {
            let payload = encoded(&GOOD, next);
            assert!(Index::decode(&payload, FIRST, 512).is_err(), "{next:?}");
        }
        for length in 0..good.len() {
            assert!(Index::decode(&good[..length], FIRST, 512).is_err());
        }
    }

    #[test]
    fn an_index_is_compared_with_the_frames_without_keeping_them() {
        let mut compared = Compared::new();
        GOOD.iter().for_each(|entry| compared.add(*entry));
        let next = entry(700, 600);
        let good = encoded(&GOOD, next);
        assert_eq!(compared.check(&good, next), Ok(()));
        for at in 0..good.len() {
            let mut other = good.clone();
            other[at] ^= 1;
            assert!(compared.check(&other, next).is_err(), "byte {at}");
        }
        assert!(compared.check(&encoded(&GOOD[..2], next), next).is_err());
        assert!(compared.check(&good, entry(701, 600)).is_err());
    }

    #[test]
    fn more_frames_than_an_index_may_tell_of_leave_it_empty_and_small() {
        let (mut noted, mut compared) = (Noted::default(), Compared::new());
        for number in 0..=ENTRIES_MAX as u64 {
            noted.add(entry(FIRST + 25 * number, number));
            compared.add(entry(FIRST + 25 * number, number));
        }
        let next = entry(1 << 30, 1 << 20);
        let payload = noted.encode(next);
        assert_eq!(payload.len(), TAIL_SIZE);
        assert_eq!(compared.check(&payload, next), Ok(()));
        assert!(Index::decode(&payload, FIRST, 512).unwrap().is_empty());
    }
}
