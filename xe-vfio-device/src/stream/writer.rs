// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sending side on any `Write`, on one thread.
//!
//! [`Writer::new`], [`Writer::frame`] for each piece of state, then [`Writer::finish`], or [`Writer::abort`] to tell the
//! other side why it will get no more. Give `&mut` of a connection to keep it for the receipt. Writes are as large as the
//! frames and nothing is buffered here. Where encoding and writing belong to two threads, see
//! [`Encoder`] and [`Outlet`].

use std::io::Write;

use super::attempt::AttemptId;
use super::codec::{Codec, Packer};
use super::encode::Encoder;
use super::error::StreamError;
use super::flags::Flags;
use super::frame::{FRAME_DEFAULT, FRAME_MAX, Totals};
use super::manifest::Manifest;
use super::outgoing::{Frame, Outlet};
use crate::xe::Account;

/// Sending side of a stream.
pub struct Writer<W: Write> {
    outlet: Outlet<W>,
    encoder: Encoder,
    frame: Frame,
    codec: Option<Codec>,
    packer: Packer,
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
        inner: W,
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
    ) -> Result<Self, StreamError> {
        Self::with_flags(inner, manifest, frame_max, attempt, Flags::NONE)
    }

    /// As [`Writer::for_attempt`] for a file, with an index of the frames before the end record.
    ///
    /// # Errors
    /// [`StreamError::Manifest`] and [`StreamError::Io`].
    pub fn indexed(
        inner: W,
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
    ) -> Result<Self, StreamError> {
        Self::with_flags(inner, manifest, frame_max, attempt, Flags::INDEXED)
    }

    /// As [`Writer::for_attempt`], with features that its reader has to know. See [`Encoder::with_flags`].
    ///
    /// # Errors
    /// [`StreamError::Manifest`] and [`StreamError::Io`].
    pub fn with_flags(
        inner: W,
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
        flags: Flags,
    ) -> Result<Self, StreamError> {
        let frame_max = frame_max.clamp(1, FRAME_MAX);
        let (encoder, opening) = Encoder::with_flags(manifest, frame_max, attempt, flags)?;
        let mut outlet = Outlet::new(inner);
        outlet.flushed(&opening)?;
        Ok(Self {
            outlet,
            encoder,
            frame: Frame::new(),
            codec: None,
            packer: Packer::new(),
        })
    }

    /// From here on frames are compressed where that makes them shorter, or not; in a stream with [`Flags::COMPRESSED`].
    pub fn compress(&mut self, codec: Option<Codec>) {
        self.codec = codec;
    }

    /// Sends device state: one frame, or several when `payload` is larger than a frame may be; none for no bytes. The
    /// payload is not copied, and its zeros do not travel.
    ///
    /// # Errors
    /// [`StreamError::Io`]; the stream is then broken in the middle and only good for dropping. [`StreamError::Over`]
    /// after that.
    pub fn frame(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        for piece in payload.chunks(self.encoder.frame_max() as usize) {
            match self.codec {
                None => self.encoder.frame(piece, &mut self.frame),
                Some(codec) => {
                    let (frame, packer) = (&mut self.frame, &mut self.packer);
                    _ = self.encoder.compressed(piece, frame, packer, codec);
                }
            }
            self.outlet.frame(&self.frame, piece)?;
        }
        Ok(())
    }

    /// What was sent so far, and what failed to be.
    pub fn totals(&self) -> Totals {
        self.encoder.totals()
    }

    /// Sends the end record and flushes.
    ///
    /// # Errors
    /// [`StreamError::Io`], and [`StreamError::Over`] after an earlier failure.
    pub fn finish(mut self, account: &Account) -> Result<Totals, StreamError> {
        let (bytes, totals) = self.encoder.end(*account.by_kind());
        self.outlet.flushed(&bytes)?;
        Ok(totals)
    }

    /// Tells the receiver why it will get no more: the first 1024 bytes of `reason`.
    ///
    /// # Errors
    /// [`StreamError::Io`], and [`StreamError::Over`] when an earlier write failed.
    pub fn abort(mut self, reason: &str) -> Result<(), StreamError> {
        self.outlet.flushed(&self.encoder.abort(reason))
    }
}
