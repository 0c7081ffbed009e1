// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A frame on its way out, and the end of a stream's sending side that writes.

use std::io::{self, ErrorKind, IoSlice, Write};

use super::crc::Crc64;
use super::error::StreamError;
use super::frame::{FRAME_HEADER_SIZE, FrameType};
use super::sparse::{Run, Table, encode as encode_runs};
use super::zeros::Search;

/// What to send around a payload, and which parts of the payload. Keeps its memory from one payload to the next.
#[derive(Debug, Clone)]
pub struct Frame {
    pub(super) kind: FrameType,
    pub(super) header: [u8; FRAME_HEADER_SIZE],
    pub(super) table: Table,
    pub(super) encoded: Vec<u8>,
    /// Whether the table's zeros are left out.
    pub(super) sparse: bool,
    /// The rest, compressed, at the beginning.
    pub(super) packed: Vec<u8>,
    /// Bytes of that.
    pub(super) packed_bytes: usize,
    /// What is known of a payload that has not come whole.
    pub(super) begun: Option<Begun>,
}

/// A frame whose payload comes piece by piece.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) search: Search,
    /// Of what is no run of zeros.
    pub(super) stays: Crc64,
    /// Bytes that were looked at.
    pub(super) seen: usize,
}

impl Frame {
    /// Room for a frame.
    pub fn new() -> Self {
        Self {
            kind: FrameType::Data,
            header: [0; FRAME_HEADER_SIZE],
            table: Table::new(),
            encoded: Vec::new(),
            sparse: false,
            packed: Vec::new(),
            packed_bytes: 0,
            begun: None,
        }
    }

    /// Makes it the frame of `state` bytes that are not compressed.
    pub(super) fn plain(&mut self, state: usize) {
        self.encoded.clear();
        self.kind = FrameType::Data;
        if self.sparse {
            self.kind = FrameType::Sparse;
            self.table.encode(state, &mut self.encoded);
        }
    }

    /// Makes it the frame of `state` bytes of which `packed_bytes` compressed ones stand for what stays.
    pub(super) fn compressed(&mut self, state: usize, packed_bytes: usize) {
        self.encoded.clear();
        self.kind = FrameType::Compressed;
        self.packed_bytes = packed_bytes;
        let all = [Run {
            zeros: 0,
            bytes: state as u32,
        }];
        let runs = if self.sparse { self.table.runs() } else { &all };
        encode_runs(runs, state, &mut self.encoded);
    }

    /// Bytes of zeros that do not travel.
    pub fn zeros(&self) -> usize {
        if self.sparse { self.table.zeros() } else { 0 }
    }

    /// Payload bytes of the frame of `payload`.
    pub(super) fn length(&self, payload: &[u8]) -> usize {
        let stays = match self.kind {
            FrameType::Compressed => self.packed_bytes,
            _ => payload.len() - self.zeros(),
        };
        stays + self.encoded.len()
    }

    /// The parts of `payload` that are no zeros left out.
    pub(super) fn stays<'a>(&'a self, payload: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let (runs, whole) = if self.sparse {
            (self.table.runs(), None)
        } else {
            (&[][..], Some(payload))
        };
        let mut at = 0;
        let stay = runs.iter().map(move |run| {
            let from = at + run.zeros as usize;
            at = from + run.bytes as usize;
            &payload[from..at]
        });
        whole
            .into_iter()
            .chain(stay)
            .filter(|piece| !piece.is_empty())
    }

    /// The frame's payload: the parts of `payload` that travel, or what they were compressed to, then the table.
    pub(super) fn payload<'a>(&'a self, payload: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let (packed, stays) = match self.kind {
            FrameType::Compressed => (Some(&self.packed[..self.packed_bytes]), None),
            _ => (None, Some(self.stays(payload))),
        };
        packed
            .into_iter()
            .chain(stays.into_iter().flatten())
            .chain([&self.encoded[..]])
            .filter(|piece| !piece.is_empty())
    }

    /// Bytes that the frame of `payload` takes in the stream.
    pub fn wire_bytes(&self, payload: &[u8]) -> usize {
        FRAME_HEADER_SIZE + self.length(payload)
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes what an [`Encoder`](super::Encoder) has encoded, in its order. After a failed write nothing more: the receiver could
/// not tell a new frame from the rest of a broken one.
#[derive(Debug)]
pub struct Outlet<W: Write> {
    inner: W,
    offset: u64,
    broken: bool,
    /// Frames that go with the next write.
    held: Vec<u8>,
    held_frames: usize,
}

impl<W: Write> Outlet<W> {
    /// The outlet of a stream of which nothing was written.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            offset: 0,
            broken: false,
            held: Vec::new(),
            held_frames: 0,
        }
    }

    /// Keeps the frame of `payload`, copied, to go with the next write: a frame of zeros is a few bytes, and the call that sends them and wakes
    /// the receiver up costs more than all else that is done for it.
    pub fn hold(&mut self, frame: &Frame, payload: &[u8]) {
        self.held.extend_from_slice(&frame.header);
        frame
            .payload(payload)
            .for_each(|piece| self.held.extend_from_slice(piece));
        self.held_frames += 1;
    }

    /// Frames that wait for the next write.
    pub fn held(&self) -> usize {
        self.held_frames
    }

    /// Writes the frame of `payload`.
    ///
    /// # Errors
    /// [`StreamError::Io`], and [`StreamError::Over`] after that.
    pub fn frame(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), StreamError> {
        self.write(
            [&frame.header[..]]
                .into_iter()
                .chain(frame.payload(payload)),
        )
    }

    /// Writes bytes that the other side waits for, opening or end, and flushes.
    ///
    /// # Errors
    /// As [`Outlet::frame`].
    pub fn flushed(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.write([bytes].into_iter())?;
        self.inner.flush().map_err(|source| self.failed(source))
    }

    /// Writes what was held, then these pieces.
    fn write<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Result<(), StreamError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(StreamError::Over);
        }
        let held = std::mem::take(&mut self.held);
        let mut slices = Vec::new();
        if !held.is_empty() {
            slices.push(IoSlice::new(&held));
        }
        for piece in pieces {
            slices.push(IoSlice::new(piece));
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = write_all(&mut self.inner, &mut slices);
        written.map_err(|source| self.failed(source))?;
        self.offset += bytes as u64;
        self.held = held;
        self.held.clear();
        self.held_frames = 0;
        self.broken = false;
        Ok(())
    }

    fn failed(&mut self, source: io::Error) -> StreamError {
        self.broken = true;
        StreamError::Io {
            doing: "Sending",
            offset: self.offset,
            source,
        }
    }
}

/// Most slices that one call takes (IOV_MAX).
const SLICES_MAX: usize = 1024;

fn write_all(inner: &mut impl Write, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut left = slices;
    while !left.is_empty() {
        let most = left.len().min(SLICES_MAX);
        match inner.write_vectored(&left[..most]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
