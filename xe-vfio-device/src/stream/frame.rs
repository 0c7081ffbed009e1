// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pieces of the format and their bytes: preamble, frame header, end record. All numbers are little-endian.
//!
//! Encoding and decoding here are exact inverses on fixed arrays; nothing is checked but what no writer of this version
//! writes. Lengths and sequence are for [`Decoder`](super::Decoder) to judge.

use thiserror::Error;

use super::attempt::AttemptId;
use super::codec::Codec;
use super::crc::{Crc64, crc64, joined};
use super::flags::Flags;
use crate::xe::{ByKind, PacketType, Tally};

/// First bytes of a stream. The line ends and the high bit show a transfer that treated it as text.
pub const MAGIC: [u8; 8] = *b"\x89XEVF\r\n\x1a";
/// The format version of docs/stream-format.md.
pub const FORMAT_VERSION: u16 = 2;
/// Bytes of a preamble.
pub const PREAMBLE_SIZE: usize = 56;
/// Bytes of a frame header.
pub const FRAME_HEADER_SIZE: usize = 24;
/// Bytes of an end record.
pub const END_SIZE: usize = 120;
/// Payload bytes of a data frame that a writer uses unless told otherwise.
pub const FRAME_DEFAULT: u32 = 1 << 20;
/// Payload bytes that no frame has more of.
pub const FRAME_MAX: u32 = 16 << 20;
/// Most bytes of the reason in an abort frame.
pub const REASON_MAX: usize = 1024;

/// A preamble or frame header that no writer of this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Not our format.
    #[error(
        "The data begins with {0:02x?} instead of {MAGIC:02x?}: this is no device state, or it went through a text conversion"
    )]
    Magic([u8; 8]),
    /// A format version that this build does not know.
    #[error(
        "The stream has format version {0}, this build knows {FORMAT_VERSION} only: bring both hosts to the same build"
    )]
    Version(u16),
    /// The preamble's checksum does not hold.
    #[error(
        "The preamble's checksum is {found:016x}, its bytes have {computed:016x}: it was altered on the way"
    )]
    Preamble {
        /// Checksum in the preamble.
        found: u64,
        /// Checksum of its bytes.
        computed: u64,
    },
    /// Flags of the preamble or of a frame are set that this build does not know.
    #[error("Flags {0:#06x} are set, and this build does not know them: update the older host")]
    Flags(u16),
    /// Features that do not go together, or the place of a connection that cannot be.
    #[error(
        "The preamble announces what no sender does: flags {flags:#06x}, connection {number} of {count}"
    )]
    Announced {
        /// The flags.
        flags: u16,
        /// Number of the connection.
        number: u8,
        /// How many there are.
        count: u8,
    },
    /// Bytes that have to be zero are not.
    #[error("Reserved bytes hold {0:#x} instead of zero: update the older host")]
    Reserved(u64),
    /// A frame type that this build does not know.
    #[error("Frame type {0} is unknown to this build, which knows 1 to 7: update the older host")]
    Type(u16),
}

/// Most connections that a stream may be split over.
pub const CONNECTIONS_MAX: u8 = 8;

/// Which of a stream's connections this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 0; the first one carries the end of the stream and the receipt.
    pub number: u8,
    /// How many there are, 1 to [`CONNECTIONS_MAX`].
    pub count: u8,
}

impl Part {
    /// The only connection.
    pub const WHOLE: Self = Self {
        number: 0,
        count: 1,
    };
}

/// The first 56 bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// What a reader has to know to read on.
    pub flags: Flags,
    /// Most payload bytes of any data frame that follows.
    pub frame_max: u32,
    /// Version of the manifest's encoding.
    pub manifest_version: u16,
    /// Bytes of the manifest.
    pub manifest_length: u32,
    /// CRC of the manifest.
    pub manifest_checksum: u64,
    /// The attempt at a migration that the stream belongs to.
    pub attempt: AttemptId,
    /// Which of the stream's connections this is; [`Part::WHOLE`] without [`Flags::SPLIT`].
    pub part: Part,
}

impl Preamble {
    /// The preamble's bytes.
    pub fn encode(&self) -> [u8; PREAMBLE_SIZE] {
        let mut bytes = [0; PREAMBLE_SIZE];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.flags.bits().to_le_bytes());
        if self.flags.contains(Flags::SPLIT) {
            bytes[18..20].copy_from_slice(&[self.part.number, self.part.count]);
        }
        bytes[12..16].copy_from_slice(&self.frame_max.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.manifest_version.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.manifest_length.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.manifest_checksum.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.attempt.0.to_le_bytes());
        let checksum = crc64(&bytes[..48]);
        bytes[48..56].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a preamble.
    ///
    /// # Errors
    /// [`FrameError`]. Magic and version are judged before the checksum, so that another format is called by its name.
    pub fn decode(bytes: &[u8; PREAMBLE_SIZE]) -> Result<Self, FrameError> {
        let magic = array(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let version = u16::from_le_bytes(array(bytes, 8));
        if version != FORMAT_VERSION {
            return Err(FrameError::Version(version));
        }
        let (found, computed) = (u64::from_le_bytes(array(bytes, 48)), crc64(&bytes[..48]));
        if found != computed {
            return Err(FrameError::Preamble { found, computed });
        }
        let flags = Flags::from_bits(u16::from_le_bytes(array(bytes, 10)));
        let flags = flags.map_err(FrameError::Flags)?;
        let part @ [number, count] = array(bytes, 18);
        // Nothing travels that could be indexed or compressed.
        let idle = flags.contains(Flags::INDEXED) || flags.contains(Flags::COMPRESSED);
        let part = if flags.contains(Flags::SPLIT) {
            // An index has the offsets of a file, and a file is in one piece; so is a data fd.
            let whole = flags.contains(Flags::INDEXED) || flags.contains(Flags::HAND_OVER);
            if whole || !(2..=CONNECTIONS_MAX).contains(&count) || number >= count {
                return Err(FrameError::Announced {
                    flags: flags.bits(),
                    number,
                    count,
                });
            }
            Part { number, count }
        } else if flags.contains(Flags::HAND_OVER) && idle {
            return Err(FrameError::Announced {
                flags: flags.bits(),
                number,
                count,
            });
        } else if part == [0, 0] {
            Part::WHOLE
        } else {
            return Err(FrameError::Reserved(u16::from_le_bytes(part).into()));
        };
        Ok(Self {
            flags,
            frame_max: u32::from_le_bytes(array(bytes, 12)),
            manifest_version: u16::from_le_bytes(array(bytes, 16)),
            manifest_length: u32::from_le_bytes(array(bytes, 20)),
            manifest_checksum: u64::from_le_bytes(array(bytes, 24)),
            attempt: AttemptId(u128::from_le_bytes(array(bytes, 32))),
            part,
        })
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameType {
    /// Bytes of the device's state.
    Data = 1,
    /// Why the sender stops here; nothing follows.
    Abort = 2,
    /// The end record; nothing follows.
    End = 3,
    /// Bytes of the device's state with runs of zeros left out.
    Sparse = 4,
    /// The data fd comes beside this header, and the state through it.
    HandOver = 5,
    /// Where the frames of state stand in the file; the end record follows.
    Index = 6,
    /// Bytes of the device's state with runs of zeros left out and the rest compressed.
    Compressed = 7,
}

/// A frame's header without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame carries.
    pub frame_type: FrameType,
    /// Payload bytes that follow the header.
    pub length: u32,
    /// Number of the frame in the stream, from 0.
    pub sequence: u64,
}

impl FrameHeader {
    /// The header's bytes, with the checksum over them and `payload`.
    pub fn encode(&self, payload: &[u8]) -> [u8; FRAME_HEADER_SIZE] {
        self.encode_summed(crc64(payload))
    }

    /// As [`FrameHeader::encode`] for a payload whose checksum is known.
    pub(super) fn encode_summed(&self, payload: u64) -> [u8; FRAME_HEADER_SIZE] {
        let mut bytes = [0; FRAME_HEADER_SIZE];
        bytes[0..2].copy_from_slice(&(self.frame_type as u16).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        let checksum = joined(crc64(&bytes[..16]), payload, self.length.into());
        bytes[16..24].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header; its checksum can be judged with the payload only.
    ///
    /// # Errors
    /// [`FrameError::Type`] and [`FrameError::Flags`].
    pub fn decode(bytes: &[u8; FRAME_HEADER_SIZE]) -> Result<Self, FrameError> {
        let frame_type = match u16::from_le_bytes(array(bytes, 0)) {
            1 => FrameType::Data,
            2 => FrameType::Abort,
            3 => FrameType::End,
            4 => FrameType::Sparse,
            5 => FrameType::HandOver,
            6 => FrameType::Index,
            7 => FrameType::Compressed,
            unknown => return Err(FrameError::Type(unknown)),
        };
        let flags = u16::from_le_bytes(array(bytes, 2));
        if flags != 0 {
            return Err(FrameError::Flags(flags));
        }
        Ok(Self {
            frame_type,
            length: u32::from_le_bytes(array(bytes, 4)),
            sequence: u64::from_le_bytes(array(bytes, 8)),
        })
    }
}

/// The checksum that a frame header of these bytes has in its last eight.
pub fn stored_checksum(header: &[u8; FRAME_HEADER_SIZE]) -> u64 {
    u64::from_le_bytes(array(header, 16))
}

/// What of a header its checksum is of, before the payload.
pub fn summed(header: &[u8; FRAME_HEADER_SIZE]) -> &[u8] {
    &header[..16]
}

/// CRC of the header's first 16 bytes and the payload.
pub fn checksum(header: &[u8; FRAME_HEADER_SIZE], payload: &[u8]) -> u64 {
    joined(crc64(summed(header)), crc64(payload), payload.len() as u64)
}

/// The digest of a stream that begins with this preamble, to be updated with the header of each frame.
///
/// The preamble's checksum stays out: with it the digest would be the same for all preambles ([`super::crc`]).
pub(super) fn digest(preamble: &[u8; PREAMBLE_SIZE]) -> Crc64 {
    let mut crc = Crc64::new();
    crc.update(&preamble[..48]);
    crc
}

/// Sizes of a stream that went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of device state.
    pub payload_bytes: u64,
    /// All bytes of the stream: preamble, manifest, headers, payloads, index, end record; the openings of further connections left out.
    pub wire_bytes: u64,
    /// Data, sparse and compressed frames.
    pub frames: u64,
    /// Bytes of state that were zeros and did not travel.
    pub zero_bytes: u64,
    /// What went as LZ4.
    pub lz4: Compressed,
    /// What went as zstd.
    pub zstd: Compressed,
}

impl Totals {
    /// What was compressed.
    pub fn compressed(&self) -> Compressed {
        Compressed {
            frames: self.lz4.frames + self.zstd.frames,
            before: self.lz4.before + self.zstd.before,
            after: self.lz4.after + self.zstd.after,
        }
    }

    pub(super) fn count(&mut self, codec: Codec, before: usize, after: usize) {
        let sum = match codec {
            Codec::Lz4 => &mut self.lz4,
            Codec::Zstd => &mut self.zstd,
        };
        sum.frames += 1;
        sum.before += before as u64;
        sum.after += after as u64;
    }
}

/// Frames that went compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compressed {
    /// How many.
    pub frames: u64,
    /// Bytes of state in them, without the zeros that did not travel at all.
    pub before: u64,
    /// Bytes that travelled in their place.
    pub after: u64,
}

/// The end record: what the sender sent, for the receiver to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Bytes of device state in all frames, zeros that were left out included.
    pub payload_bytes: u64,
    /// Data, sparse and compressed frames.
    pub frames: u64,
    /// Packets and bytes by kind as the sender's parser counted them.
    pub by_kind: ByKind,
    /// CRC of the preamble but its checksum, and of all frame headers before this one, checksums included.
    pub digest: u64,
}

impl End {
    /// The record's bytes.
    pub fn encode(&self) -> [u8; END_SIZE] {
        let mut bytes = [0; END_SIZE];
        bytes[0..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.frames.to_le_bytes());
        encode_by_kind(&self.by_kind, &mut bytes[16..112]);
        bytes[112..120].copy_from_slice(&self.digest.to_le_bytes());
        bytes
    }

    /// Reads a record whose frame's checksum holds.
    pub fn decode(bytes: &[u8; END_SIZE]) -> Self {
        Self {
            payload_bytes: u64::from_le_bytes(array(bytes, 0)),
            frames: u64::from_le_bytes(array(bytes, 8)),
            by_kind: decode_by_kind(&array(bytes, 16)),
            digest: u64::from_le_bytes(array(bytes, 112)),
        }
    }
}

/// Packets and bytes of each type, 16 bytes each, into 96 bytes.
pub(super) fn encode_by_kind(by_kind: &ByKind, bytes: &mut [u8]) {
    let slots = bytes.as_chunks_mut::<16>().0;
    for (slot, (_, tally)) in slots.iter_mut().zip(by_kind.iter()) {
        slot[..8].copy_from_slice(&tally.packets.to_le_bytes());
        slot[8..].copy_from_slice(&tally.bytes.to_le_bytes());
    }
}

/// What [`encode_by_kind`] has written.
pub(super) fn decode_by_kind(bytes: &[u8; 96]) -> ByKind {
    let mut by_kind = ByKind::default();
    for (kind, slot) in PacketType::ALL.into_iter().zip(bytes.as_chunks::<16>().0) {
        let tally = Tally {
            packets: u64::from_le_bytes(array(slot, 0)),
            bytes: u64::from_le_bytes(array(slot, 8)),
        };
        by_kind.set(kind, tally);
    }
    by_kind
}

/// `N` bytes from `at` of a larger array; offsets are constants of the format.
pub(super) fn array<const N: usize, const M: usize>(bytes: &[u8; M], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}
