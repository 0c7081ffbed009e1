// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The receiving side on any `Read`.
//!
//! [`Opening::read`], [`Reader::next`] until it answers `None`, then [`Reader::finish`]. Give `&mut` of a connection to keep
//! it for the receipt. Reads are as large as the frames and never go beyond the stream's end.

use std::io::{self, ErrorKind, Read};

use super::attempt::AttemptId;
use super::decode::{Decoder, Event, Limits};
use super::error::StreamError;
use super::frame::{End, FRAME_HEADER_SIZE, PREAMBLE_SIZE, Totals};
use super::manifest::Manifest;
use crate::xe::Account;

/// The beginning of a stream.
pub struct Opening;

impl Opening {
    /// Reads the opening: who the stream is of, and the reader for the rest.
    ///
    /// # Errors
    /// [`StreamError::Decode`] when it is no stream of this format or is damaged, [`StreamError::Io`].
    pub fn read<R: Read>(inner: R, limits: &Limits) -> Result<(Manifest, Reader<R>), StreamError> {
        let mut reader = Reader {
            inner,
            decoder: Decoder::new(limits),
            end: None,
            failed: false,
        };
        reader.header::<PREAMBLE_SIZE>()?;
        match reader.event(&mut Vec::new())? {
            Event::Manifest(manifest) => Ok((*manifest, reader)),
            Event::More | Event::Data(_) | Event::Abort(_) | Event::End(_) => {
                Err(StreamError::Over)
            }
        }
    }
}

/// Receiving side of a stream.
pub struct Reader<R: Read> {
    inner: R,
    decoder: Decoder,
    end: Option<End>,
    failed: bool,
}

impl<R: Read> Reader<R> {
    /// The next frame's payload, in `buf`; `None` after the end record, which has then been compared with what came.
    ///
    /// `buf` grows to the largest frame, at most [`Limits::frame`], and keeps its size: use the same one for each call.
    ///
    /// # Errors
    /// [`StreamError`]; the stream is then over and every later call answers [`StreamError::Over`].
    pub fn next<'a>(&mut self, buf: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, StreamError> {
        if self.end.is_some() {
            return Ok(None);
        }
        if self.failed {
            return Err(StreamError::Over);
        }
        self.failed = true;
        self.header::<FRAME_HEADER_SIZE>()?;
        match self.event(buf)? {
            Event::Data(payload) => {
                self.failed = false;
                Ok(Some(payload))
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

    /// As [`Reader::finish`] for a file: nothing may follow the end record.
    ///
    /// # Errors
    /// Those of [`Reader::finish`], and [`StreamError::Decode`] when bytes follow.
    pub fn finish_file(mut self, account: &Account) -> Result<Totals, StreamError> {
        if self.end.is_some() {
            let mut rest = [0];
            if self.read_full(&mut rest)? > 0 {
                self.decoder.accept(&rest)?;
            }
        }
        self.finish(account)
    }

    /// Takes a preamble or frame header, after which the decoder says how much belongs to it.
    fn header<const SIZE: usize>(&mut self) -> Result<(), StreamError> {
        let mut bytes = [0; SIZE];
        self.fill(&mut bytes)?;
        self.decoder.accept(&bytes)?;
        Ok(())
    }

    fn event<'a>(&mut self, buf: &'a mut Vec<u8>) -> Result<Event<'a>, StreamError> {
        let need = self.decoder.need();
        if buf.len() < need {
            buf.resize(need, 0);
        }
        self.fill(&mut buf[..need])?;
        Ok(self.decoder.accept(&buf[..need])?)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), StreamError> {
        let got = self.read_full(buf)?;
        if got < buf.len() {
            Err(self.decoder.truncated(got).into())
        } else {
            Ok(())
        }
    }

    /// Reads until `buf` is full or the input ends; answers the bytes read.
    fn read_full(&mut self, buf: &mut [u8]) -> Result<usize, StreamError> {
        let mut got = 0;
        while got < buf.len() {
            match self.inner.read(&mut buf[got..]) {
                Ok(0) => break,
                Ok(read) => got += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(self.receiving(source)),
            }
        }
        Ok(got)
    }

    fn receiving(&self, source: io::Error) -> StreamError {
        StreamError::Io {
            doing: "Receiving",
            offset: self.decoder.totals().wire_bytes,
            source,
        }
    }
}
