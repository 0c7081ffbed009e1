// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Encoding without I/O: payloads in, the bytes around them out.
//!
//! An [`Encoder`] answers the bytes to send before each payload and never touches the payload itself, so that a caller can
//! send both with one vectored write. Call order: [`Encoder::new`], any number of [`Encoder::data`], then one of
//! [`Encoder::end`] and [`Encoder::abort`].

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::attempt::AttemptId;
use super::frame::{
    END_SIZE, End, FRAME_HEADER_SIZE, FrameHeader, FrameType, PREAMBLE_SIZE, Preamble, REASON_MAX,
    Totals,
};
use super::manifest::{Manifest, ManifestError};
use crate::xe::ByKind;

/// State of a stream's sending side.
#[derive(Clone)]
pub struct Encoder {
    sequence: u64,
    payload_bytes: u64,
    wire_bytes: u64,
    digest: Xxh3Default,
    frame_max: u32,
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
            manifest_checksum: xxh3_64(&blob),
            attempt,
        }
        .encode();
        let mut digest = Xxh3Default::new();
        digest.update(&preamble);
        let mut opening = Vec::with_capacity(PREAMBLE_SIZE + blob.len());
        opening.extend_from_slice(&preamble);
        opening.extend_from_slice(&blob);
        let wire_bytes = opening.len() as u64;
        Ok((
            Self {
                sequence: 0,
                payload_bytes: 0,
                wire_bytes,
                digest,
                frame_max,
            },
            opening,
        ))
    }

    /// Most bytes for [`Encoder::data`].
    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// What was encoded so far.
    pub fn totals(&self) -> Totals {
        Totals {
            payload_bytes: self.payload_bytes,
            wire_bytes: self.wire_bytes,
            frames: self.sequence,
        }
    }

    /// The header to send before `payload`.
    ///
    /// # Panics
    /// When `payload` is empty or longer than `frame_max`: every reader refuses such a frame.
    pub fn data(&mut self, payload: &[u8]) -> [u8; FRAME_HEADER_SIZE] {
        assert!(
            !payload.is_empty() && payload.len() <= self.frame_max as usize,
            "Frame payload of {} bytes",
            payload.len()
        );
        self.payload_bytes += payload.len() as u64;
        self.frame(FrameType::Data, payload)
    }

    /// The end record's frame and the stream's totals with it.
    pub fn end(mut self, by_kind: ByKind) -> ([u8; FRAME_HEADER_SIZE + END_SIZE], Totals) {
        let totals = self.totals();
        let end = End {
            payload_bytes: totals.payload_bytes,
            frames: totals.frames,
            by_kind,
            digest: self.digest.digest128(),
        }
        .encode();
        let mut bytes = [0; FRAME_HEADER_SIZE + END_SIZE];
        bytes[..FRAME_HEADER_SIZE].copy_from_slice(&self.frame(FrameType::End, &end));
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
        let header = self.frame(FrameType::Abort, reason.as_bytes());
        [&header, reason.as_bytes()].concat()
    }

    fn frame(&mut self, frame_type: FrameType, payload: &[u8]) -> [u8; FRAME_HEADER_SIZE] {
        let header = FrameHeader {
            frame_type,
            length: payload.len() as u32,
            sequence: self.sequence,
        }
        .encode(payload);
        self.digest.update(&header);
        self.sequence += 1;
        self.wire_bytes += (FRAME_HEADER_SIZE + payload.len()) as u64;
        header
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
