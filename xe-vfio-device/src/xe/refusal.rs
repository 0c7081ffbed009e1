// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a packet stream is refused: the closed list of reasons, each with what to do about it.

use thiserror::Error;

use super::klv::KlvError;
use super::packet::{Gt, HeaderError, PacketType};

/// Why a packet is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The header is none of version 1.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The descriptor's payload is not a list of KLVs.
    #[error(transparent)]
    Klv(#[from] KlvError),
    /// Something else than the descriptor came first.
    #[error(
        "The stream begins with a {0} packet instead of the descriptor: it is cut at its start or no Xe VF's state"
    )]
    NoDescriptor(PacketType),
    /// A second descriptor.
    #[error("A second descriptor: two streams seem to be joined")]
    SecondDescriptor,
    /// The descriptor leaves out a KLV that has to be compared.
    #[error(
        "The descriptor does not name the source's {0}, so it cannot be compared with the destination's"
    )]
    DescriptorWithout(&'static str),
    /// The descriptor names another device.
    #[error(
        "The state is of a device with {what} {found:#06x}, the destination has {expected:#06x}: choose a destination with the same GPU"
    )]
    OtherDevice {
        /// Which id differs.
        what: &'static str,
        /// The id in the descriptor.
        found: u32,
        /// The destination's.
        expected: u32,
    },
    /// The GT is not one of the destination's.
    #[error("A {kind} packet is for {gt}, which the destination does not have")]
    NoSuchGt {
        /// Type of the packet.
        kind: PacketType,
        /// GT it names.
        gt: Gt,
    },
    /// GGTT or VRAM on a media GT.
    #[error("A {kind} packet is for {gt}, but only a tile's main GT has {kind}")]
    NotOnMainGt {
        /// Type of the packet.
        kind: PacketType,
        /// GT it names.
        gt: Gt,
    },
    /// Descriptor or trailer with another GT than tile 0 GT 0.
    #[error("The {kind} names {gt} instead of tile 0 GT 0")]
    Misplaced {
        /// Descriptor or trailer.
        kind: PacketType,
        /// GT it names.
        gt: Gt,
    },
    /// The type has no offset, but the header has.
    #[error("A {kind} packet has offset {offset}, which only VRAM packets have")]
    Offset {
        /// Type of the packet.
        kind: PacketType,
        /// Offset it has.
        offset: u64,
    },
    /// The payload size is outside what the type may have.
    #[error(
        "A {kind} packet has {size} bytes of payload, allowed are {least} to {most} in steps of {step}"
    )]
    Size {
        /// Type of the packet.
        kind: PacketType,
        /// Size it has.
        size: u64,
        /// Smallest size allowed.
        least: u64,
        /// Largest size allowed.
        most: u64,
        /// Sizes are multiples of this.
        step: u64,
    },
    /// The GGTT is not of the destination's size.
    #[error(
        "The GGTT has {found} PTEs, the destination's VF {expected}: give it the same GGTT quota"
    )]
    GgttSize {
        /// PTEs in the packet.
        found: u64,
        /// PTEs of the destination.
        expected: u64,
    },
    /// The same packet twice, or one after its successor.
    #[error(
        "A {kind} packet for {gt} follows its {after} packet: a GT's order is GuC, GGTT, MMIO, VRAM, each but VRAM once"
    )]
    Order {
        /// Type of the packet.
        kind: PacketType,
        /// GT it names.
        gt: Gt,
        /// The packet before it.
        after: PacketType,
    },
    /// A VRAM chunk that does not begin where the one before ended.
    #[error(
        "A VRAM packet for {gt} begins at byte {found} of VRAM, expected is {expected}: a chunk is missing, repeated or misplaced"
    )]
    VramGap {
        /// GT it names.
        gt: Gt,
        /// Offset it has.
        found: u64,
        /// Where the chunk before ended.
        expected: u64,
    },
    /// A VRAM chunk beyond the destination's quota.
    #[error(
        "A VRAM packet at byte {offset} with {size} bytes ends beyond the destination's quota of {quota} bytes: give it at least the source's quota"
    )]
    VramBeyondQuota {
        /// Offset it has.
        offset: u64,
        /// Size it has.
        size: u64,
        /// Quota of the destination.
        quota: u64,
    },
    /// The trailer came, but something is missing.
    #[error("The trailer comes before the {kind} packet of {gt}: the state is incomplete")]
    Missing {
        /// Type of the missing packet.
        kind: PacketType,
        /// GT it should be of.
        gt: Gt,
    },
    /// The trailer came, but VRAM is not complete.
    #[error(
        "The trailer comes after {found} bytes of VRAM, the source has {expected}: the state is incomplete"
    )]
    VramSize {
        /// Bytes that came.
        found: u64,
        /// Bytes the source has.
        expected: u64,
    },
    /// Bytes after the trailer.
    #[error("Bytes follow the trailer: two streams seem to be joined")]
    AfterTrailer,
    /// The stream ended before the trailer.
    #[error("The stream ends before its trailer: the sender stopped early")]
    NoTrailer,
    /// The parser is used after an error.
    #[error("The parser or its sink failed earlier: reset the VF and start a new stream")]
    Poisoned,
}

/// A refused packet and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("Packet {packet} at byte {offset} of the VF's state is refused")]
pub struct ParseError {
    /// Number of the packet in the stream, from 0.
    pub packet: u64,
    /// Byte offset of its header in the packet stream.
    pub offset: u64,
    /// Why.
    #[source]
    pub refusal: Refusal,
}
