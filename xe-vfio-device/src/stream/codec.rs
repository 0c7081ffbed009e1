// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! LZ4 and zstd, each frame by itself, with memory that is kept from one frame to the next.
//!
//! The libraries are there with the crate's feature `compression`. Without it nothing is compressed, and a stream that announces compressed
//! frames is refused at its preamble. LZ4 is `lz4_flex`, without unsafe code; zstd is the C library, whose one-shot decompression writes
//! into the memory that it is given and nowhere else.

use super::packed::PackedError;

/// Whether this build has the codecs.
pub const BUILT: bool = cfg!(feature = "compression");

/// zstd's level: the fastest of its usual ones. Slower ones would pay on links that are too slow for a VF's state anyway.
#[cfg(feature = "compression")]
const LEVEL: i32 = 1;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Codec {
    /// LZ4, one block.
    Lz4 = 1,
    /// zstd, one frame.
    Zstd = 2,
}

impl Codec {
    /// All of them, the faster first.
    pub const ALL: [Self; 2] = [Self::Lz4, Self::Zstd];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of this number in a frame.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| *codec as u32 == number)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Compresses. Memory: what stays of a frame where that is in several pieces, and the codecs' tables.
#[derive(Default)]
pub struct Packer {
    #[cfg(feature = "compression")]
    gathered: Vec<u8>,
    #[cfg(feature = "compression")]
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

/// Decompresses. Memory: one frame's bytes, and the codecs' tables.
#[derive(Default)]
pub struct Unpacker {
    #[cfg(feature = "compression")]
    bytes: Vec<u8>,
    #[cfg(feature = "compression")]
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Packer {
    /// With no memory yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Unpacker {
    /// With no memory yet.
    pub fn new() -> Self {
        Self::default()
    }
}

#[cfg(feature = "compression")]
impl Packer {
    /// Compresses `pieces`, which have `length` bytes together, into the beginning of `out`, which becomes as long as it has to be; answers how many bytes
    /// it took, `None` when they would be more than `most`.
    pub(super) fn pack<'a>(
        &mut self,
        codec: Codec,
        mut pieces: impl Iterator<Item = &'a [u8]>,
        length: usize,
        most: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let first = pieces.next()?;
        let plain = if first.len() == length {
            first
        } else {
            self.gathered.clear();
            self.gathered.extend_from_slice(first);
            pieces.for_each(|piece| self.gathered.extend_from_slice(piece));
            &self.gathered[..]
        };
        let room = lz4_flex::block::get_maximum_output_size(length);
        if out.len() < room {
            // Pages that nobody has written: what is not used takes no memory.
            *out = vec![0; room];
        }
        let packed = match codec {
            Codec::Lz4 => lz4_flex::block::compress_into(plain, out).ok(),
            Codec::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = zstd::bulk::Compressor::new(LEVEL).ok();
                }
                // It gives up as soon as it has no room.
                let room = most.min(out.len());
                let zstd = self.zstd.as_mut()?;
                zstd.compress_to_buffer(plain, &mut out[..room]).ok()
            }
        };
        packed.filter(|packed| (1..=most).contains(packed))
    }
}

#[cfg(feature = "compression")]
impl Unpacker {
    /// Decompresses to exactly `length` bytes.
    pub(super) fn unpack(
        &mut self,
        codec: Codec,
        packed: &[u8],
        length: usize,
    ) -> Result<&[u8], PackedError> {
        if self.bytes.len() < length {
            self.bytes = vec![0; length];
        }
        let bytes = &mut self.bytes[..length];
        let failed = |reason: String| PackedError::Bytes {
            codec,
            length,
            reason,
        };
        let found = match codec {
            Codec::Lz4 => {
                let unpacked = lz4_flex::block::decompress_into(packed, bytes);
                unpacked.map_err(|error| failed(error.to_string()))?
            }
            Codec::Zstd => {
                if self.zstd.is_none() {
                    let zstd = zstd::bulk::Decompressor::new();
                    self.zstd = Some(zstd.map_err(|error| failed(error.to_string()))?);
                }
                let zstd = self.zstd.as_mut().ok_or(PackedError::NotBuilt)?;
                let unpacked = zstd.decompress_to_buffer(packed, bytes);
                unpacked.map_err(|error| failed(error.to_string()))?
            }
        };
        if found == length {
            Ok(bytes)
        } else {
            Err(failed(format!("there are {found}")))
        }
    }
}

#[cfg(not(feature = "compression"))]
impl Packer {
    pub(super) fn pack<'a>(
        &mut self,
        _: Codec,
        _: impl Iterator<Item = &'a [u8]>,
        _: usize,
        _: usize,
        _: &mut Vec<u8>,
    ) -> Option<usize> {
        None
    }
}

#[cfg(not(feature = "compression"))]
impl Unpacker {
    pub(super) fn unpack(&mut self, _: Codec, _: &[u8], _: usize) -> Result<&[u8], PackedError> {
        Err(PackedError::NotBuilt)
    }
}
