// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stream's frames on their way in: received as they are by an [`Inlet`], which believes nothing but what it needs to know how
//! much to read, then checked by a [`Checker`]. The two may belong to different threads.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use super::attempt::AttemptId;
use super::codec::Unpacker;
use super::crc::Crc64;
use super::decode::{Bounds, Decoder, Event};
use super::error::StreamError;
use super::fault::{DecodeError, DecodeFault, Place};
use super::frame::{self, End, FRAME_HEADER_SIZE, FrameHeader, FrameType, Part, Totals};
use super::sparse::Pieces;
use crate::xe::Account;

/// Bytes that are received at most before they are summed, where they are summed as they come: few enough for the second cache to
/// have them still. With larger ones a receiver on two cores is up to a tenth slower (docs/performance.md, Pieces).
const PIECE: usize = 64 << 10;

/// A frame as it was received, its payload elsewhere. Not checked.
#[derive(Debug)]
pub struct Raw {
    header: [u8; FRAME_HEADER_SIZE],
    header_bytes: usize,
    payload_bytes: usize,
    error: Option<io::Error>,
    is_last: bool,
    /// The checksum of header and payload, when it was computed already.
    summed: Option<u64>,
    /// Bytes of the frame as an index told, when they are not those that it has.
    told: Option<u64>,
}

impl Raw {
    /// Room for a frame.
    pub fn new() -> Self {
        Self {
            header: [0; FRAME_HEADER_SIZE],
            header_bytes: 0,
            payload_bytes: 0,
            error: None,
            is_last: false,
            summed: None,
            told: None,
        }
    }

    /// A frame that could not be read.
    pub(crate) fn unread(error: Option<io::Error>) -> Self {
        Self {
            error,
            is_last: true,
            ..Self::new()
        }
    }

    /// Whether its header tells of an index. Not checked.
    pub(crate) fn is_index(&self) -> bool {
        let header = FrameHeader::decode(&self.header);
        header.is_ok_and(|header| header.frame_type == FrameType::Index) && self.told.is_none()
    }

    /// The number that its header tells; `None` when there is no whole header of a frame. Not checked.
    pub fn sequence(&self) -> Option<u64> {
        let header = FrameHeader::decode(&self.header);
        let whole = self.header_bytes == FRAME_HEADER_SIZE;
        header.ok().filter(|_| whole).map(|header| header.sequence)
    }

    /// Computes the checksum of a frame that came whole, so that the [`Checker`] need not; whether it is the one that the
    /// frame bears.
    pub fn sum(&mut self, payload: &[u8]) -> bool {
        let Some(payload) = payload.get(..self.payload_bytes) else {
            return false;
        };
        let summed = frame::checksum(&self.header, payload);
        self.summed = Some(summed);
        frame::stored_checksum(&self.header) == summed
    }

    /// Whether it came whole, was summed, and has the checksum that it bears.
    pub fn holds(&self) -> bool {
        self.summed == Some(frame::stored_checksum(&self.header))
    }

    /// Whether no frame can follow: the stream has ended, well or not.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Bytes received.
    pub fn wire_bytes(&self) -> usize {
        self.header_bytes + self.payload_bytes
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self::new()
    }
}

/// How the frames of one stream are read.
#[derive(Debug, Clone, Copy)]
pub struct Framing(Bounds);

impl Framing {
    /// A frame from `bytes` of a file that an index tells of, header first. The payload begins behind the header.
    pub fn frame(self, raw: &mut Raw, bytes: &[u8]) {
        let told = bytes.len() as u64;
        let Some((header, payload)) = bytes.split_first_chunk::<FRAME_HEADER_SIZE>() else {
            *raw = Raw {
                is_last: true,
                ..Raw::new()
            };
            return;
        };
        *raw = Raw {
            header: *header,
            header_bytes: FRAME_HEADER_SIZE,
            payload_bytes: payload.len(),
            is_last: true,
            ..Raw::new()
        };
        // What is wrong here is the checker's to say.
        let Ok(decoded) = FrameHeader::decode(header) else {
            return;
        };
        if self.0.check(&decoded).is_err() {
            return;
        }
        if decoded.length as usize != payload.len() {
            raw.told = Some(told);
            return;
        }
        raw.is_last = ends(decoded.frame_type);
    }
}

/// Whether no frame follows one of this type.
fn ends(frame_type: FrameType) -> bool {
    matches!(frame_type, FrameType::Abort | FrameType::End)
}

/// Receives frames.
#[derive(Debug)]
pub struct Inlet<R: Read> {
    inner: R,
    bounds: Bounds,
}

impl<R: Read> Inlet<R> {
    pub(super) fn new(inner: R, bounds: Bounds) -> Self {
        Self { inner, bounds }
    }

    /// The same stream, read through something else.
    pub fn map<T: Read>(self, wrap: impl FnOnce(R) -> T) -> Inlet<T> {
        Inlet {
            inner: wrap(self.inner),
            bounds: self.bounds,
        }
    }

    /// How its frames are read, for others that read the same stream.
    pub fn framing(&self) -> Framing {
        Framing(self.bounds)
    }

    /// Receives one frame; `room` answers memory for so many bytes of payload, never more than the stream's largest frame. What goes
    /// wrong stands in `raw` for the [`Checker`] to find.
    pub fn frame<'b>(&mut self, raw: &mut Raw, room: impl FnOnce(usize) -> &'b mut [u8]) {
        self.frame_by(raw, fill, room);
    }

    /// As [`Inlet::frame`], and computes the checksum while the frame comes, so that the [`Checker`] need not. `update` is
    /// [`Crc64::update`], or does it.
    pub fn frame_summed<'b>(
        &mut self,
        raw: &mut Raw,
        mut update: impl FnMut(&mut Crc64, &[u8]),
        room: impl FnOnce(usize) -> &'b mut [u8],
    ) {
        let Some(header) = self.header(raw, fill) else {
            return;
        };
        let payload = room(header.length as usize);
        let mut sum = Crc64::new();
        update(&mut sum, frame::summed(&raw.header));
        while raw.error.is_none() && raw.payload_bytes < payload.len() {
            let left = &mut payload[raw.payload_bytes..];
            let most = left.len().min(PIECE);
            let (got, error) = self.fill(&mut left[..most]);
            update(&mut sum, &left[..got]);
            raw.payload_bytes += got;
            raw.error = error;
            if got < most {
                break;
            }
        }
        if raw.payload_bytes == payload.len() {
            raw.is_last = ends(header.frame_type);
            raw.summed = Some(sum.finish());
        }
    }

    /// As [`Inlet::frame`], with the header received by `receive`, which takes along what comes beside its bytes. It answers the bytes read, and
    /// why there were no more.
    pub fn frame_by<'b>(
        &mut self,
        raw: &mut Raw,
        receive: impl FnOnce(&mut R, &mut [u8]) -> (usize, Option<io::Error>),
        room: impl FnOnce(usize) -> &'b mut [u8],
    ) {
        let Some(header) = self.header(raw, receive) else {
            return;
        };
        let payload = room(header.length as usize);
        (raw.payload_bytes, raw.error) = self.fill(payload);
        raw.is_last = raw.payload_bytes < payload.len() || ends(header.frame_type);
    }

    /// Receives a header; `None` when nothing can be received behind it. Then, and until its payload has come, the frame is the last.
    fn header(
        &mut self,
        raw: &mut Raw,
        receive: impl FnOnce(&mut R, &mut [u8]) -> (usize, Option<io::Error>),
    ) -> Option<FrameHeader> {
        *raw = Raw {
            is_last: true,
            ..Raw::new()
        };
        (raw.header_bytes, raw.error) = receive(&mut self.inner, &mut raw.header);
        if raw.header_bytes < FRAME_HEADER_SIZE {
            return None;
        }
        let header = FrameHeader::decode(&raw.header).ok()?;
        self.bounds.check(&header).is_ok().then_some(header)
    }

    /// Reads until `bytes` are full or the input ends; answers the bytes read, and why there were no more.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> (usize, Option<io::Error>) {
        fill(&mut self.inner, bytes)
    }
}

/// As [`Inlet::fill`].
pub(super) fn fill(inner: &mut impl Read, bytes: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut got = 0;
    while got < bytes.len() {
        match inner.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (got, Some(error)),
        }
    }
    (got, None)
}

/// What a frame was.
#[derive(Debug)]
pub enum Checked<'a> {
    /// State.
    State(Pieces<'a>),
    /// The index; it tells what came before.
    Index,
    /// The end record, which was compared with what came.
    End,
}

/// Checks frames in their order.
pub struct Checker {
    decoder: Decoder,
    unpacker: Unpacker,
    unpacking: Duration,
    end: Option<End>,
    failed: bool,
}

impl Checker {
    /// For a decoder that has had the stream's manifest.
    pub(super) fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            unpacker: Unpacker::new(),
            unpacking: Duration::ZERO,
            end: None,
            failed: false,
        }
    }

    /// Checks the next frame and answers what it was. `payload` is the memory that was given for it.
    ///
    /// # Errors
    /// [`StreamError`]; the stream is then over and every later call answers [`StreamError::Over`].
    pub fn accept<'a>(
        &'a mut self,
        raw: &mut Raw,
        payload: &'a [u8],
    ) -> Result<Checked<'a>, StreamError> {
        let offset = self.decoder.totals().wire_bytes + FRAME_HEADER_SIZE as u64;
        match self.event(raw, payload)? {
            Event::Data(pieces) => Ok(Checked::State(pieces)),
            Event::Packed(packed) => {
                let number = self.decoder.totals().frames - 1;
                let started = Instant::now();
                let unpacked = packed.unpack(&mut self.unpacker);
                self.unpacking += started.elapsed();
                unpacked.map(Checked::State).map_err(|error| {
                    self.failed = true;
                    StreamError::Decode(DecodeError {
                        offset,
                        place: Place::Frame(number),
                        fault: error.into(),
                    })
                })
            }
            Event::Index => Ok(Checked::Index),
            Event::End(end) => {
                self.end = Some(end);
                Ok(Checked::End)
            }
            _ => Err(self.over()),
        }
    }

    /// As [`Checker::accept`], for the frame that the data fd comes beside.
    ///
    /// # Errors
    /// As there.
    pub fn hand_over(&mut self, raw: &mut Raw, payload: &[u8]) -> Result<(), StreamError> {
        match self.event(raw, payload)? {
            Event::HandOver => Ok(()),
            _ => Err(self.over()),
        }
    }

    fn over(&mut self) -> StreamError {
        self.failed = true;
        StreamError::Over
    }

    fn event<'a>(&mut self, raw: &mut Raw, payload: &'a [u8]) -> Result<Event<'a>, StreamError> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(StreamError::Over);
        }
        if raw.header_bytes < FRAME_HEADER_SIZE {
            return Err(self.cut(raw.error.take(), raw.header_bytes));
        }
        self.decoder.accept(&raw.header)?;
        if let Some(told) = raw.told {
            let found = FRAME_HEADER_SIZE + self.decoder.need();
            return Err(self.decoder.misplaced(told, found as u64).into());
        }
        if raw.payload_bytes < self.decoder.need() {
            return Err(self.cut(raw.error.take(), raw.payload_bytes));
        }
        let payload = &payload[..raw.payload_bytes];
        match self.decoder.accept_summed(payload, raw.summed)? {
            event @ (Event::Data(_) | Event::Packed(_) | Event::Index | Event::HandOver) => {
                self.failed = false;
                Ok(event)
            }
            event @ Event::End(_) => Ok(event),
            Event::Abort(reason) => Err(StreamError::Aborted {
                received: self.decoder.totals().payload_bytes,
                reason,
            }),
            Event::More | Event::Manifest(_) => Err(StreamError::Over),
        }
    }

    /// What is wrong with a frame that came out of turn because its connection has failed.
    pub fn broken(&self, raw: &mut Raw) -> StreamError {
        if raw.header_bytes < FRAME_HEADER_SIZE {
            return self.cut(raw.error.take(), raw.header_bytes);
        }
        let header = FrameHeader::decode(&raw.header).map_err(DecodeFault::from);
        let checked = header.and_then(|header| {
            self.decoder.bounds().check(&header)?;
            Ok(header)
        });
        let (sequence, fault) = match checked {
            Err(fault) => (None, fault),
            Ok(header) if raw.payload_bytes < header.length as usize => {
                return self.cut(raw.error.take(), raw.payload_bytes);
            }
            Ok(header) => {
                let fault = DecodeFault::Checksum {
                    what: "frame",
                    found: frame::stored_checksum(&raw.header),
                    computed: raw.summed.unwrap_or_default(),
                };
                (Some(header.sequence), fault)
            }
        };
        self.decoder.broken(sequence, fault).into()
    }

    /// How long decompressing has taken so far.
    pub fn unpacking(&self) -> Duration {
        self.unpacking
    }

    /// Whether the end record has come and was good.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the data fd comes in the place of the state.
    pub fn hands_over(&self) -> bool {
        self.decoder.hands_over()
    }

    /// The attempt that the stream belongs to.
    pub fn attempt(&self) -> AttemptId {
        self.decoder.attempt()
    }

    /// Which of the stream's connections its opening came on.
    pub fn part(&self) -> Part {
        self.decoder.part()
    }

    /// Whether an index was announced.
    pub fn is_indexed(&self) -> bool {
        self.decoder.is_indexed()
    }

    /// Most payload bytes of a frame of state.
    pub fn frame_max(&self) -> u32 {
        self.decoder.frame_max()
    }

    /// What was received so far; everything after the end.
    pub fn totals(&self) -> Totals {
        self.decoder.totals()
    }

    /// Compares the sender's account with that of the parser the payloads went through, and ends the stream.
    ///
    /// # Errors
    /// [`StreamError::Unfinished`] before the end record, [`StreamError::Account`] when the accounts differ.
    pub fn finish(self, account: &Account) -> Result<Totals, StreamError> {
        let end = self.end.ok_or(StreamError::Unfinished)?;
        if end.by_kind == *account.by_kind() {
            Ok(self.decoder.totals())
        } else {
            Err(StreamError::Account(Box::new((
                end.by_kind,
                *account.by_kind(),
            ))))
        }
    }

    /// As [`Checker::finish`] for a file: nothing may follow the end record.
    ///
    /// # Errors
    /// Those of [`Checker::finish`], and [`StreamError::Decode`] when bytes follow.
    pub fn finish_file<R: Read>(
        mut self,
        inlet: &mut Inlet<R>,
        account: &Account,
    ) -> Result<Totals, StreamError> {
        if self.end.is_some() {
            let mut rest = [0];
            match inlet.fill(&mut rest) {
                (0, None) => {}
                (0, error) => return Err(self.cut(error, 0)),
                _ => _ = self.decoder.accept(&rest)?,
            }
        }
        self.finish(account)
    }

    /// The error for a piece of the stream that is not whole.
    fn cut(&self, error: Option<io::Error>, got: usize) -> StreamError {
        cut(&self.decoder, error, got)
    }
}

/// The error for a piece of the stream that is not whole.
pub(super) fn cut(decoder: &Decoder, error: Option<io::Error>, got: usize) -> StreamError {
    match error {
        Some(source) => StreamError::Io {
            doing: "Receiving",
            offset: decoder.totals().wire_bytes,
            source,
        },
        None => decoder.truncated(got).into(),
    }
}
