// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a packet stream is checked against.
//!
//! On the saving side nothing is demanded of the content: [`Expectation::any`]. On the loading side the destination's
//! own manifest says what its kernel will take, and the source's what it has to bring:
//! `Expectation::of(&destination).sent_by(&source)`.

use std::collections::BTreeSet;

use super::packet::Gt;
use crate::stream::Manifest;

/// Bounds and identity that a [`Parser`](super::Parser) holds a stream to. `None` leaves a value unchecked within the
/// bounds that the packet format itself has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// PCI device id that the descriptor has to name. (It names no vendor: only Intel's devices write this format.)
    pub device: Option<u16>,
    /// PCI revision that the descriptor has to name.
    pub revision: Option<u8>,
    /// Number of tiles; a packet's tile is below it.
    pub tiles: u8,
    /// GT numbers that each tile has, present or not: GT `n` is on tile `n / gts_per_tile` and is that tile's main GT
    /// when the division leaves no rest.
    pub gts_per_tile: u8,
    /// The GTs that the destination has: a packet for another GT is refused, and so is a stream that leaves one out.
    pub gts: Option<BTreeSet<u8>>,
    /// VRAM quota of the destination in bytes; no VRAM packet may end beyond it.
    pub vram_quota: Option<u64>,
    /// Bytes of VRAM that the source has and the stream has to bring, no more and no less.
    pub vram_bytes: Option<u64>,
    /// GGTT quota of the destination in PTEs; the kernel wants exactly 8 bytes for each.
    pub ggtt_entries: Option<u64>,
}

impl Expectation {
    /// Accepts the state of any device, checking structure and order only.
    pub fn any() -> Self {
        Self {
            device: None,
            revision: None,
            tiles: 2,
            gts_per_tile: 2,
            gts: None,
            vram_quota: None,
            vram_bytes: None,
            ggtt_entries: None,
        }
    }

    /// What the VF that `destination` describes will take.
    pub fn of(destination: &Manifest) -> Self {
        let kernel_compares = destination.pf.unwrap_or(destination.pci);
        Self {
            device: Some(kernel_compares.device),
            revision: Some(kernel_compares.revision),
            tiles: 1,
            gts: destination
                .gts
                .filter(|mask| *mask != 0)
                .map(|mask| (0..16).filter(|bit| mask & (1 << bit) != 0).collect()),
            vram_quota: destination.vram_quota,
            ggtt_entries: destination.ggtt_entries,
            ..Self::any()
        }
    }

    /// Adds what the VF that `source` describes has to bring.
    #[must_use]
    pub fn sent_by(mut self, source: &Manifest) -> Self {
        self.vram_bytes = source.vram_quota;
        self
    }

    /// Whether `gt` is its tile's main GT, the one with GGTT and VRAM.
    pub(super) fn is_main(&self, gt: Gt) -> bool {
        gt.id.is_multiple_of(self.gts_per_tile.max(1))
    }

    /// Whether the device can have `gt`.
    pub(super) fn has(&self, gt: Gt) -> bool {
        gt.tile < self.tiles
            && gt.id / self.gts_per_tile.max(1) == gt.tile
            && self.gts.as_ref().is_none_or(|gts| gts.contains(&gt.id))
    }
}
