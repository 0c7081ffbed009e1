// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decoding without I/O: the decoder says how many bytes it needs next, and makes an event of exactly these.
//!
//! ```text
//! loop { let n = decoder.need(); fill buf[..n]; match decoder.accept(&buf[..n])? { ... } }
//! ```
//! [`Decoder::need`] is bounded by [`Limits`] before it is answered, so a caller may take memory for it, and an event's
//! content has passed its checksum. After an error and after the end nothing more is accepted.

use super::attempt::AttemptId;
use super::codec;
use super::crc::{Crc64, crc64};
use super::fault::{DecodeError, DecodeFault, Place};
use super::flags::Flags;
use super::frame::{
    self, END_SIZE, End, FRAME_DEFAULT, FRAME_HEADER_SIZE, FRAME_MAX, FrameHeader, FrameType,
    PREAMBLE_SIZE, Part, Preamble, REASON_MAX, Totals,
};
use super::index::{self, Compared, Entry, INDEX_MAX, IndexError};
use super::manifest::{MANIFEST_MAX, Manifest};
use super::packed::{PACKED_MIN, Packed, PackedError};
use super::sparse::{Pieces, RUN_SIZE, TAIL_SIZE};

/// What a receiver is ready to take memory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of an encoded manifest; at most [`MANIFEST_MAX`] is of use.
    pub manifest: u32,
    /// Most payload bytes of a frame; at most [`FRAME_MAX`] is of use.
    pub frame: u32,
}

impl Default for Limits {
    /// 64 KiB of manifest, 1 MiB of frame.
    fn default() -> Self {
        Self {
            manifest: MANIFEST_MAX,
            frame: FRAME_DEFAULT,
        }
    }
}

/// What the accepted bytes were.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// A header; its event comes with the bytes it announced.
    More,
    /// The stream is open.
    Manifest(Box<Manifest>),
    /// Device state.
    Data(Pieces<'a>),
    /// Device state that is to be decompressed, of a frame whose checksum holds.
    Packed(Packed<'a>),
    /// The index, which tells what the frames before it are.
    Index,
    /// The data fd has come beside the frame, if it has come over what passes descriptors.
    HandOver,
    /// The sender stopped for this reason; the state received so far is of no use.
    Abort(String),
    /// The stream is complete and whole.
    End(End),
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Preamble,
    Manifest(Preamble),
    Header,
    Payload(FrameHeader, [u8; FRAME_HEADER_SIZE]),
    Ended,
}

/// State of a stream's receiving side.
#[derive(Clone)]
pub struct Decoder {
    limits: Limits,
    step: Step,
    bounds: Bounds,
    flags: Flags,
    attempt: AttemptId,
    part: Part,
    /// What the index has to be, when one was announced.
    index: Option<Compared>,
    /// The index came and was good.
    has_index: bool,
    /// What was received so far. Its frames' number is that of the frame in turn, its bytes are the offset of what comes next.
    totals: Totals,
    digest: Crc64,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: Limits {
                manifest: limits.manifest.min(MANIFEST_MAX),
                frame: limits.frame.min(FRAME_MAX),
            },
            step: Step::Preamble,
            bounds: Bounds::default(),
            flags: Flags::NONE,
            attempt: AttemptId::NONE,
            part: Part::WHOLE,
            index: None,
            has_index: false,
            totals: Totals::default(),
            digest: Crc64::new(),
        }
    }

    /// Bytes that [`Decoder::accept`] wants next, within the limits; 0 after the end.
    pub fn need(&self) -> usize {
        match self.step {
            Step::Preamble => PREAMBLE_SIZE,
            Step::Manifest(preamble) => preamble.manifest_length as usize,
            Step::Header => FRAME_HEADER_SIZE,
            Step::Payload(header, _) => header.length as usize,
            Step::Ended => 0,
        }
    }

    /// Whether the stream ended, by end record, abort or error.
    pub fn has_ended(&self) -> bool {
        matches!(self.step, Step::Ended)
    }

    /// The attempt that the stream belongs to; known once the manifest is.
    pub fn attempt(&self) -> AttemptId {
        self.attempt
    }

    /// Whether the data fd comes in the place of the state; known once the manifest is.
    pub fn hands_over(&self) -> bool {
        self.flags.contains(Flags::HAND_OVER)
    }

    /// What was received so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Most payload bytes of a frame of state of this stream; known once the manifest is.
    pub fn frame_max(&self) -> u32 {
        self.bounds.frame
    }

    /// Which of the stream's connections the opening came on; known once the manifest is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Whether an index was announced; known once the manifest is.
    pub fn is_indexed(&self) -> bool {
        self.index.is_some()
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Takes the next [`Decoder::need`] bytes.
    ///
    /// # Errors
    /// [`DecodeError`] for any byte that no writer would have written; the decoder has then ended. Fewer or more bytes than
    /// needed are such an error too.
    pub fn accept<'a>(&mut self, bytes: &'a [u8]) -> Result<Event<'a>, DecodeError> {
        self.accept_summed(bytes, None)
    }

    /// As [`Decoder::accept`] for a payload whose checksum another thread has computed.
    pub(super) fn accept_summed<'a>(
        &mut self,
        bytes: &'a [u8],
        summed: Option<u64>,
    ) -> Result<Event<'a>, DecodeError> {
        let (offset, place) = (self.totals.wire_bytes, self.place());
        let step = std::mem::replace(&mut self.step, Step::Ended);
        let result = self.take(step, bytes, summed);
        self.totals.wire_bytes += bytes.len() as u64;
        result.map_err(|fault| DecodeError {
            offset,
            place,
            fault,
        })
    }

    /// The error for a stream that ended after `got` of the needed bytes.
    pub fn truncated(&self, got: usize) -> DecodeError {
        let fault = DecodeFault::Truncated {
            missing: self.need().saturating_sub(got),
        };
        DecodeError {
            offset: self.totals.wire_bytes,
            place: self.place(),
            fault,
        }
    }

    /// The error for a frame out of turn that tells of this number, or of none that can be believed.
    pub(super) fn broken(&self, sequence: Option<u64>, fault: DecodeFault) -> DecodeError {
        DecodeError {
            offset: self.totals.wire_bytes,
            place: sequence.map_or_else(|| self.place(), Place::Frame),
            fault,
        }
    }

    /// The error for a frame that is not as long as an index tells.
    pub(super) fn misplaced(&self, told: u64, found: u64) -> DecodeError {
        DecodeError {
            offset: self.totals.wire_bytes,
            place: self.place(),
            fault: IndexError::Frame { told, found }.into(),
        }
    }

    fn place(&self) -> Place {
        match self.step {
            Step::Preamble => Place::Preamble,
            Step::Manifest(_) => Place::Manifest,
            Step::Header | Step::Payload(..) => Place::Frame(self.in_turn()),
            Step::Ended => Place::End,
        }
    }

    /// Number of the next frame.
    fn in_turn(&self) -> u64 {
        self.totals.frames + u64::from(self.has_index)
    }

    fn take<'a>(
        &mut self,
        step: Step,
        bytes: &'a [u8],
        summed: Option<u64>,
    ) -> Result<Event<'a>, DecodeFault> {
        match step {
            Step::Preamble => self.preamble(exact(bytes)?),
            Step::Manifest(preamble) => self.manifest(&preamble, bytes),
            Step::Header => self.header(exact(bytes)?),
            Step::Payload(header, raw) => self.payload(header, &raw, bytes, summed),
            Step::Ended => Err(DecodeFault::Ended),
        }
    }

    fn preamble(&mut self, bytes: &[u8; PREAMBLE_SIZE]) -> Result<Event<'static>, DecodeFault> {
        let preamble = Preamble::decode(bytes)?;
        bounded(
            "manifest",
            preamble.manifest_length,
            1,
            self.limits.manifest,
        )?;
        bounded(
            "sender's largest frame",
            preamble.frame_max,
            1,
            self.limits.frame,
        )?;
        self.bounds.frame = preamble.frame_max;
        if preamble.flags.contains(Flags::COMPRESSED) && !codec::BUILT {
            return Err(PackedError::NotBuilt.into());
        }
        self.flags = preamble.flags;
        if preamble.flags.contains(Flags::INDEXED) {
            self.bounds.index = Some(INDEX_MAX.min(self.limits.frame));
            self.index = Some(Compared::new());
        }
        self.attempt = preamble.attempt;
        self.part = preamble.part;
        self.digest = frame::digest(bytes);
        self.step = Step::Manifest(preamble);
        Ok(Event::More)
    }

    fn manifest(
        &mut self,
        preamble: &Preamble,
        bytes: &[u8],
    ) -> Result<Event<'static>, DecodeFault> {
        whole(bytes, preamble.manifest_length)?;
        check("manifest", preamble.manifest_checksum, crc64(bytes))?;
        let manifest = Manifest::decode(bytes, preamble.manifest_version)?;
        self.step = Step::Header;
        Ok(Event::Manifest(Box::new(manifest)))
    }

    fn header(&mut self, bytes: &[u8; FRAME_HEADER_SIZE]) -> Result<Event<'static>, DecodeFault> {
        let header = FrameHeader::decode(bytes)?;
        let expected = self.in_turn();
        if header.sequence != expected {
            return Err(DecodeFault::Sequence {
                found: header.sequence,
                expected,
            });
        }
        self.in_place(header.frame_type)?;
        self.bounds.check(&header)?;
        self.step = Step::Payload(header, *bytes);
        Ok(Event::More)
    }

    /// Whether a frame of this type may come here: an index once, where it was announced, and behind it the end only; a hand-over once, where it
    /// was announced, and beside it an abort only.
    fn in_place(&self, frame_type: FrameType) -> Result<(), DecodeFault> {
        match frame_type {
            FrameType::HandOver if !self.hands_over() || self.totals.frames > 0 => {
                Err(DecodeFault::Misplaced(frame_type as u16))
            }
            FrameType::Data
            | FrameType::Sparse
            | FrameType::Compressed
            | FrameType::Index
            | FrameType::End
                if self.hands_over() =>
            {
                Err(DecodeFault::Misplaced(frame_type as u16))
            }
            FrameType::Compressed if !self.flags.contains(Flags::COMPRESSED) => {
                Err(PackedError::Unannounced.into())
            }
            FrameType::Index if self.index.is_none() || self.has_index => {
                Err(IndexError::Unannounced.into())
            }
            FrameType::End if self.index.is_some() && !self.has_index => {
                Err(IndexError::Missing.into())
            }
            FrameType::Data | FrameType::Sparse | FrameType::Compressed | FrameType::Abort
                if self.has_index =>
            {
                Err(IndexError::Unannounced.into())
            }
            _ => Ok(()),
        }
    }

    fn payload<'a>(
        &mut self,
        header: FrameHeader,
        raw: &[u8; FRAME_HEADER_SIZE],
        bytes: &'a [u8],
        summed: Option<u64>,
    ) -> Result<Event<'a>, DecodeFault> {
        whole(bytes, header.length)?;
        let computed = summed.unwrap_or_else(|| frame::checksum(raw, bytes));
        check("frame", frame::stored_checksum(raw), computed)?;
        match header.frame_type {
            FrameType::Data => {
                self.state(raw, bytes.len(), 0);
                Ok(Event::Data(Pieces::plain(bytes)))
            }
            FrameType::Sparse => {
                let pieces = Pieces::sparse(bytes, self.bounds.frame)?;
                self.state(raw, pieces.len(), pieces.zeros());
                Ok(Event::Data(pieces))
            }
            FrameType::Compressed => {
                let packed = Packed::read(bytes, self.bounds.frame)?;
                self.state(raw, packed.len(), packed.zeros());
                let (before, after) = (packed.before(), packed.after());
                self.totals.count(packed.codec(), before, after);
                Ok(Event::Packed(packed))
            }
            FrameType::Index => {
                let next = self.entry();
                let compared = self.index.as_ref().ok_or(IndexError::Unannounced)?;
                compared.check(bytes, next)?;
                self.digest.update(raw);
                self.has_index = true;
                self.step = Step::Header;
                Ok(Event::Index)
            }
            FrameType::HandOver => {
                self.digest.update(raw);
                self.totals.frames += 1;
                self.step = Step::Header;
                Ok(Event::HandOver)
            }
            FrameType::Abort => {
                let reason = String::from_utf8(bytes.to_vec()).map_err(|_| DecodeFault::Reason)?;
                Ok(Event::Abort(reason))
            }
            FrameType::End => {
                let end = End::decode(exact(bytes)?);
                let sent = (end.payload_bytes, end.frames, end.digest);
                let received = (
                    self.totals.payload_bytes,
                    self.totals.frames,
                    self.digest.finish(),
                );
                if sent != received {
                    return Err(DecodeFault::End { sent, received });
                }
                Ok(Event::End(end))
            }
        }
    }

    /// Where the frame begins whose header was just accepted.
    fn entry(&self) -> Entry {
        Entry {
            offset: self.totals.wire_bytes - FRAME_HEADER_SIZE as u64,
            state: self.totals.payload_bytes,
        }
    }

    /// Counts a frame of state.
    fn state(&mut self, raw: &[u8; FRAME_HEADER_SIZE], length: usize, zeros: usize) {
        self.digest.update(raw);
        let entry = self.entry();
        if let Some(index) = &mut self.index {
            index.add(entry);
        }
        self.totals.payload_bytes += length as u64;
        self.totals.zero_bytes += zeros as u64;
        self.totals.frames += 1;
        self.step = Step::Header;
    }
}

/// How long the frames of a stream may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Payload bytes of a frame of state.
    frame: u32,
    /// Payload bytes of an index, where there is one.
    index: Option<u32>,
}

impl Bounds {
    /// Whether a frame may have the length that its header tells.
    pub(super) fn check(self, header: &FrameHeader) -> Result<(), DecodeFault> {
        let (what, least, most) = match header.frame_type {
            FrameType::Data => ("data frame", 1, self.frame),
            FrameType::Sparse => ("sparse frame", (RUN_SIZE + TAIL_SIZE) as u32, self.frame),
            FrameType::Compressed => ("compressed frame", PACKED_MIN as u32, self.frame),
            FrameType::HandOver => ("hand-over frame", 0, 0),
            FrameType::Abort => ("abort frame", 0, REASON_MAX as u32),
            FrameType::End => ("end record", END_SIZE as u32, END_SIZE as u32),
            FrameType::Index => {
                let most = self.index.ok_or(IndexError::Unannounced)?;
                ("index", index::TAIL_SIZE as u32, most)
            }
        };
        bounded(what, header.length, least, most)
    }
}

fn bounded(what: &'static str, found: u32, least: u32, most: u32) -> Result<(), DecodeFault> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(DecodeFault::Length {
            what,
            found,
            least,
            most,
        })
    }
}

fn check(what: &'static str, found: u64, computed: u64) -> Result<(), DecodeFault> {
    if found == computed {
        Ok(())
    } else {
        Err(DecodeFault::Checksum {
            what,
            found,
            computed,
        })
    }
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], DecodeFault> {
    whole(bytes, N as u32)?;
    Ok(bytes.first_chunk().expect("the length was just compared"))
}

fn whole(bytes: &[u8], need: u32) -> Result<(), DecodeFault> {
    match (need as usize).cmp(&bytes.len()) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(DecodeFault::Truncated {
            missing: need as usize - bytes.len(),
        }),
        std::cmp::Ordering::Less => Err(DecodeFault::Ended),
    }
}
