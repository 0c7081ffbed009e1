// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The packets of a saved VF: their header, and which packets in which order a VF of a given configuration has.
//!
//! Layout and order are those of the Xe PF driver's migration packets (drivers/gpu/drm/xe/xe_sriov_packet*).

use crate::host::HostConfig;

/// Bytes of a packet header.
pub const HEADER_SIZE: usize = 24;
/// The only header version.
pub const VERSION: u8 = 1;
/// Bytes of the descriptor's payload here: two KLVs of one dword each.
pub const DESCRIPTOR_SIZE: u64 = 16;
/// Bytes of a GT's MMIO payload.
pub const MMIO_SIZE: u64 = 16;
/// KLV key of the PCI device id.
pub const KEY_DEVICE_ID: u16 = 0xf001;
/// KLV key of the PCI revision id.
pub const KEY_REVISION_ID: u16 = 0xf002;
/// Packets that the PF holds ready per GT.
pub const RING_PACKETS: u64 = 5;

/// What a packet carries, with the number it has in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Identity of the device.
    Descriptor = 1,
    /// End of the stream.
    Trailer = 2,
    /// PTEs.
    Ggtt = 3,
    /// Scratch registers.
    Mmio = 4,
    /// State of the firmware.
    Guc = 5,
    /// A chunk of VRAM.
    Vram = 6,
}

impl Kind {
    /// The kind with the header's number `raw`.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        [
            Self::Descriptor,
            Self::Trailer,
            Self::Ggtt,
            Self::Mmio,
            Self::Guc,
            Self::Vram,
        ]
        .into_iter()
        .find(|k| *k as u8 == raw)
    }
}

/// A packet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`VERSION`].
    pub version: u8,
    /// Number of a [`Kind`].
    pub kind: u8,
    /// Tile.
    pub tile: u8,
    /// GT.
    pub gt: u8,
    /// Always 0.
    pub flags: u32,
    /// Offset in VRAM.
    pub offset: u64,
    /// Bytes of payload that follow.
    pub size: u64,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..4].copy_from_slice(&[self.version, self.kind, self.tile, self.gt]);
        bytes[4..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, unchecked.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Self {
        let [version, kind, tile, gt, f0, f1, f2, f3, rest @ ..] = *bytes;
        let mut offset = [0; 8];
        let mut size = [0; 8];
        offset.copy_from_slice(&rest[..8]);
        size.copy_from_slice(&rest[8..]);
        Self {
            version,
            kind,
            tile,
            gt,
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
            offset: u64::from_le_bytes(offset),
            size: u64::from_le_bytes(size),
        }
    }
}

/// A packet of a VF's saved state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it carries.
    pub kind: Kind,
    /// The GT that produces it; 0 for descriptor and trailer too.
    pub gt: u8,
    /// Offset in VRAM.
    pub offset: u64,
    /// Bytes of payload.
    pub size: u64,
}

impl Packet {
    /// Its header.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            version: VERSION,
            kind: self.kind as u8,
            tile: 0,
            gt: self.gt,
            flags: 0,
            offset: self.offset,
            size: self.size,
        }
    }

    /// Whether a GT's producer makes it, by way of that GT's ring.
    #[must_use]
    pub fn is_produced(&self) -> bool {
        !matches!(self.kind, Kind::Descriptor | Kind::Trailer)
    }
}

/// The packets of a VF in the order in which they are read: with two GTs they take turns as long as both have some.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    gts: u8,
    ggtt: u64,
    guc: u64,
    vram: u64,
    chunk: u64,
}

impl Plan {
    /// The packets of a VF of a host with `config`.
    #[must_use]
    pub fn of(config: &HostConfig) -> Self {
        let ggtt = u64::from(config.ggtt_entries()) * 8;
        Self {
            gts: config.gts,
            ggtt,
            guc: config.guc,
            vram: config.vram,
            chunk: config.vram_chunk,
        }
    }

    fn before_vram(&self) -> u64 {
        if self.gts == 2 { 6 } else { 4 }
    }

    fn chunks(&self) -> u64 {
        self.vram.div_ceil(self.chunk)
    }

    /// Number of packets.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.before_vram() + self.chunks() + 1
    }

    /// Packet number `index`, from 0; `None` after the trailer.
    #[must_use]
    pub fn packet(&self, index: u64) -> Option<Packet> {
        let small = |kind, gt, size| Packet {
            kind,
            gt,
            offset: 0,
            size,
        };
        let guc = |gt| small(Kind::Guc, gt, self.guc);
        let mmio = |gt| small(Kind::Mmio, gt, MMIO_SIZE);
        let ggtt = small(Kind::Ggtt, 0, self.ggtt);
        let first = small(Kind::Descriptor, 0, DESCRIPTOR_SIZE);
        let packet = match (self.gts, index) {
            (_, 0) => first,
            (1, 1..4) => [guc(0), ggtt, mmio(0)][index as usize - 1],
            (2, 1..6) => [guc(0), guc(1), ggtt, mmio(1), mmio(0)][index as usize - 1],
            _ if index - self.before_vram() < self.chunks() => {
                let offset = (index - self.before_vram()) * self.chunk;
                Packet {
                    kind: Kind::Vram,
                    gt: 0,
                    offset,
                    size: self.chunk.min(self.vram - offset),
                }
            }
            _ if index + 1 == self.packets() => small(Kind::Trailer, 0, 0),
            _ => return None,
        };
        Some(packet)
    }

    /// Packets that `gt` has still to hand over when the next one to be read is number `next`.
    #[must_use]
    pub fn unconsumed(&self, gt: u8, next: u64) -> u64 {
        let vram_from = next.max(self.before_vram());
        let chunks = if gt == 0 {
            (self.before_vram() + self.chunks()).saturating_sub(vram_from)
        } else {
            0
        };
        let small = (next..self.before_vram())
            .filter_map(|i| self.packet(i))
            .filter(|p| p.is_produced() && p.gt == gt);
        chunks + small.count() as u64
    }

    /// Whether the producer of every GT has put all it has into its ring, or user space has read it from there.
    #[must_use]
    pub fn producers_done(&self, next: u64) -> bool {
        (0..self.gts).all(|gt| self.unconsumed(gt, next) <= RING_PACKETS)
    }

    /// Bytes of the whole stream.
    #[must_use]
    pub fn stream_size(&self) -> u64 {
        let gts = u64::from(self.gts);
        let payload = DESCRIPTOR_SIZE + gts * (self.guc + MMIO_SIZE) + self.ggtt + self.vram;
        payload + self.packets() * HEADER_SIZE as u64
    }

    /// What MIG_DATA_SIZE says: the stream without descriptor, trailer, and the headers of all VRAM chunks but one.
    #[must_use]
    pub fn estimate(&self) -> u64 {
        let header = HEADER_SIZE as u64;
        self.stream_size() - DESCRIPTOR_SIZE - 2 * header - (self.chunks() - 1) * header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(gts: u8, vram: u64, chunk: u64) -> Plan {
        Plan::of(&HostConfig {
            gts,
            vram,
            vram_chunk: chunk,
            ..HostConfig::default()
        })
    }

    #[test]
    fn a_stream_starts_with_the_descriptor_ends_with_the_trailer_and_covers_vram_once() {
        for (gts, vram, chunk) in [
            (1, 4 * MIB, 512 * MIB),
            (2, 7 * MIB, 2 * MIB),
            (1, 1536 * MIB, 512 * MIB),
        ] {
            let plan = plan(gts, vram, chunk);
            let packets: Vec<_> = (0..).map_while(|i| plan.packet(i)).collect();
            assert_eq!(packets.len() as u64, plan.packets());
            assert_eq!(packets[0].kind, Kind::Descriptor);
            assert_eq!(packets.last().expect("not empty").kind, Kind::Trailer);
            let mut end = 0;
            for packet in packets.iter().filter(|p| p.kind == Kind::Vram) {
                assert_eq!((packet.offset, packet.gt), (end, 0));
                assert!(packet.size <= chunk);
                end += packet.size;
            }
            assert_eq!(end, vram);
            let bytes: u64 = packets.iter().map(|p| p.size + HEADER_SIZE as u64).sum();
            assert_eq!(bytes, plan.stream_size());
        }
    }

    #[test]
    fn a_media_gt_carries_guc_and_mmio_only_and_takes_turns_with_the_main_gt() {
        let plan = plan(2, 4 * MIB, 512 * MIB);
        let order: Vec<_> = (0..)
            .map_while(|i| plan.packet(i))
            .map(|p| (p.kind, p.gt))
            .collect();
        let expected = [
            (Kind::Descriptor, 0),
            (Kind::Guc, 0),
            (Kind::Guc, 1),
            (Kind::Ggtt, 0),
            (Kind::Mmio, 1),
            (Kind::Mmio, 0),
            (Kind::Vram, 0),
            (Kind::Trailer, 0),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn the_estimate_leaves_out_descriptor_trailer_and_further_chunk_headers() {
        assert_eq!(
            plan(1, 512 * MIB, 512 * MIB).stream_size() - plan(1, 512 * MIB, 512 * MIB).estimate(),
            64
        );
        let four = plan(2, 2048 * MIB, 512 * MIB);
        assert_eq!(four.stream_size() - four.estimate(), 64 + 3 * 24);
    }

    #[test]
    fn producers_are_done_when_five_packets_per_gt_are_left() {
        let all = plan(1, 8 * MIB, 2 * MIB);
        assert_eq!(all.unconsumed(0, 0), 7);
        assert!(!all.producers_done(0));
        assert!(
            !all.producers_done(2),
            "six are left after the descriptor and the first packet"
        );
        assert!(all.producers_done(3));
        assert!(all.producers_done(all.packets()));
        assert!(
            plan(2, 4 * MIB, 2 * MIB).producers_done(0),
            "a small VF fits its rings"
        );
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = Header {
            version: 1,
            kind: 6,
            tile: 2,
            gt: 3,
            flags: 4,
            offset: 5 << 40,
            size: 6 << 33,
        };
        assert_eq!(Header::decode(&header.encode()), header);
    }
}
