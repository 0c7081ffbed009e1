// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the frames of an indexed file ahead of the thread that takes them in order.
//!
//! Each thread reads frames by their place (`pread`) and sums them; numbers go round among the threads. The index is a hint where to read and nothing
//! is believed for its sake: the frames go through the same checker, in the same order, as those of a connection. A file whose index
//! cannot be found from its end is read from its beginning, where the checker says what is wrong with it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};

use super::super::buffer::{BUFFER_SIZE, Buffer, PAGE};
use super::super::ordered::{Feeding, Merging, lanes};
use super::super::parcel::Parcel;
use super::super::stages::{Stages, Threads, timed};
use crate::stream::frame::FRAME_HEADER_SIZE;
use crate::stream::index::{self, Index};
use crate::stream::{Checker, Framing, Raw};
use crate::uapi::{is_cached, set_direct};

/// Buffers of each thread: one that is read into while the other is taken.
const EACH: usize = 2;
/// Bytes of such a buffer: a frame with its header, from the page that it begins in to the one that it ends in.
const ROOM: usize = BUFFER_SIZE + 3 * PAGE;

/// Threads that read ahead, and what they have read.
pub(in super::super) struct Ahead<'scope> {
    merging: Merging<Box<Parcel>>,
    threads: Vec<ScopedJoinHandle<'scope, Stages>>,
    index: Arc<Index>,
}

/// A file and where its frames are.
struct Places {
    file: File,
    index: Arc<Index>,
    /// Bytes of the file.
    length: u64,
    framing: Framing,
    /// Whether reads go past the page cache, in whole pages.
    direct: bool,
}

impl<'scope> Ahead<'scope> {
    /// Starts reading a file whose opening was read, buffers touched; `None` when it has no index that can be used, or when `threads` asks for one thread only.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub(in super::super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        file: File,
        checker: &Checker,
        framing: Framing,
        threads: Threads,
    ) -> io::Result<Option<Self>> {
        let readers = threads.readers();
        if readers == 0 || !checker.is_indexed() || checker.frame_max() as usize > BUFFER_SIZE {
            return Ok(None);
        }
        let first = checker.totals().wire_bytes;
        let Some((index, length)) = find(&file, first, framing, checker.frame_max()) else {
            return Ok(None);
        };
        if index.is_empty() {
            return Ok(None);
        }
        let index = Arc::new(index);
        let direct = !is_in_memory(&file, &index) && set_direct(file.as_fd(), true).is_ok();
        tracing::debug!(
            readers,
            direct,
            frames = index.len(),
            "the file is read ahead"
        );
        let places = Arc::new(Places {
            file,
            index: Arc::clone(&index),
            length,
            framing,
            direct,
        });
        let buffers = || (0..EACH).map(|_| Parcel::with(Buffer::touched_of(ROOM)));
        let (feeding, merging) = lanes((0..readers).map(|_| buffers().collect()).collect());
        let mut threads = Vec::new();
        for (reader, lane) in feeding.into_iter().enumerate() {
            let places = Arc::clone(&places);
            let thread = thread::Builder::new()
                .name("vf-read".to_owned())
                .stack_size(256 << 10)
                .spawn_scoped(scope, move || places.read(&lane, reader, readers))?;
            threads.push(thread);
        }
        Ok(Some(Self {
            merging,
            threads,
            index,
        }))
    }

    /// The next frame in order; `None` when the threads have died.
    pub(in super::super) fn take(&self) -> Option<Box<Parcel>> {
        let (lane, mut parcel) = self.merging.take()?;
        parcel.lane = lane;
        Some(parcel)
    }

    /// Gives a frame's buffer back.
    pub(in super::super) fn give_back(&self, parcel: Box<Parcel>) {
        self.merging.give_back(parcel.lane, parcel);
    }

    /// Where the frames are.
    pub(in super::super) fn index(&self) -> &Index {
        &self.index
    }

    /// Ends the threads; answers what their time was spent with, `None` when one has panicked.
    pub(in super::super) fn finish(self) -> Option<Stages> {
        drop(self.merging);
        let mut sum = Some(Stages::default());
        for thread in self.threads {
            let stages = thread.join().ok();
            sum = sum.zip(stages).map(|(sum, stages)| sum.plus(&stages));
        }
        sum
    }
}

impl Places {
    /// Reads each `step`th frame from number `first` on, and so the index and the end record.
    fn read(&self, lane: &Feeding<Box<Parcel>>, first: usize, step: usize) -> Stages {
        let mut stages = Stages::default();
        for number in (first..self.index.len() + 2).step_by(step) {
            let Some(mut parcel) = timed(&mut stages.stream_idle, || lane.take()) else {
                break;
            };
            let range = self.range(number);
            let read = timed(&mut stages.stream, || self.frame(range, &mut parcel));
            let Some(read) = read else {
                lane.fail(parcel);
                break;
            };
            timed(&mut stages.frames, || {
                let (raw, payload) = parcel.parts();
                raw.sum(payload);
            });
            if !lane.put(number as u64, parcel) || read {
                break;
            }
        }
        stages
    }

    fn range(&self, number: usize) -> Range<u64> {
        let end = self.length - index::BEHIND;
        self.index.frame(number).unwrap_or_else(|| {
            if number == self.index.len() {
                self.index.offset()..end
            } else {
                end..self.length
            }
        })
    }

    /// Reads one frame; answers whether it is the last, `None` when the file cannot be read.
    fn frame(&self, range: Range<u64>, parcel: &mut Parcel) -> Option<bool> {
        let length = (range.end - range.start) as usize;
        let (from, at) = if self.direct {
            let into_page = range.start % PAGE as u64;
            (range.start - into_page, into_page as usize)
        } else {
            // The payload then begins on a page, which the kernel copies whole.
            (range.start, PAGE - FRAME_HEADER_SIZE)
        };
        let buffer = parcel.buffer.bytes();
        let room = if self.direct {
            &mut buffer[..(at + length).next_multiple_of(PAGE)]
        } else {
            &mut buffer[at..at + length]
        };
        let need = if self.direct { at + length } else { length };
        let (got, error) = read_at(&self.file, room, from, need);
        if got < need && error.is_some() {
            parcel.raw = Raw::unread(error);
            return None;
        }
        let end = (if self.direct { got } else { at + got }).clamp(at, at + length);
        parcel.start = (at + FRAME_HEADER_SIZE).min(end);
        self.framing
            .frame(&mut parcel.raw, &parcel.buffer.as_slice()[at..end]);
        Some(parcel.raw.is_last())
    }
}

/// Reads at least `need` bytes unless the file ends before; answers how many, and why there are no more.
fn read_at(file: &File, buffer: &mut [u8], from: u64, need: usize) -> (usize, Option<io::Error>) {
    let mut got = 0;
    while got < need {
        match file.read_at(&mut buffer[got..], from + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (got, Some(error)),
        }
    }
    (got, None)
}

/// The index, found from the file's end, and the file's length.
fn find(file: &File, first: u64, framing: Framing, frame_max: u32) -> Option<(Index, u64)> {
    let length = file.metadata().ok().filter(|data| data.is_file())?.len();
    let mut tail = [0; index::TAIL_SIZE];
    let end = length.checked_sub(index::BEHIND)?;
    file.read_exact_at(&mut tail, end.checked_sub(index::TAIL_SIZE as u64)?)
        .ok()?;
    let begin = index::begins(&tail, length)?;
    // At most as long as an index may be: `begins` has seen to it.
    let mut bytes = vec![0; (end - begin) as usize];
    file.read_exact_at(&mut bytes, begin).ok()?;
    let mut raw = Raw::new();
    framing.frame(&mut raw, &bytes);
    let payload = &bytes[FRAME_HEADER_SIZE..];
    if !raw.is_index() || !raw.sum(payload) {
        return None;
    }
    let index = Index::decode(payload, first, frame_max)
        .inspect_err(|error| tracing::warn!(%error, "the file's index is not used"))
        .ok()?;
    Some((index, length))
}

/// Whether the file is in the page cache, as far as its beginning, middle and end tell. Past the cache a file is read without filling memory with
/// what is read once; out of the cache it comes faster.
fn is_in_memory(file: &File, index: &Index) -> bool {
    let count = index.len();
    [0, count / 2, count - 1]
        .into_iter()
        .filter_map(|number| index.frame(number))
        .all(|frame| is_cached(file.as_fd(), frame.start))
}
