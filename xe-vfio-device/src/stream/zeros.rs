// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finding zeros, and not looking for them where there are none.
//!
//! VRAM that no application has touched is zero, and what it was cleared to by the driver. A block is left at its first
//! word that is not zero, so that content without zeros costs next to nothing; content that looks like zeros for long and is not
//! makes [`Elision`] look less often.

use super::sparse::{RUN_SIZE, RUNS_MAX, Run, TAIL_SIZE, Table};

/// Zeros are found in blocks of this size from a payload's beginning: a page of VRAM when the payload begins on one.
pub const BLOCK: usize = 4096;
/// So many frames without a run and zeros are looked for in one frame of [`PROBE`] only.
const PATIENCE: u32 = 16;
const PROBE: u32 = 8;

/// Whether `bytes` are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // A cache line at a time: the compiler makes vectors of it, and random bytes are left after one.
    let (lines, rest) = bytes.as_chunks::<64>();
    lines.iter().all(|line| {
        let words = line.as_chunks::<8>().0;
        words
            .iter()
            .fold(0, |all, word| all | u64::from_ne_bytes(*word))
            == 0
    }) && rest.iter().all(|byte| *byte == 0)
}

/// When to look for zeros.
#[derive(Debug, Clone, Default)]
pub struct Elision {
    /// Frames in a row that had none.
    without: u32,
}

impl Elision {
    /// Begins to look at a payload, whose runs will stand in `table`.
    pub fn begin(&self, table: &mut Table) -> Search {
        table.clear();
        Search {
            looking: self.without < PATIENCE || self.without.is_multiple_of(PROBE),
            run: Run { zeros: 0, bytes: 0 },
        }
    }

    /// Ends it; `true` when leaving the runs out makes the frame shorter.
    pub fn end(&mut self, search: &Search, table: &mut Table) -> bool {
        table.push(search.run);
        let found = table.zeros() > table.runs().len() * RUN_SIZE + TAIL_SIZE;
        self.without = if found {
            0
        } else {
            self.without.wrapping_add(1).max(1)
        };
        found
    }
}

/// Looks for runs of zeros in a payload that comes piece by piece.
#[derive(Debug, Clone)]
pub struct Search {
    looking: bool,
    run: Run,
}

impl Search {
    /// Looks at the next piece: whole blocks, unless it is the last one. What is no run goes to `stays`, in as few parts as
    /// there can be.
    pub fn look(&mut self, piece: &[u8], table: &mut Table, mut stays: impl FnMut(&[u8])) {
        let (mut from, mut at) = (0, 0);
        // The last run takes what there is no room for.
        while self.looking && table.runs().len() + 1 < RUNS_MAX && at < piece.len() {
            let block = &piece[at..piece.len().min(at + BLOCK)];
            if is_zero(block) {
                if from < at {
                    stays(&piece[from..at]);
                }
                from = at + block.len();
                if self.run.bytes > 0 {
                    table.push(std::mem::take(&mut self.run));
                }
                self.run.zeros += block.len() as u32;
            } else {
                self.run.bytes += block.len() as u32;
            }
            at += block.len();
        }
        self.run.bytes += (piece.len() - at) as u32;
        if from < piece.len() {
            stays(&piece[from..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Elision {
        /// Looks at all of a payload at once.
        fn find(&mut self, payload: &[u8], table: &mut Table) -> bool {
            let mut search = self.begin(table);
            search.look(payload, table, |_| {});
            self.end(&search, table)
        }
    }

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        for length in [1, 63, 64, 65, BLOCK] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn runs_are_found_at_the_ends_and_in_the_middle() {
        let mut payload = vec![0; 6 * BLOCK + 100];
        payload[2 * BLOCK + 5] = 1;
        payload[5 * BLOCK] = 1;
        let mut table = Table::new();
        assert!(Elision::default().find(&payload, &mut table));
        let run = |zeros: usize, bytes: usize| Run {
            zeros: zeros as u32,
            bytes: bytes as u32,
        };
        assert_eq!(
            table.runs(),
            [run(2 * BLOCK, BLOCK), run(2 * BLOCK, BLOCK), run(100, 0)]
        );
    }

    #[test]
    fn pieces_of_a_payload_have_the_runs_of_the_whole_and_what_stays_is_handed_on() {
        let mut payload = vec![0; 9 * BLOCK + 100];
        for block in [0, 3, 4, 8] {
            payload[block * BLOCK + 7] = block as u8 + 1;
        }
        let (mut whole, mut table) = (Table::new(), Table::new());
        assert!(Elision::default().find(&payload, &mut whole));
        for blocks in 1..=10 {
            let mut elision = Elision::default();
            let (mut search, mut stayed) = (elision.begin(&mut table), Vec::new());
            for piece in payload.chunks(blocks * BLOCK) {
                search.look(piece, &mut table, |bytes| stayed.extend_from_slice(bytes));
            }
            assert!(elision.end(&search, &mut table));
            assert_eq!(table, whole, "{blocks} blocks at a time");
            let stays = [0, 3, 4, 8].map(|block| &payload[block * BLOCK..][..BLOCK]);
            assert_eq!(stayed, stays.concat(), "{blocks} blocks at a time");
        }
    }

    #[test]
    fn more_runs_than_a_frame_may_have_end_in_bytes() {
        let mut payload = vec![0; 4 * RUNS_MAX * BLOCK];
        for block in payload.chunks_mut(2 * BLOCK) {
            block[0] = 1;
        }
        let mut table = Table::new();
        assert!(Elision::default().find(&payload, &mut table));
        assert_eq!(table.runs().len(), RUNS_MAX);
        let all: usize = table.runs().iter().map(|run| run.bytes as usize).sum();
        assert_eq!(all + table.zeros(), payload.len());
    }

    #[test]
    fn content_without_zeros_is_looked_at_less_and_zeros_later_are_found_again() {
        let (full, empty) = (vec![1; 2 * BLOCK], vec![0; 2 * BLOCK]);
        let (mut elision, mut table) = (Elision::default(), Table::new());
        for _ in 0..100 {
            assert!(!elision.find(&full, &mut table));
        }
        let missed = (0..PROBE).take_while(|_| !elision.find(&empty, &mut table));
        assert!(missed.count() < PROBE as usize);
        assert!(elision.find(&empty, &mut table), "on again at once");
    }
}
