// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Encoding without I/O: payloads in, the bytes around them out.
//!
//! An [`Encoder`] makes a [`Frame`] of each payload and never touches the payload itself: the frame says which parts of it to send and
//! what to send around them, with one vectored write. Call order: [`Encoder::new`], any number of [`Encoder::frame`], then one of
//! [`Encoder::end`] and [`Encoder::abort`].

use super::attempt::AttemptId;
use super::crc::{Crc64, crc64};
use super::frame::{
    self, END_SIZE, End, FRAME_HEADER_SIZE, FrameHeader, FrameType, PREAMBLE_SIZE, Preamble,
    REASON_MAX, Totals,
};
use super::manifest::{Manifest, ManifestError};
use super::outgoing::Frame;
use super::zeros::Elision;
use crate::xe::ByKind;

/// State of a stream's sending side.
#[derive(Clone)]
pub struct Encoder {
    sequence: u64,
    payload_bytes: u64,
    wire_bytes: u64,
    zero_bytes: u64,
    digest: Crc64,
    frame_max: u32,
    elision: Elision,
}

impl Encoder {
    /// Begins a stream of `attempt` whose data frames have at most `frame_max` bytes; answers it with the opening's bytes.
    ///
    /// # Errors
    /// [`ManifestError`] when the manifest cannot be encoded.
    pub fn new(
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
    ) -> Result<(Self, Vec<u8>), ManifestError> {
        let blob = manifest.encode()?;
        let preamble = Preamble {
            frame_max,
            manifest_version: Manifest::newest_version(),
            manifest_length: blob.len() as u32,
            manifest_checksum: crc64(&blob),
            attempt,
        }
        .encode();
        let mut opening = Vec::with_capacity(PREAMBLE_SIZE + blob.len());
        opening.extend_from_slice(&preamble);
        opening.extend_from_slice(&blob);
        let wire_bytes = opening.len() as u64;
        Ok((
            Self {
                sequence: 0,
                payload_bytes: 0,
                wire_bytes,
                zero_bytes: 0,
                digest: frame::digest(&preamble),
                frame_max,
                elision: Elision::default(),
            },
            opening,
        ))
    }

    /// Most bytes for [`Encoder::frame`].
    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// What was encoded so far.
    pub fn totals(&self) -> Totals {
        Totals {
            payload_bytes: self.payload_bytes,
            wire_bytes: self.wire_bytes,
            frames: self.sequence,
            zero_bytes: self.zero_bytes,
        }
    }

    /// Makes `frame` the frame of `payload`: sparse when that makes it shorter.
    ///
    /// # Panics
    /// When `payload` is empty or longer than `frame_max`: every reader refuses such a frame.
    pub fn frame(&mut self, payload: &[u8], frame: &mut Frame) {
        assert!(
            !payload.is_empty() && payload.len() <= self.frame_max as usize,
            "Frame payload of {} bytes",
            payload.len()
        );
        frame.kind = if self.elision.find(payload, &mut frame.table) {
            FrameType::Sparse
        } else {
            FrameType::Data
        };
        frame.encode_table(payload.len());
        let header = FrameHeader {
            frame_type: frame.kind,
            length: frame.length(payload) as u32,
            sequence: self.sequence,
        };
        frame.header = header.encode_pieces(frame.payload(payload));
        self.payload_bytes += payload.len() as u64;
        self.zero_bytes += frame.zeros() as u64;
        self.count(&frame.header, header.length);
    }

    /// The end record's frame and the stream's totals with it.
    pub fn end(mut self, by_kind: ByKind) -> ([u8; FRAME_HEADER_SIZE + END_SIZE], Totals) {
        let totals = self.totals();
        let end = End {
            payload_bytes: totals.payload_bytes,
            frames: totals.frames,
            by_kind,
            digest: self.digest.finish(),
        }
        .encode();
        let mut bytes = [0; FRAME_HEADER_SIZE + END_SIZE];
        bytes[..FRAME_HEADER_SIZE].copy_from_slice(&self.last(FrameType::End, &end));
        bytes[FRAME_HEADER_SIZE..].copy_from_slice(&end);
        (
            bytes,
            Totals {
                wire_bytes: self.wire_bytes,
                ..totals
            },
        )
    }

    /// An abort frame with as much of `reason` as it has room for.
    pub fn abort(mut self, reason: &str) -> Vec<u8> {
        let reason = bounded(reason);
        let header = self.last(FrameType::Abort, reason.as_bytes());
        [&header, reason.as_bytes()].concat()
    }

    fn last(&mut self, frame_type: FrameType, payload: &[u8]) -> [u8; FRAME_HEADER_SIZE] {
        let header = FrameHeader {
            frame_type,
            length: payload.len() as u32,
            sequence: self.sequence,
        }
        .encode(payload);
        self.count(&header, payload.len() as u32);
        header
    }

    fn count(&mut self, header: &[u8; FRAME_HEADER_SIZE], length: u32) {
        self.digest.update(header);
        self.sequence += 1;
        self.wire_bytes += FRAME_HEADER_SIZE as u64 + u64::from(length);
    }
}

/// The longest beginning of `text` that fits in a reason and ends between characters.
pub(super) fn bounded(text: &str) -> &str {
    let mut end = text.len().min(REASON_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
