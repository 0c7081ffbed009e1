// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stream's frames on their way in: received as they are by an [`Inlet`], which believes nothing but what it needs to know how
//! much to read, then checked by a [`Checker`]. The two may belong to different threads.

use std::io::{self, ErrorKind, Read};

use super::attempt::AttemptId;
use super::decode::{Decoder, Event, check_length};
use super::error::StreamError;
use super::frame::{End, FRAME_HEADER_SIZE, FrameHeader, FrameType, Totals};
use super::sparse::Pieces;
use crate::xe::Account;

/// A frame as it was received, its payload elsewhere. Not checked.
#[derive(Debug)]
pub struct Raw {
    header: [u8; FRAME_HEADER_SIZE],
    header_bytes: usize,
    payload_bytes: usize,
    error: Option<io::Error>,
    is_last: bool,
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
        }
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

/// Receives frames.
#[derive(Debug)]
pub struct Inlet<R: Read> {
    inner: R,
    frame_max: u32,
}

impl<R: Read> Inlet<R> {
    pub(super) fn new(inner: R, frame_max: u32) -> Self {
        Self { inner, frame_max }
    }

    /// The same stream, read through something else.
    pub fn map<T: Read>(self, wrap: impl FnOnce(R) -> T) -> Inlet<T> {
        Inlet {
            inner: wrap(self.inner),
            frame_max: self.frame_max,
        }
    }

    /// Receives one frame; `room` answers memory for so many bytes of payload, never more than the stream's largest frame. What goes
    /// wrong stands in `raw` for the [`Checker`] to find.
    pub fn frame<'b>(&mut self, raw: &mut Raw, room: impl FnOnce(usize) -> &'b mut [u8]) {
        *raw = Raw {
            is_last: true,
            ..Raw::new()
        };
        let mut header = [0; FRAME_HEADER_SIZE];
        (raw.header_bytes, raw.error) = self.fill(&mut header);
        raw.header = header;
        if raw.header_bytes < FRAME_HEADER_SIZE {
            return;
        }
        let Ok(header) = FrameHeader::decode(&header) else {
            return;
        };
        if check_length(&header, self.frame_max).is_err() {
            return;
        }
        let payload = room(header.length as usize);
        (raw.payload_bytes, raw.error) = self.fill(payload);
        raw.is_last = raw.payload_bytes < payload.len()
            || !matches!(header.frame_type, FrameType::Data | FrameType::Sparse);
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

/// Checks frames in their order.
pub struct Checker {
    decoder: Decoder,
    end: Option<End>,
    failed: bool,
}

impl Checker {
    /// For a decoder that has had the stream's manifest.
    pub(super) fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            end: None,
            failed: false,
        }
    }

    /// Checks the next frame and answers its state; `None` for the end record, which was then compared with what came.
    /// `payload` is the memory that was given for it.
    ///
    /// # Errors
    /// [`StreamError`]; the stream is then over and every later call answers [`StreamError::Over`].
    pub fn accept<'a>(
        &mut self,
        raw: &mut Raw,
        payload: &'a [u8],
    ) -> Result<Option<Pieces<'a>>, StreamError> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(StreamError::Over);
        }
        if raw.header_bytes < FRAME_HEADER_SIZE {
            return Err(self.cut(raw.error.take(), raw.header_bytes));
        }
        self.decoder.accept(&raw.header)?;
        if raw.payload_bytes < self.decoder.need() {
            return Err(self.cut(raw.error.take(), raw.payload_bytes));
        }
        match self.decoder.accept(&payload[..raw.payload_bytes])? {
            Event::Data(pieces) => {
                self.failed = false;
                Ok(Some(pieces))
            }
            Event::End(end) => {
                self.end = Some(end);
                Ok(None)
            }
            Event::Abort(reason) => Err(StreamError::Aborted {
                received: self.decoder.totals().payload_bytes,
                reason,
            }),
            Event::More | Event::Manifest(_) => Err(StreamError::Over),
        }
    }

    /// Whether the end record has come and was good.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// The attempt that the stream belongs to.
    pub fn attempt(&self) -> AttemptId {
        self.decoder.attempt()
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
