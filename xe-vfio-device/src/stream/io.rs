// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The format on `Write` and `Read`.
//!
//! Sending: [`Writer::new`], [`Writer::frame`] for each piece of state, then [`Writer::finish`], or [`Writer::abort`] to tell
//! the other side why it will get no more. Receiving: [`Opening::read`], [`Reader::next`] until it answers `None`, then
//! [`Reader::finish`]. Give `&mut` of a connection to keep it for the receipt.
//!
//! Reads and writes are as large as the frames, so nothing here buffers; a `Read` with a high price per call (a file
//! system in user space, say) may be wrapped in a `BufReader`, which large reads pass by.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use thiserror::Error;

use super::decode::{DecodeError, Decoder, Event, Limits};
use super::encode::Encoder;
use super::frame::{End, FRAME_DEFAULT, FRAME_MAX, Totals};
use super::manifest::{Manifest, ManifestError};
use crate::xe::Account;

/// A stream that could not be sent or received.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The manifest cannot be sent.
    #[error("The stream cannot begin")]
    Manifest(#[from] ManifestError),
    /// The connection or file failed.
    #[error(
        "Input or output failed at byte {offset} of the device state stream, while it was {doing}"
    )]
    Io {
        /// "sending" or "receiving".
        doing: &'static str,
        /// Byte offset in the stream of the piece that was under way.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The stream is not good.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The sender said why it stopped.
    #[error("The sender stopped after {received} bytes of device state: {reason}")]
    Aborted {
        /// Bytes of state before it.
        received: u64,
        /// The sender's words.
        reason: String,
    },
    /// The stream is used after it ended or failed.
    #[error("The device state stream has ended or failed before: start a new one")]
    Over,
    /// The stream is left before its end record.
    #[error("The device state stream was left before its end")]
    Unfinished,
    /// The packets that the destination saw are not those that the source saw.
    #[error(
        "The sender accounts for other packets than came through: one of the two parsers is wrong, please report it"
    )]
    Account,
}

/// Sending side of a stream.
pub struct Writer<W: Write> {
    inner: W,
    encoder: Encoder,
    broken: bool,
}

impl<W: Write> Writer<W> {
    /// Begins a stream with frames of up to 1 MiB and sends its opening.
    ///
    /// # Errors
    /// [`StreamError::Manifest`] and [`StreamError::Io`].
    pub fn new(inner: W, manifest: &Manifest) -> Result<Self, StreamError> {
        Self::with_frame_max(inner, manifest, FRAME_DEFAULT)
    }

    /// As [`Writer::new`] with frames of up to `frame_max` bytes (1 byte to 16 MiB; other values are brought into these
    /// bounds). A reader refuses the stream when its [`Limits::frame`] is smaller.
    ///
    /// # Errors
    /// [`StreamError::Manifest`] and [`StreamError::Io`].
    pub fn with_frame_max(
        mut inner: W,
        manifest: &Manifest,
        frame_max: u32,
    ) -> Result<Self, StreamError> {
        let (encoder, opening) = Encoder::new(manifest, frame_max.clamp(1, FRAME_MAX))?;
        inner
            .write_all(&opening)
            .map_err(|source| StreamError::Io {
                doing: "sending",
                offset: 0,
                source,
            })?;
        Ok(Self {
            inner,
            encoder,
            broken: false,
        })
    }

    /// Sends device state: one frame, or several when `payload` is larger than a frame may be; none for no bytes. The
    /// payload is not copied.
    ///
    /// # Errors
    /// [`StreamError::Io`]; the stream is then broken in the middle and only good for dropping.
    pub fn frame(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        for piece in payload.chunks(self.encoder.frame_max() as usize) {
            let offset = self.begin()?;
            let header = self.encoder.data(piece);
            self.send(offset, &header, piece)?;
        }
        Ok(())
    }

    /// What was sent so far.
    pub fn totals(&self) -> Totals {
        self.encoder.totals()
    }

    /// Sends the end record and flushes.
    ///
    /// # Errors
    /// [`StreamError::Io`], and [`StreamError::Over`] after an earlier failure.
    pub fn finish(mut self, account: &Account) -> Result<Totals, StreamError> {
        let offset = self.begin()?;
        let (bytes, totals) = self.encoder.clone().end(*account.by_kind());
        self.send(offset, &bytes, &[])?;
        Ok(totals)
    }

    /// Tells the receiver why it will get no more: the first 1024 bytes of `reason`.
    ///
    /// # Errors
    /// [`StreamError::Io`], and [`StreamError::Over`] when an earlier write failed, since the receiver could not tell the
    /// abort frame from the rest of a broken one.
    pub fn abort(mut self, reason: &str) -> Result<(), StreamError> {
        let offset = self.begin()?;
        let bytes = self.encoder.clone().abort(reason);
        self.send(offset, &bytes, &[])
    }

    fn begin(&self) -> Result<u64, StreamError> {
        if self.broken {
            Err(StreamError::Over)
        } else {
            Ok(self.encoder.totals().wire_bytes)
        }
    }

    fn send(&mut self, offset: u64, header: &[u8], payload: &[u8]) -> Result<(), StreamError> {
        let sent = write_both(&mut self.inner, header, payload).and_then(|()| self.inner.flush());
        sent.map_err(|source| {
            self.broken = true;
            StreamError::Io {
                doing: "sending",
                offset,
                source,
            }
        })
    }
}

fn write_both(inner: &mut impl Write, first: &[u8], second: &[u8]) -> io::Result<()> {
    let mut both = [IoSlice::new(first), IoSlice::new(second)];
    let mut left = &mut both[..];
    // Also drops what is empty, so that a write of nothing is not taken for a closed connection.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match inner.write_vectored(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

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
        };
        let mut buf = Vec::new();
        loop {
            match reader.event(&mut buf)? {
                Event::Manifest(manifest) => return Ok((*manifest, reader)),
                Event::More => {}
                Event::Data(_) | Event::Abort(_) | Event::End(_) => return Err(StreamError::Over),
            }
        }
    }
}

/// Receiving side of a stream.
pub struct Reader<R: Read> {
    inner: R,
    decoder: Decoder,
    end: Option<End>,
}

impl<R: Read> Reader<R> {
    /// The next frame's payload, in `buf`; `None` after the end record, which has then been compared with what came.
    ///
    /// `buf` grows to the largest frame, at most [`Limits::frame`], and keeps its size: use the same one for each call.
    ///
    /// # Errors
    /// [`StreamError`]; the stream is then over.
    pub fn next<'a>(&mut self, buf: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, StreamError> {
        if self.end.is_some() {
            return Ok(None);
        }
        if self.decoder.has_ended() {
            return Err(StreamError::Over);
        }
        // The header's event borrows nothing of the buffer, so that the payload may have it for the caller.
        let mut header = Vec::new();
        self.event(&mut header)?;
        match self.event(buf)? {
            Event::Data(payload) => Ok(Some(payload)),
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
        if end.by_kind != *account.by_kind() {
            return Err(StreamError::Account);
        }
        Ok(self.decoder.totals())
    }

    /// As [`Reader::finish`] for a file: nothing may follow the end record.
    ///
    /// # Errors
    /// Those of [`Reader::finish`], and [`StreamError::Decode`] when bytes follow.
    pub fn finish_file(mut self, account: &Account) -> Result<Totals, StreamError> {
        if self.end.is_some() {
            let mut rest = [0];
            let got = read_full(&mut self.inner, &mut rest).map_err(|source| self.io(source))?;
            if got > 0 {
                self.decoder.accept(&rest)?;
            }
        }
        self.finish(account)
    }

    fn event<'a>(&mut self, buf: &'a mut Vec<u8>) -> Result<Event<'a>, StreamError> {
        let need = self.decoder.need();
        if buf.len() < need {
            buf.resize(need, 0);
        }
        let got = read_full(&mut self.inner, &mut buf[..need]).map_err(|source| self.io(source))?;
        if got < need {
            return Err(self.decoder.truncated(got).into());
        }
        Ok(self.decoder.accept(&buf[..need])?)
    }

    fn io(&self, source: io::Error) -> StreamError {
        StreamError::Io {
            doing: "receiving",
            offset: self.decoder.totals().wire_bytes,
            source,
        }
    }
}

/// Reads until `buf` is full or the input ends; answers the bytes read.
fn read_full(inner: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match inner.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
