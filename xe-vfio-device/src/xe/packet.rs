// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The packet header of the migration data fd.
//!
//! [`Header::decode`] takes the 24 bytes as the kernel lays them out (packed, little-endian) and answers a header whose
//! version, type and flags are known to be good; where a packet may stand and how large it may be is the parser's to say.
//! Source: `struct xe_sriov_packet_hdr` in the kernel's drivers/gpu/drm/xe/xe_sriov_packet_types.h.

use std::fmt;

use thiserror::Error;

/// The only packet version there is.
pub const VERSION: u8 = 1;
/// Bytes of a packet header.
pub const HEADER_SIZE: usize = 24;

/// A header that no packet of version 1 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The version is not [`VERSION`]; some kernels crash on such a descriptor.
    #[error(
        "The packet has version {0}, and only version 1 is known: use a build that knows both hosts' kernels"
    )]
    Version(u8),
    /// The type is none of [`PacketType`].
    #[error("The packet has type {0}, which is none of the known 1 to 6")]
    Type(u8),
    /// Flags are set.
    #[error(
        "The packet has flags {0:#010x}, and no flag is known: what they ask for would be ignored"
    )]
    Flags(u32),
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// KLVs that say which device the stream fits; first in the stream.
    Descriptor = 1,
    /// No payload; last in the stream.
    Trailer = 2,
    /// PTEs of the VF's share of the GGTT, 8 bytes each.
    Ggtt = 3,
    /// The VF's software flag registers.
    Mmio = 4,
    /// The firmware's own state of the VF.
    Guc = 5,
    /// A piece of the VF's VRAM.
    Vram = 6,
}

impl PacketType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Descriptor,
        Self::Trailer,
        Self::Ggtt,
        Self::Mmio,
        Self::Guc,
        Self::Vram,
    ];
}

impl TryFrom<u8> for PacketType {
    type Error = HeaderError;

    fn try_from(value: u8) -> Result<Self, HeaderError> {
        Self::ALL
            .into_iter()
            .find(|known| *known as u8 == value)
            .ok_or(HeaderError::Type(value))
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor => "descriptor",
            Self::Trailer => "trailer",
            Self::Ggtt => "GGTT",
            Self::Mmio => "MMIO",
            Self::Guc => "GuC",
            Self::Vram => "VRAM",
        })
    }
}

/// A GT, as packets name it: the kernel numbers GTs across the tiles of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gt {
    /// Tile the GT is on.
    pub tile: u8,
    /// Number of the GT on the device.
    pub id: u8,
}

impl fmt::Display for Gt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile {} GT {}", self.tile, self.id)
    }
}

/// A packet header whose version, type and flags are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the packet carries.
    pub packet_type: PacketType,
    /// The GT it belongs to; tile 0, GT 0 for descriptor and trailer.
    pub gt: Gt,
    /// Byte offset of the payload in the VF's VRAM; 0 for all other types.
    pub offset: u64,
    /// Bytes of payload that follow the header.
    pub size: u64,
}

impl Header {
    /// Decodes a header as it comes from the data fd.
    ///
    /// # Errors
    /// [`HeaderError`] for a version, type or flag that is not known. The kernel ignores flags today; they are refused
    /// here because a future kernel that sets one means something by it which this crate and an older destination would
    /// silently not do.
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Result<Self, HeaderError> {
        let [version, packet_type, tile, id, f0, f1, f2, f3, rest @ ..] = *bytes;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let packet_type = PacketType::try_from(packet_type)?;
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags != 0 {
            return Err(HeaderError::Flags(flags));
        }
        let [o0, o1, o2, o3, o4, o5, o6, o7, size @ ..] = rest;
        Ok(Self {
            packet_type,
            gt: Gt { tile, id },
            offset: u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            size: u64::from_le_bytes(size),
        })
    }

    /// The bytes that [`Header::decode`] answers this header for.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0] = VERSION;
        bytes[1] = self.packet_type as u8;
        bytes[2] = self.gt.tile;
        bytes[3] = self.gt.id;
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }
}
