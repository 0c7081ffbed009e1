// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One look at all of memory by several threads, in blocks, until a deadline.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::GuestPages;
use super::key::{Key, PAGE};
use super::table::{Table, same};
use crate::dirty::ranges::joined;
use crate::dirty::{DirtyError, GuestRange, PAGE_SIZE};

/// Bytes that a thread takes up at a time: enough that handing them out costs nothing, few enough that a deadline is met.
const BLOCK: u64 = 2 << 20;
/// Bytes that are copied and then fingerprinted while they are in the cache.
const BUFFER: usize = 64 << 10;

/// What came of it.
pub(super) struct Outcome {
    /// What differs from what the destination has, in order.
    pub(super) dirty: Vec<GuestRange>,
    /// What was not looked at for lack of time, in order.
    pub(super) left: Vec<GuestRange>,
    /// Bytes that were read.
    pub(super) read: u64,
    /// Processor time of all threads.
    pub(super) cpu: Duration,
}

/// Compares memory with what is known of it.
pub(super) fn scan(
    key: &Key,
    pages: &dyn GuestPages,
    table: &Table,
    ranges: &[GuestRange],
    threads: NonZeroUsize,
    deadline: Option<Instant>,
) -> Result<Outcome, DirtyError> {
    let blocks = blocks(ranges);
    let next = AtomicUsize::new(0);
    let look = Look { key, pages, table };
    let work = || -> Result<(Vec<GuestRange>, u64, Duration), DirtyError> {
        let before = cpu_time();
        let mut buffer = vec![0; BUFFER];
        let (mut dirty, mut read) = (Vec::new(), 0);
        while deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            read += look.block(*block, &mut buffer, &mut dirty)?;
        }
        Ok((dirty, read, cpu_time().saturating_sub(before)))
    };
    let more = threads.get().min(blocks.len()).saturating_sub(1);
    let parts: Vec<_> = std::thread::scope(|scope| {
        // A thread that cannot be had is one fewer; the caller's own does the work then.
        let spawn = |_| {
            std::thread::Builder::new()
                .name("fingerprints".into())
                .spawn_scoped(scope, work)
                .ok()
        };
        let others: Vec<_> = (0..more).filter_map(spawn).collect();
        let own = work();
        let theirs = others
            .into_iter()
            .map(|thread| thread.join().expect("a scan does not panic"));
        std::iter::once(own).chain(theirs).collect()
    });
    let (mut dirty, mut read, mut cpu) = (Vec::new(), 0, Duration::ZERO);
    for part in parts {
        let (ranges, bytes, time) = part?;
        dirty.extend(ranges);
        read += bytes;
        cpu += time;
    }
    dirty.sort_unstable();
    let taken = next.into_inner().min(blocks.len());
    Ok(Outcome {
        dirty: joined(dirty, 0),
        left: joined(blocks[taken..].to_vec(), 0),
        read,
        cpu,
    })
}

/// Processor time of the calling thread so far.
fn cpu_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = told
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

fn blocks(ranges: &[GuestRange]) -> Vec<GuestRange> {
    let mut blocks = Vec::new();
    for range in ranges {
        let mut at = range.gpa;
        let end = range.gpa + range.length;
        while at < end {
            let length = (end - at).min(BLOCK);
            blocks.push(GuestRange { gpa: at, length });
            at += length;
        }
    }
    blocks
}

struct Look<'a> {
    key: &'a Key,
    pages: &'a dyn GuestPages,
    table: &'a Table,
}

impl Look<'_> {
    /// Looks at a block; answers the bytes read.
    fn block(
        &self,
        block: GuestRange,
        buffer: &mut [u8],
        dirty: &mut Vec<GuestRange>,
    ) -> Result<u64, DirtyError> {
        let end = block.gpa + block.length;
        let (mut at, mut read) = (block.gpa, 0);
        while at < end {
            let rest = GuestRange {
                gpa: at,
                length: end - at,
            };
            let failed = |source| DirtyError::Read { gpa: at, source };
            let touched = self.pages.touched(rest).map_err(failed)?;
            let touched = match touched {
                None => end..end,
                Some(t) => {
                    let start = t.gpa.clamp(at, end) / PAGE_SIZE * PAGE_SIZE;
                    let stop = t.gpa.saturating_add(t.length).min(end);
                    // An answer that makes no sense is no reason not to look.
                    if start < stop {
                        start..stop.next_multiple_of(PAGE_SIZE)
                    } else {
                        at..end
                    }
                }
            };
            for gpa in (at..touched.start).step_by(PAGE) {
                self.note(gpa, 0, dirty);
            }
            at = touched.start;
            while at < touched.end {
                let length = usize::try_from(touched.end - at)
                    .unwrap_or(BUFFER)
                    .min(BUFFER);
                let piece = &mut buffer[..length];
                let failed = |source| DirtyError::Read { gpa: at, source };
                self.pages.read(at, piece).map_err(failed)?;
                for page in piece.as_chunks::<PAGE>().0 {
                    self.note(at, self.key.fingerprint(page), dirty);
                    at += PAGE_SIZE;
                }
                read += length as u64;
            }
        }
        Ok(read)
    }

    fn note(&self, gpa: u64, now: u128, dirty: &mut Vec<GuestRange>) {
        if same(self.table.get(gpa), now) {
            return;
        }
        match dirty.last_mut() {
            Some(last) if last.gpa + last.length == gpa => last.length += PAGE_SIZE,
            _ => dirty.push(GuestRange {
                gpa,
                length: PAGE_SIZE,
            }),
        }
    }
}
