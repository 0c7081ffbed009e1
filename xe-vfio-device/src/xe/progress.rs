// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far each GT of a stream has come: sizes, order, contiguous VRAM, completeness.
//!
//! Every check of a packet that needs more than its header is here; the parser in front of it knows about bytes.

use std::collections::BTreeMap;

use super::expectation::Expectation;
use super::klv::Descriptor;
use super::packet::{Gt, Header, PacketType};
use super::refusal::Refusal;

/// Most payload bytes a descriptor may have. It is held in memory until it was checked; kernels write 16.
pub const DESCRIPTOR_MAX: u64 = 4 << 10;
/// Most bytes of GGTT PTEs: 8 bytes for each 4 KiB page of the 4 GiB that a GGTT spans.
pub const GGTT_MAX: u64 = 8 << 20;
/// Most bytes of MMIO state of a GT. Kernels write 16.
pub const MMIO_MAX: u64 = 4 << 10;
/// Most bytes of GuC state of a GT. The firmware decides; this leaves room and still is no threat to the kernel's memory.
pub const GUC_MAX: u64 = 64 << 20;
/// Most bytes of a VRAM packet, as the kernel chunks it.
pub const VRAM_CHUNK_MAX: u64 = 512 << 20;

const ORIGIN: Gt = Gt { tile: 0, id: 0 };

#[derive(Debug, Default)]
struct GtProgress {
    last: Option<PacketType>,
    guc: bool,
    ggtt: bool,
    mmio: bool,
    vram_end: u64,
}

/// State of the checks; each method takes the next packet or refuses it.
#[derive(Debug)]
pub(super) struct Progress {
    expectation: Expectation,
    begun: bool,
    gts: BTreeMap<Gt, GtProgress>,
}

impl Progress {
    pub(super) fn new(expectation: Expectation) -> Self {
        Self {
            expectation,
            begun: false,
            gts: BTreeMap::new(),
        }
    }

    /// Checks a descriptor's header and answers the payload bytes to collect before [`Progress::descriptor`].
    pub(super) fn descriptor_size(&self, header: &Header) -> Result<usize, Refusal> {
        if self.begun {
            return Err(Refusal::SecondDescriptor);
        }
        at_origin(header)?;
        size(header, 0, DESCRIPTOR_MAX, 4)?;
        Ok(header.size as usize)
    }

    /// Checks a descriptor's payload.
    pub(super) fn descriptor(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let Descriptor { device, revision } = Descriptor::decode(payload)?;
        same(
            "device id",
            device.map(u32::from),
            self.expectation.device.map(u32::from),
        )?;
        same(
            "revision",
            revision.map(u32::from),
            self.expectation.revision.map(u32::from),
        )?;
        self.begun = true;
        Ok(())
    }

    /// Checks the header of any packet but a descriptor.
    pub(super) fn packet(&mut self, header: &Header) -> Result<(), Refusal> {
        if !self.begun {
            return Err(Refusal::NoDescriptor(header.packet_type));
        }
        if header.packet_type == PacketType::Trailer {
            at_origin(header)?;
            size(header, 0, 0, 1)?;
            return self.is_complete();
        }
        let Header {
            packet_type: kind,
            gt,
            offset,
            ..
        } = *header;
        if !self.expectation.has(gt) {
            return Err(Refusal::NoSuchGt { kind, gt });
        }
        if matches!(kind, PacketType::Ggtt | PacketType::Vram) && !self.expectation.is_main(gt) {
            return Err(Refusal::NotOnMainGt { kind, gt });
        }
        if kind != PacketType::Vram && offset != 0 {
            return Err(Refusal::Offset { kind, offset });
        }
        self.bounds(header)?;
        self.order(header)
    }

    /// Sizes by type, before anybody takes memory for them.
    fn bounds(&self, header: &Header) -> Result<(), Refusal> {
        match header.packet_type {
            PacketType::Descriptor | PacketType::Trailer => Ok(()),
            PacketType::Guc => size(header, 4, GUC_MAX, 4),
            PacketType::Mmio => size(header, 16, MMIO_MAX, 16),
            PacketType::Ggtt => {
                size(header, 8, GGTT_MAX, 8)?;
                let found = header.size / 8;
                match self.expectation.ggtt_entries {
                    Some(expected) if expected != found => {
                        Err(Refusal::GgttSize { found, expected })
                    }
                    _ => Ok(()),
                }
            }
            PacketType::Vram => {
                size(header, 4 << 10, VRAM_CHUNK_MAX, 4 << 10)?;
                let quota = self.expectation.vram_quota.unwrap_or(i64::MAX as u64);
                match header.offset.checked_add(header.size) {
                    Some(end) if end <= quota => Ok(()),
                    _ => Err(Refusal::VramBeyondQuota {
                        offset: header.offset,
                        size: header.size,
                        quota,
                    }),
                }
            }
        }
    }

    fn order(&mut self, header: &Header) -> Result<(), Refusal> {
        let Header {
            packet_type: kind,
            gt,
            offset,
            size,
        } = *header;
        let progress = self.gts.entry(gt).or_default();
        if let Some(after) = progress.last
            && (rank(kind) < rank(after) || kind == after && kind != PacketType::Vram)
        {
            return Err(Refusal::Order { kind, gt, after });
        }
        match kind {
            PacketType::Guc => progress.guc = true,
            PacketType::Ggtt => progress.ggtt = true,
            PacketType::Mmio => progress.mmio = true,
            PacketType::Vram if offset != progress.vram_end => {
                return Err(Refusal::VramGap {
                    gt,
                    found: offset,
                    expected: progress.vram_end,
                });
            }
            PacketType::Vram => progress.vram_end += size,
            PacketType::Descriptor | PacketType::Trailer => {}
        }
        progress.last = Some(kind);
        Ok(())
    }

    /// The kernel saves GuC and MMIO of each GT and the GGTT of a main GT that has a quota. It takes a trailer without
    /// them too, and the guest would go on with the rest of the old state.
    fn is_complete(&self) -> Result<(), Refusal> {
        let none = GtProgress::default();
        let named = self.expectation.gts.iter().flatten().map(|id| Gt {
            tile: id / self.expectation.gts_per_tile.max(1),
            id: *id,
        });
        for gt in named.chain(self.gts.keys().copied()).chain([ORIGIN]) {
            let progress = self.gts.get(&gt).unwrap_or(&none);
            let wants_ggtt = self.expectation.is_main(gt)
                && self
                    .expectation
                    .ggtt_entries
                    .is_some_and(|entries| entries > 0);
            let missing = [
                (PacketType::Guc, !progress.guc),
                (PacketType::Ggtt, wants_ggtt && !progress.ggtt),
                (PacketType::Mmio, !progress.mmio),
            ];
            if let Some((kind, _)) = missing.into_iter().find(|(_, missing)| *missing) {
                return Err(Refusal::Missing { kind, gt });
            }
        }
        let found = self.gts.values().fold(0, |sum: u64, progress| {
            sum.saturating_add(progress.vram_end)
        });
        match self.expectation.vram_bytes {
            Some(expected) if expected != found => Err(Refusal::VramSize { found, expected }),
            _ => Ok(()),
        }
    }
}

fn rank(kind: PacketType) -> u8 {
    match kind {
        PacketType::Descriptor => 0,
        PacketType::Guc => 1,
        PacketType::Ggtt => 2,
        PacketType::Mmio => 3,
        PacketType::Vram => 4,
        PacketType::Trailer => 5,
    }
}

fn at_origin(header: &Header) -> Result<(), Refusal> {
    let Header {
        packet_type: kind,
        gt,
        offset,
        ..
    } = *header;
    if gt != ORIGIN {
        return Err(Refusal::Misplaced { kind, gt });
    }
    if offset != 0 {
        Err(Refusal::Offset { kind, offset })
    } else {
        Ok(())
    }
}

fn size(header: &Header, least: u64, most: u64, step: u64) -> Result<(), Refusal> {
    let Header {
        packet_type: kind,
        size,
        ..
    } = *header;
    if (least..=most).contains(&size) && size.is_multiple_of(step) {
        Ok(())
    } else {
        Err(Refusal::Size {
            kind,
            size,
            least,
            most,
            step,
        })
    }
}

fn same(what: &'static str, found: Option<u32>, expected: Option<u32>) -> Result<(), Refusal> {
    match (found, expected) {
        (_, None) => Ok(()),
        (None, Some(_)) => Err(Refusal::DescriptorWithout(what)),
        (Some(found), Some(expected)) if found == expected => Ok(()),
        (Some(found), Some(expected)) => Err(Refusal::OtherDevice {
            what,
            found,
            expected,
        }),
    }
}
