// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The receiving side on any `Read`, on one thread.
//!
//! [`Opening::read`], [`Reader::next`] until it answers `None`, then [`Reader::finish`]. Give `&mut` of a connection to keep
//! it for the receipt. Reads are as large as the frames and never go beyond the stream's end.

use std::io::Read;

use super::attempt::AttemptId;
use super::crc::Crc64;
use super::decode::{Decoder, Event, Limits};
use super::error::StreamError;
use super::frame::{PREAMBLE_SIZE, Part, Totals};
use super::incoming::{Checked, Checker, Inlet, Raw, cut, fill};
use super::manifest::Manifest;
use crate::xe::Account;

/// The beginning of a stream.
pub struct Opening;

impl Opening {
    /// Reads the opening: who the stream is of, and the reader for the rest.
    ///
    /// # Errors
    /// [`StreamError::Decode`] when it is no stream of this format or is damaged, [`StreamError::Io`].
    pub fn read<R: Read>(
        mut inner: R,
        limits: &Limits,
    ) -> Result<(Manifest, Reader<R>), StreamError> {
        let mut decoder = Decoder::new(limits);
        let mut preamble = [0; PREAMBLE_SIZE];
        whole(&mut inner, &decoder, &mut preamble)?;
        decoder.accept(&preamble)?;
        let mut blob = vec![0; decoder.need()];
        whole(&mut inner, &decoder, &mut blob)?;
        let Event::Manifest(manifest) = decoder.accept(&blob)? else {
            return Err(StreamError::Over);
        };
        let reader = Reader {
            inlet: Inlet::new(inner, decoder.bounds()),
            checker: Checker::new(decoder),
            raw: Raw::new(),
            payload: Vec::new(),
        };
        Ok((*manifest, reader))
    }
}

fn whole(inner: &mut impl Read, decoder: &Decoder, bytes: &mut [u8]) -> Result<(), StreamError> {
    let (got, error) = fill(inner, bytes);
    if got < bytes.len() {
        return Err(cut(decoder, error, got));
    }
    Ok(())
}

/// Receiving side of a stream.
pub struct Reader<R: Read> {
    inlet: Inlet<R>,
    checker: Checker,
    raw: Raw,
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// The next frame's state, in `buf`, with the zeros that did not travel; `None` after the end record, which has then been
    /// compared with what came.
    ///
    /// Memory grows to the largest frame, at most [`Limits::frame`] twice, and is kept: use the same `buf` for each call.
    ///
    /// # Errors
    /// [`StreamError`]; the stream is then over and every later call answers [`StreamError::Over`].
    pub fn next<'a>(&mut self, buf: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, StreamError> {
        while !self.checker.has_ended() {
            let payload = &mut self.payload;
            self.inlet
                .frame_summed(&mut self.raw, Crc64::update, |length| {
                    payload.resize(length, 0);
                    &mut payload[..]
                });
            match self.checker.accept(&mut self.raw, &self.payload)? {
                Checked::State(pieces) => {
                    buf.clear();
                    pieces.append_to(buf);
                    return Ok(Some(&buf[..]));
                }
                Checked::Index | Checked::End => {}
            }
        }
        Ok(None)
    }

    /// The two parts, for two threads.
    pub fn into_parts(self) -> (Inlet<R>, Checker) {
        (self.inlet, self.checker)
    }

    /// The attempt that the stream belongs to.
    pub fn attempt(&self) -> AttemptId {
        self.checker.attempt()
    }

    /// Which of the stream's connections it came on.
    pub fn part(&self) -> Part {
        self.checker.part()
    }

    /// Whether an index of the frames comes before the end record.
    pub fn is_indexed(&self) -> bool {
        self.checker.is_indexed()
    }

    /// Whether the data fd comes in the place of the state, for a [`Checker::hand_over`].
    pub fn hands_over(&self) -> bool {
        self.checker.hands_over()
    }

    /// What was received so far; everything after the end.
    pub fn totals(&self) -> Totals {
        self.checker.totals()
    }

    /// Compares the sender's account with that of the parser the payloads went through, and ends the stream.
    ///
    /// # Errors
    /// [`StreamError::Unfinished`] before the end record, [`StreamError::Account`] when the accounts differ.
    pub fn finish(self, account: &Account) -> Result<Totals, StreamError> {
        self.checker.finish(account)
    }

    /// As [`Reader::finish`] for a file: nothing may follow the end record.
    ///
    /// # Errors
    /// Those of [`Reader::finish`], and [`StreamError::Decode`] when bytes follow.
    pub fn finish_file(mut self, account: &Account) -> Result<Totals, StreamError> {
        self.checker.finish_file(&mut self.inlet, account)
    }
}
