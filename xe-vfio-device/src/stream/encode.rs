// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Encoding without I/O: payloads in, the bytes around them out.
//!
//! An [`Encoder`] makes a [`Frame`] of each payload and never touches the payload itself: the frame says which parts of it to send and
//! what to send around them, with one vectored write. Call order: [`Encoder::new`], any number of [`Encoder::frame`], then one of
//! [`Encoder::end`] and [`Encoder::abort`].

use super::attempt::AttemptId;
use super::crc::{Crc64, crc64};
use super::flags::Flags;
use super::frame::{
    self, End, FRAME_HEADER_SIZE, FrameHeader, FrameType, PREAMBLE_SIZE, Part, Preamble,
    REASON_MAX, Totals,
};
use super::index::{Entry, Noted};
use super::manifest::{Manifest, ManifestError};
use super::outgoing::{Begun, Frame};
use super::zeros::{BLOCK, Elision};
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
    index: Option<Noted>,
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
        Self::with_flags(manifest, frame_max, attempt, Flags::NONE)
    }

    /// As [`Encoder::new`], for a stream with features that its reader has to know. With [`Flags::INDEXED`] the end record gets an index of the
    /// frames before it; for [`Flags::SPLIT`] there is [`Encoder::split`].
    ///
    /// # Errors
    /// As there.
    pub fn with_flags(
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
        flags: Flags,
    ) -> Result<(Self, Vec<u8>), ManifestError> {
        let (encoder, openings) = Self::begin(manifest, frame_max, attempt, flags, 1)?;
        Ok((encoder, openings.concat()))
    }

    /// As [`Encoder::new`] for frames that go over `connections` connections (2 to 8), in ascending order on each; answers the opening of each. The
    /// first one gets the end too.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn split(
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
        connections: u8,
    ) -> Result<(Self, Vec<Vec<u8>>), ManifestError> {
        Self::begin(manifest, frame_max, attempt, Flags::SPLIT, connections)
    }

    fn begin(
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
        flags: Flags,
        count: u8,
    ) -> Result<(Self, Vec<Vec<u8>>), ManifestError> {
        let blob = manifest.encode()?;
        let preamble = |number| {
            Preamble {
                flags,
                frame_max,
                manifest_version: Manifest::newest_version(),
                manifest_length: blob.len() as u32,
                manifest_checksum: crc64(&blob),
                attempt,
                part: Part { number, count },
            }
            .encode()
        };
        let openings: Vec<_> = (0..count)
            .map(|number| [&preamble(number), &blob[..]].concat())
            .collect();
        Ok((
            Self {
                sequence: 0,
                payload_bytes: 0,
                wire_bytes: (PREAMBLE_SIZE + blob.len()) as u64,
                zero_bytes: 0,
                digest: frame::digest(&preamble(0)),
                frame_max,
                elision: Elision::default(),
                index: flags.contains(Flags::INDEXED).then(Noted::default),
            },
            openings,
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

    /// Looks for zeros in a payload of which more is to come, and makes its checksum, as far as not done yet: for whoever wants
    /// that done while the bytes are in a near cache. `payload` is all there is so far.
    pub fn observe(&self, payload: &[u8], frame: &mut Frame) {
        self.look(payload, payload.len() / BLOCK * BLOCK, frame);
    }

    fn look(&self, payload: &[u8], end: usize, frame: &mut Frame) {
        let table = &mut frame.table;
        let begun = frame.begun.get_or_insert_with(|| Begun {
            search: self.elision.begin(table),
            stays: Crc64::new(),
            seen: 0,
        });
        let stays = |bytes: &[u8]| begun.stays.update(bytes);
        begun.search.look(&payload[begun.seen..end], table, stays);
        begun.seen = end;
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
        self.look(payload, payload.len(), frame);
        let Some(Begun {
            search, mut stays, ..
        }) = frame.begun.take()
        else {
            unreachable!("it was looked at")
        };
        let sparse = self.elision.end(&search, &mut frame.table);
        frame.kind = if sparse {
            FrameType::Sparse
        } else {
            FrameType::Data
        };
        frame.encode_table(payload.len());
        let sum = if sparse || frame.table.zeros() == 0 {
            stays.update(&frame.encoded);
            stays.finish()
        } else {
            // Too few zeros to leave out.
            crc64(payload)
        };
        let header = FrameHeader {
            frame_type: frame.kind,
            length: frame.length(payload) as u32,
            sequence: self.sequence,
        };
        frame.header = header.encode_summed(sum);
        let entry = self.entry();
        if let Some(index) = &mut self.index {
            index.add(entry);
        }
        self.payload_bytes += payload.len() as u64;
        self.zero_bytes += frame.zeros() as u64;
        self.count(&frame.header, header.length);
    }

    fn entry(&self) -> Entry {
        Entry {
            offset: self.wire_bytes,
            state: self.payload_bytes,
        }
    }

    /// The frame that a data fd goes beside, in a stream with [`Flags::HAND_OVER`]; only [`Encoder::abort`] may follow.
    pub fn hand_over(&mut self) -> [u8; FRAME_HEADER_SIZE] {
        self.last(FrameType::HandOver, &[])
    }

    /// The index if there is one, the end record's frame, and the stream's totals with them.
    pub fn end(mut self, by_kind: ByKind) -> (Vec<u8>, Totals) {
        let totals = self.totals();
        let mut bytes = Vec::new();
        if let Some(index) = self.index.take() {
            let payload = index.encode(self.entry());
            bytes.extend_from_slice(&self.last(FrameType::Index, &payload));
            bytes.extend_from_slice(&payload);
        }
        let end = End {
            payload_bytes: totals.payload_bytes,
            frames: totals.frames,
            by_kind,
            digest: self.digest.finish(),
        }
        .encode();
        bytes.extend_from_slice(&self.last(FrameType::End, &end));
        bytes.extend_from_slice(&end);
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
