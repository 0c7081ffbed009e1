// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Passes over guest memory: which ranges, in which pieces.
//!
//! Memory that was never touched is skipped; a page that is all zeros goes as a range. The
//! destination's memory starts as zeros, so the first pass need not send zeros at all.

use std::time::Instant;

use vm_migration::protocol::{MemoryRange, MemoryRangeTable};
use xe_vfio_device::dirty::{Fingerprints, GuestRange};

use super::channel::{self, Channel};
use super::protocol::CHUNK;
use crate::memory::{self, GuestRam, Layout, PAGE_SIZE, is_zero};

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection.
    #[error(transparent)]
    Channel(#[from] channel::Error),
    /// The memory.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The peer has something to say in the middle of it, which is never good.
    #[error("The destination interrupted the transfer of memory")]
    Interrupted,
}

/// What a pass does with pages of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// Leaves them out: the destination has zeros there.
    Skip,
    /// Sends them as ranges: the destination may have an older page.
    Send,
}

/// All of RAM as a table.
#[must_use]
pub fn all(ram: &GuestRam) -> MemoryRangeTable {
    let mut table = MemoryRangeTable::default();
    for region in ram.layout().regions() {
        table.push(MemoryRange {
            gpa: region.gpa,
            length: region.size,
        });
    }
    table
}

/// The union of tables as ranges in order that do not overlap, cut to RAM and grown to whole pages.
#[must_use]
pub fn union(tables: Vec<MemoryRangeTable>, ram: &Layout) -> Vec<MemoryRange> {
    let whole = MemoryRangeTable::new_from_tables(tables);
    let mut ranges: Vec<(u64, u64)> = whole
        .regions()
        .iter()
        .flat_map(|r| {
            let start = r.gpa - r.gpa % PAGE_SIZE;
            let end = r.gpa.saturating_add(r.length);
            ram.clip(
                start,
                end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(end),
            )
        })
        .collect();
    ranges.sort_unstable();
    let mut merged: Vec<MemoryRange> = Vec::new();
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.gpa + last.length => {
                last.length = last.length.max(end - last.gpa);
            }
            _ => merged.push(MemoryRange {
                gpa: start,
                length: end - start,
            }),
        }
    }
    merged
}

/// How a pass is sent.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Pages of zeros.
    pub zeros: Zeros,
    /// What is told of every byte that leaves.
    pub known: Option<&'a Fingerprints>,
    /// When it ends, finished or not.
    pub until: Option<Instant>,
}

/// What was sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of memory that were sent as such.
    pub bytes: u64,
    /// What there was no time for.
    pub left: Vec<MemoryRange>,
}

/// Sends ranges.
///
/// # Errors
/// [`Error`]. [`Error::Interrupted`] when the destination speaks, so that its reason can be read.
pub fn send(
    channel: &mut Channel,
    ram: &GuestRam,
    ranges: &[MemoryRange],
    pass: Pass<'_>,
) -> Result<Sent, Error> {
    let mut buffer = vec![0; CHUNK];
    let mut sent = Sent::default();
    for range in ranges {
        let mut at = range.gpa;
        let end = range.gpa + range.length;
        while at < end {
            if channel.has_input() {
                return Err(Error::Interrupted);
            }
            if pass.until.is_some_and(|until| Instant::now() >= until) {
                sent.left.push(MemoryRange {
                    gpa: at,
                    length: end - at,
                });
                break;
            }
            let touched = ram.next_touched(at..end)?.unwrap_or(end..end);
            if touched.start > at {
                if pass.zeros == Zeros::Send {
                    let length = touched.start - at;
                    if let Some(known) = pass.known {
                        known.sent_zeros(GuestRange { gpa: at, length });
                    }
                    channel.send_zero(&[MemoryRange { gpa: at, length }])?;
                }
                at = touched.start;
                continue;
            }
            #[allow(clippy::cast_possible_truncation)] // at most CHUNK
            let chunk = &mut buffer[..(touched.end - at).min(CHUNK as u64) as usize];
            ram.read_there(at, chunk)?;
            // The copy and not RAM, which may be other bytes by now.
            if let Some(known) = pass.known {
                known.sent(at, chunk);
            }
            sent.bytes += send_chunk(channel, at, chunk, pass.zeros)?;
            at += chunk.len() as u64;
        }
    }
    Ok(sent)
}

/// Sends runs of pages that hold something, and the others as ranges.
fn send_chunk(channel: &mut Channel, gpa: u64, chunk: &[u8], zeros: Zeros) -> Result<u64, Error> {
    #[allow(clippy::cast_possible_truncation)] // a constant
    const PAGE: usize = PAGE_SIZE as usize;
    let mut empty = Vec::new();
    let mut sent = 0;
    let mut start = 0;
    while start < chunk.len() {
        let kind = is_zero(&chunk[start..(start + PAGE).min(chunk.len())]);
        let run = chunk[start..]
            .chunks(PAGE)
            .take_while(|page| is_zero(page) == kind);
        let length: usize = run.map(<[u8]>::len).sum();
        if kind {
            empty.push(MemoryRange {
                gpa: gpa + start as u64,
                length: length as u64,
            });
        } else {
            channel.send_memory(gpa + start as u64, &chunk[start..start + length])?;
            sent += length as u64;
        }
        start += length;
    }
    if zeros == Zeros::Send {
        channel.send_zero(&empty)?;
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use xe_vfio_device::transfer::Cancel;

    use super::*;
    use crate::memory::RAM_MIN;
    use crate::migration::protocol::{Kind, decode_ranges};

    fn table(ranges: &[(u64, u64)]) -> MemoryRangeTable {
        let mut table = MemoryRangeTable::default();
        for (gpa, length) in ranges {
            table.push(MemoryRange {
                gpa: *gpa,
                length: *length,
            });
        }
        table
    }

    #[test]
    fn a_union_is_in_order_whole_pages_and_free_of_overlaps() {
        let tables = vec![
            table(&[(0x5000, 0x1000), (0x1001, 0x10)]),
            table(&[(0x4000, 0x2000), (0x6000, 0x1000), (0x9000, u64::MAX)]),
        ];
        let ram = Layout::new((3 << 30) + RAM_MIN).unwrap();
        let merged = union(tables, &ram);
        let expected = [
            (0x1000, 0x1000),
            (0x4000, 0x3000),
            (0x9000, (3 << 30) - 0x9000),
            (4 << 30, RAM_MIN),
        ];
        assert_eq!(
            merged,
            expected.map(|(gpa, length)| MemoryRange { gpa, length })
        );
    }

    /// Applies what `send` puts on the wire to another RAM.
    fn transfer(from: &GuestRam, to: &GuestRam, zeros: Zeros) -> u64 {
        let (a, b) = UnixStream::pair().unwrap();
        let cancel = Cancel::new();
        let patience = Duration::from_secs(10);
        let mut receiver = Channel::new(Box::new(b), &cancel, patience).unwrap();
        let mut sender = Channel::new(Box::new(a), &cancel, patience).unwrap();
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || {
                let pass = Pass {
                    zeros,
                    known: None,
                    until: None,
                };
                let sent = send(&mut sender, from, all(from).regions(), pass).unwrap();
                sender.send_raw(Kind::Go, 0, &[]).unwrap();
                sent.bytes
            });
            loop {
                let (header, payload) = receiver.receive("testing", &|| 0).unwrap();
                match header.kind {
                    Kind::Memory => to.write(header.argument, payload).unwrap(),
                    Kind::Zero => {
                        for range in decode_ranges(payload).unwrap().regions() {
                            to.zero(range.gpa, range.length).unwrap();
                        }
                    }
                    _ => return sending.join().unwrap(),
                }
            }
        })
    }

    fn assert_same(a: &GuestRam, b: &GuestRam) {
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in (0..RAM_MIN).step_by(1 << 20) {
            a.read(at, &mut left).unwrap();
            b.read(at, &mut right).unwrap();
            assert!(left == right, "RAM differs in the MiB at {at:#x}");
        }
    }

    #[test]
    fn only_pages_that_hold_something_are_sent() {
        let (from, to) = (
            GuestRam::new(RAM_MIN).unwrap(),
            GuestRam::new(RAM_MIN).unwrap(),
        );
        from.write(0x1234, b"text").unwrap();
        from.write(0x2_0000, &[0; 0x3000]).unwrap();
        from.write(RAM_MIN - 1, b"!").unwrap();
        assert_eq!(transfer(&from, &to, Zeros::Skip), 2 * PAGE_SIZE);
        assert_same(&from, &to);
    }

    #[test]
    fn a_pass_without_time_sends_nothing_and_says_what_is_left() {
        let ram = GuestRam::new(RAM_MIN).unwrap();
        let (a, _b) = UnixStream::pair().unwrap();
        let cancel = Cancel::new();
        let mut channel = Channel::new(Box::new(a), &cancel, Duration::from_secs(1)).unwrap();
        let ranges =
            [(0x1000, 0x2000), (0x8000, 0x1000)].map(|(gpa, length)| MemoryRange { gpa, length });
        let pass = Pass {
            zeros: Zeros::Send,
            known: None,
            until: Some(Instant::now()),
        };
        let sent = send(&mut channel, &ram, &ranges, pass).unwrap();
        assert_eq!((sent.bytes, sent.left), (0, ranges.to_vec()));
    }

    #[test]
    fn a_page_that_became_zero_is_zero_at_the_destination_too() {
        let (from, to) = (
            GuestRam::new(RAM_MIN).unwrap(),
            GuestRam::new(RAM_MIN).unwrap(),
        );
        to.write(0x3000, b"old").unwrap();
        to.write(0x10_0000, b"old").unwrap();
        from.write(0x3000, &[0; 16]).unwrap();
        transfer(&from, &to, Zeros::Send);
        assert_same(&from, &to);
    }
}
