// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! State with its runs of zeros left out and the rest compressed: the payload of a compressed frame.
//!
//! [`Packed::read`] believes nothing of a payload but what it has checked: codec and table stand uncompressed, so the bytes that come out are
//! known, and bounded, before [`Packed::unpack`] takes memory for them.

use thiserror::Error;

use super::codec::{Codec, Unpacker};
use super::crc::crc64;
use super::frame::array;
use super::sparse::{Pieces, RUN_SIZE, Runs, SparseError, Stay, TAIL_SIZE};

/// Bytes behind the table: the checksum of what was compressed, and the codec.
pub const PACKED_TAIL_SIZE: usize = 12;
/// Bytes of the shortest payload: one byte, one run.
pub const PACKED_MIN: usize = 1 + RUN_SIZE + TAIL_SIZE + PACKED_TAIL_SIZE;

/// A compressed frame that no writer writes, or that does not decompress to what it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PackedError {
    /// This build cannot read it.
    #[error(
        "The stream may be compressed, and this build has no codecs: build it with the feature `compression` of xe-vfio-device, or send with compression off"
    )]
    NotBuilt,
    /// It stands in a stream without such frames.
    #[error("A compressed frame stands where none was announced")]
    Unannounced,
    /// No such codec.
    #[error("The frame is compressed with codec {0}, this build knows 1 (lz4) and 2 (zstd)")]
    Codec(u32),
    /// The table of runs.
    #[error(transparent)]
    Runs(#[from] SparseError),
    /// Too short, or of nothing.
    #[error("A compressed frame of {0} bytes has nothing to decompress")]
    Empty(usize),
    /// The bytes are none of the codec's, or not so many.
    #[error(
        "The frame's bytes do not decompress to the {length} that it tells of ({codec}: {reason})"
    )]
    Bytes {
        /// The codec.
        codec: Codec,
        /// Bytes that should come out.
        length: usize,
        /// What the codec says.
        reason: String,
    },
    /// Something else came out than went in.
    #[error(
        "What was compressed with {codec} has the checksum {told:016x}, decompressed it has {found:016x}: the codecs of the two hosts disagree"
    )]
    Checksum {
        /// The codec.
        codec: Codec,
        /// Checksum before it was compressed.
        told: u64,
        /// Checksum of what came out.
        found: u64,
    },
}

/// Appends what stands behind the table.
pub(super) fn encode_tail(checksum: u64, codec: Codec, out: &mut Vec<u8>) {
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&(codec as u32).to_le_bytes());
}

/// State that is to be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed<'a> {
    packed: &'a [u8],
    runs: Runs<'a>,
    checksum: u64,
    codec: Codec,
}

impl<'a> Packed<'a> {
    /// Reads the payload of a compressed frame that stands for at most `most` bytes of state.
    ///
    /// # Errors
    /// [`PackedError`].
    pub fn read(payload: &'a [u8], most: u32) -> Result<Self, PackedError> {
        let (rest, tail) = payload
            .split_last_chunk::<PACKED_TAIL_SIZE>()
            .ok_or(PackedError::Empty(payload.len()))?;
        let number = u32::from_le_bytes(array(tail, 8));
        let codec = Codec::from_number(number).ok_or(PackedError::Codec(number))?;
        let (packed, runs) = Runs::read(rest, most, Stay::Compressed)?;
        if packed.is_empty() || runs.state == runs.zeros {
            return Err(PackedError::Empty(payload.len()));
        }
        Ok(Self {
            packed,
            runs,
            checksum: u64::from_le_bytes(array(tail, 0)),
            codec,
        })
    }

    /// How it was compressed.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes of state.
    #[allow(clippy::len_without_is_empty)] // one without state is refused
    pub fn len(&self) -> usize {
        self.runs.state
    }

    /// Bytes of zeros among them that did not travel.
    pub fn zeros(&self) -> usize {
        self.runs.zeros
    }

    /// Bytes that were compressed.
    pub fn before(&self) -> usize {
        self.runs.state - self.runs.zeros
    }

    /// Bytes that they take compressed.
    pub fn after(&self) -> usize {
        self.packed.len()
    }

    /// Decompresses it.
    ///
    /// # Errors
    /// [`PackedError`] when not exactly what was compressed comes out.
    pub fn unpack(self, unpacker: &'a mut Unpacker) -> Result<Pieces<'a>, PackedError> {
        let bytes = unpacker.unpack(self.codec, self.packed, self.before())?;
        let found = crc64(bytes);
        if found != self.checksum {
            return Err(PackedError::Checksum {
                codec: self.codec,
                told: self.checksum,
                found,
            });
        }
        Ok(self.runs.pieces(bytes))
    }
}
