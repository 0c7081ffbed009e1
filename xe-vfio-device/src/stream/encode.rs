// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Encoding without I/O: payloads in, the bytes around them out.
//!
//! An [`Encoder`] makes a [`Frame`] of each payload and never touches the payload itself: the frame says which parts of it to send and
//! what to send around them, with one vectored write. Call order: [`Encoder::new`], any number of [`Encoder::frame`], then one of
//! [`Encoder::end`] and [`Encoder::abort`].

use super::attempt::AttemptId;
use super::codec::{Codec, Packer};
use super::crc::{Crc64, crc64};
use super::flags::Flags;
use super::frame::{
    self, End, FRAME_HEADER_SIZE, FrameHeader, FrameType, PREAMBLE_SIZE, Part, Preamble,
    REASON_MAX, Totals,
};
use super::index::{Entry, Noted};
use super::manifest::{Manifest, ManifestError};
use super::outgoing::{Begun, Frame};
use super::packed::{PACKED_TAIL_SIZE, encode_tail};
use super::sparse::{RUN_SIZE, TAIL_SIZE};
use super::zeros::{BLOCK, Elision};
use crate::xe::ByKind;

/// Fewer bytes are not worth a codec.
const LEAST: usize = 4096;

/// What compressing a frame has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Bytes that it was tried with, those of the frame without zeros that do not travel; 0 when they were too few to try.
    pub before: usize,
    /// Bytes that they take compressed; `None` when too little was gained, and the frame is what it would have been without.
    pub after: Option<usize>,
}

/// State of a stream's sending side.
#[derive(Clone)]
pub struct Encoder {
    /// But for the frames, which are counted by their numbers.
    totals: Totals,
    sequence: u64,
    compresses: bool,
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
        Self::split_with_flags(manifest, frame_max, attempt, connections, Flags::NONE)
    }

    /// As [`Encoder::split`], with more features that the stream's reader has to know.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn split_with_flags(
        manifest: &Manifest,
        frame_max: u32,
        attempt: AttemptId,
        connections: u8,
        flags: Flags,
    ) -> Result<(Self, Vec<Vec<u8>>), ManifestError> {
        let flags = flags.with(Flags::SPLIT);
        Self::begin(manifest, frame_max, attempt, flags, connections)
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
                totals: Totals {
                    wire_bytes: (PREAMBLE_SIZE + blob.len()) as u64,
                    ..Totals::default()
                },
                sequence: 0,
                compresses: flags.contains(Flags::COMPRESSED),
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
            frames: self.sequence,
            ..self.totals
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
        let stays = self.shape(payload, frame);
        self.plain(payload, frame, stays);
    }

    /// As [`Encoder::frame`], compressed when that makes it shorter by a sixteenth, in a stream with [`Flags::COMPRESSED`].
    ///
    /// # Panics
    /// As there.
    pub fn compressed(
        &mut self,
        payload: &[u8],
        frame: &mut Frame,
        packer: &mut Packer,
        codec: Codec,
    ) -> Tried {
        let mut sum = self.shape(payload, frame);
        let before = payload.len() - frame.zeros();
        if !self.compresses || before < LEAST {
            self.plain(payload, frame, sum);
            return Tried {
                before: 0,
                after: None,
            };
        }
        let around = (frame.table.runs().len() + 1) * RUN_SIZE + TAIL_SIZE + PACKED_TAIL_SIZE;
        let most = (before - before / 16).saturating_sub(around);
        let mut packed = std::mem::take(&mut frame.packed);
        let after = packer.pack(codec, frame.stays(payload), before, most, &mut packed);
        frame.packed = packed;
        match after {
            Some(after) => {
                frame.compressed(payload.len(), after);
                encode_tail(sum.finish(), codec, &mut frame.encoded);
                sum = Crc64::new();
                sum.update(&frame.packed[..after]);
                sum.update(&frame.encoded);
                self.totals.count(codec, before, after);
                self.seal(payload, frame, sum.finish());
            }
            None => self.plain(payload, frame, sum),
        }
        Tried { before, after }
    }

    /// Finds the frame's zeros; answers the checksum of what stays.
    fn shape(&mut self, payload: &[u8], frame: &mut Frame) -> Crc64 {
        assert!(
            !payload.is_empty() && payload.len() <= self.frame_max as usize,
            "Frame payload of {} bytes",
            payload.len()
        );
        self.look(payload, payload.len(), frame);
        let Some(Begun { search, stays, .. }) = frame.begun.take() else {
            unreachable!("it was looked at")
        };
        frame.sparse = self.elision.end(&search, &mut frame.table);
        if frame.sparse || frame.table.zeros() == 0 {
            return stays;
        }
        // Too few zeros to leave out.
        let mut all = Crc64::new();
        all.update(payload);
        all
    }

    fn plain(&mut self, payload: &[u8], frame: &mut Frame, mut stays: Crc64) {
        frame.plain(payload.len());
        stays.update(&frame.encoded);
        self.seal(payload, frame, stays.finish());
    }

    /// Makes the frame's header.
    fn seal(&mut self, payload: &[u8], frame: &mut Frame, sum: u64) {
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
        self.totals.payload_bytes += payload.len() as u64;
        self.totals.zero_bytes += frame.zeros() as u64;
        self.count(&frame.header, header.length);
    }

    fn entry(&self) -> Entry {
        Entry {
            offset: self.totals.wire_bytes,
            state: self.totals.payload_bytes,
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
                wire_bytes: self.totals.wire_bytes,
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
        self.totals.wire_bytes += FRAME_HEADER_SIZE as u64 + u64::from(length);
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
