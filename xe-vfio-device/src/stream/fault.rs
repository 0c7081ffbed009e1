// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with a received stream, and where.

use thiserror::Error;

use super::frame::FrameError;
use super::index::IndexError;
use super::manifest::ManifestError;
use super::packed::PackedError;
use super::sparse::SparseError;

/// What is wrong with a stream.
#[derive(Debug, PartialEq, Error)]
pub enum DecodeFault {
    /// Preamble or frame header.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The runs of a sparse frame.
    #[error(transparent)]
    Sparse(#[from] SparseError),
    /// A compressed frame.
    #[error(transparent)]
    Packed(#[from] PackedError),
    /// The index of a file.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A length above the receiver's limit.
    #[error("The {what} has {found} bytes, {least} to {most} are accepted here")]
    Length {
        /// What has the length.
        what: &'static str,
        /// The length.
        found: u32,
        /// Smallest length accepted.
        least: u32,
        /// Largest length accepted.
        most: u32,
    },
    /// A checksum that does not hold.
    #[error(
        "The checksum of the {what} is {found:016x}, its bytes have {computed:016x}: they were altered on the way"
    )]
    Checksum {
        /// What was summed.
        what: &'static str,
        /// Checksum in the stream.
        found: u64,
        /// Checksum of the bytes.
        computed: u64,
    },
    /// A frame out of turn.
    #[error(
        "The frame has number {found}, expected is {expected}: a frame was lost, repeated or moved"
    )]
    Sequence {
        /// Number it has.
        found: u64,
        /// Number in turn.
        expected: u64,
    },
    /// A frame of a type that has no place there.
    #[error(
        "A frame of type {0} has no place here: a stream has frames of state or hands its data fd over, never both"
    )]
    Misplaced(u16),
    /// The end record says something else than what came.
    #[error(
        "The end record tells of {sent:?}, received is {received:?}: frames were lost or altered on the way"
    )]
    End {
        /// As the sender counted: payload bytes, frames of state, digest.
        sent: (u64, u64, u64),
        /// As counted here.
        received: (u64, u64, u64),
    },
    /// An abort reason that is no text.
    #[error("The sender stopped, but its reason is not UTF-8")]
    Reason,
    /// Bytes after the end or after an error.
    #[error("Bytes follow the end of the stream, or an error in it")]
    Ended,
    /// The stream ends where more has to come.
    #[error(
        "The stream ends here, {missing} bytes before the next piece of it is whole: the sender stopped or the connection broke"
    )]
    Truncated {
        /// Bytes missing of the piece that was being read.
        missing: usize,
    },
}

/// A fault and where it stands.
#[derive(Debug, PartialEq, Error)]
#[error("The device state stream is refused at byte {offset} ({place})")]
pub struct DecodeError {
    /// Byte offset in the stream of the piece at fault.
    pub offset: u64,
    /// The piece: preamble, manifest, or a frame by its number.
    pub place: Place,
    /// What is wrong.
    #[source]
    pub fault: DecodeFault,
}

/// A piece of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first 56 bytes.
    Preamble,
    /// The manifest.
    Manifest,
    /// The frame of this number.
    Frame(u64),
    /// Behind the last frame.
    End,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Preamble => f.write_str("preamble"),
            Self::Manifest => f.write_str("manifest"),
            Self::Frame(sequence) => write!(f, "frame {sequence}"),
            Self::End => f.write_str("after the end"),
        }
    }
}
