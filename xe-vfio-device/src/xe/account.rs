// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What went through a parser: packets and bytes by kind and by GT.
//!
//! Sender and receiver each keep an account of the same stream; equal accounts, beside equal digests, say that what the
//! destination's kernel took is what the source's kernel gave.

use std::collections::BTreeMap;
use std::fmt;

use super::packet::{Gt, HEADER_SIZE, Header, PacketType};

/// Packets and their payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of packets.
    pub packets: u64,
    /// Payload bytes in them, headers not counted.
    pub bytes: u64,
}

impl Tally {
    /// Bytes of the stream that these packets take, headers included.
    pub fn stream_bytes(&self) -> u64 {
        self.packets
            .saturating_mul(HEADER_SIZE as u64)
            .saturating_add(self.bytes)
    }
}

/// One [`Tally`] for each packet type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByKind([Tally; PacketType::ALL.len()]);

impl ByKind {
    /// The tally of one packet type.
    pub fn get(&self, kind: PacketType) -> Tally {
        self.0[kind as usize - 1]
    }

    /// Sets the tally of one packet type.
    pub fn set(&mut self, kind: PacketType, tally: Tally) {
        self.0[kind as usize - 1] = tally;
    }

    /// All types with their tallies, in the order of the type numbers.
    pub fn iter(&self) -> impl Iterator<Item = (PacketType, Tally)> {
        PacketType::ALL.into_iter().zip(self.0)
    }

    /// Bytes of a stream with these packets, headers included.
    pub fn stream_bytes(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, tally| {
            sum.saturating_add(tally.stream_bytes())
        })
    }

    fn add(&mut self, kind: PacketType, packets: u64, bytes: u64) {
        let tally = &mut self.0[kind as usize - 1];
        tally.packets += packets;
        tally.bytes += bytes;
    }
}

impl fmt::Display for ByKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (kind, Tally { packets, bytes }) in self.iter().filter(|(_, tally)| tally.packets > 0) {
            write!(f, "{separator}{packets} {kind} ({bytes} bytes)")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("no packets")
        } else {
            Ok(())
        }
    }
}

/// Packets and bytes of a stream, in all and per GT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    by_kind: ByKind,
    by_gt: BTreeMap<Gt, ByKind>,
}

impl From<ByKind> for Account {
    /// An account of somebody who was told the kinds and not the GTs.
    fn from(by_kind: ByKind) -> Self {
        Self {
            by_kind,
            by_gt: BTreeMap::new(),
        }
    }
}

impl Account {
    /// All packets, descriptor and trailer included.
    pub fn by_kind(&self) -> &ByKind {
        &self.by_kind
    }

    /// Each GT's packets; descriptor and trailer belong to none.
    pub fn by_gt(&self) -> impl Iterator<Item = (Gt, &ByKind)> {
        self.by_gt.iter().map(|(gt, kinds)| (*gt, kinds))
    }

    /// Bytes of VRAM content.
    pub fn vram_bytes(&self) -> u64 {
        self.by_kind.get(PacketType::Vram).bytes
    }

    /// Bytes of the stream so far, packet headers included. Only headers that were checked are counted.
    pub fn stream_bytes(&self) -> u64 {
        self.by_kind.stream_bytes()
    }

    pub(super) fn packet(&mut self, header: &Header) {
        self.add(header, 1, 0);
    }

    pub(super) fn payload(&mut self, header: &Header, bytes: u64) {
        self.add(header, 0, bytes);
    }

    fn add(&mut self, header: &Header, packets: u64, bytes: u64) {
        let kind = header.packet_type;
        self.by_kind.add(kind, packets, bytes);
        if !matches!(kind, PacketType::Descriptor | PacketType::Trailer) {
            self.by_gt
                .entry(header.gt)
                .or_default()
                .add(kind, packets, bytes);
        }
    }
}
