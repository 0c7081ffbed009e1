// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sending side on any `Write`.
//!
//! [`Writer::new`], [`Writer::frame`] for each piece of state, then [`Writer::finish`], or [`Writer::abort`] to tell the
//! other side why it will get no more. Give `&mut` of a connection to keep it for the receipt. Writes are as large as the
//! frames and nothing is buffered here.

use std::io::{self, ErrorKind, IoSlice, Write};

use super::attempt::AttemptId;
use super::encode::Encoder;
use super::error::StreamError;
use super::frame::{FRAME_DEFAULT, FRAME_MAX, Totals};
use super::manifest::Manifest;
use crate::xe::Account;

/// Sending side of a stream.
pub struct Writer<W: Write> {
    inner: W,
    encoder: Encoder,
    broken: bool,
}

impl<W: Write> Writer<W> {
    /// Begins a stream that belongs to no attempt, with frames of up to 1 MiB, sends its opening and flushes.
    ///
    /// # Errors
    /// [`StreamError::Manifest`] and [`StreamError::Io`].
    pub fn new(inner: W, manifest: &Manifest) -> Result<Self, StreamError> {
        Self::for_attempt(inner, manifest, FRAME_DEFAULT, AttemptId::NONE)
    }

    /// As [`Writer::new`] for an attempt at a migration, with frames of up to `frame_max` bytes (1 byte to 16 MiB; other values are brought into these
    /// bounds). A reader refuses the stream when its [`Limits::frame`](super::Limits::frame) is smaller.
    ///
    /// # Errors
    /// [`StreamError::Manifest`] and [`StreamError::Io`].
    pub fn for_attempt(
        mut inner: W,
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
    ) -> Result<Self, StreamError> {
        let (encoder, opening) = Encoder::new(manifest, frame_max.clamp(1, FRAME_MAX), attempt)?;
        last(&mut inner, 0, &opening)?;
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
    /// [`StreamError::Io`]; the stream is then broken in the middle and only good for dropping. [`StreamError::Over`]
    /// after that.
    pub fn frame(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        for piece in payload.chunks(self.encoder.frame_max() as usize) {
            let offset = self.offset()?;
            let header = self.encoder.data(piece);
            self.broken = true;
            write_both(&mut self.inner, &header, piece)
                .map_err(|source| sending(offset, source))?;
            self.broken = false;
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
        let offset = self.offset()?;
        let (bytes, totals) = self.encoder.end(*account.by_kind());
        last(&mut self.inner, offset, &bytes)?;
        Ok(totals)
    }

    /// Tells the receiver why it will get no more: the first 1024 bytes of `reason`.
    ///
    /// # Errors
    /// [`StreamError::Io`], and [`StreamError::Over`] when an earlier write failed, since the receiver could not tell the
    /// abort frame from the rest of a broken one.
    pub fn abort(mut self, reason: &str) -> Result<(), StreamError> {
        let offset = self.offset()?;
        last(&mut self.inner, offset, &self.encoder.abort(reason))
    }

    /// Offset of the next piece, when there can be one.
    fn offset(&self) -> Result<u64, StreamError> {
        if self.broken {
            Err(StreamError::Over)
        } else {
            Ok(self.encoder.totals().wire_bytes)
        }
    }
}

fn sending(offset: u64, source: io::Error) -> StreamError {
    StreamError::Io {
        doing: "Sending",
        offset,
        source,
    }
}

/// Writes bytes that the other side will wait for.
fn last(inner: &mut impl Write, offset: u64, bytes: &[u8]) -> Result<(), StreamError> {
    inner
        .write_all(bytes)
        .and_then(|()| inner.flush())
        .map_err(|source| sending(offset, source))
}

fn write_both(inner: &mut impl Write, first: &[u8], second: &[u8]) -> io::Result<()> {
    let mut both = [IoSlice::new(first), IoSlice::new(second)];
    let mut left = &mut both[..];
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
