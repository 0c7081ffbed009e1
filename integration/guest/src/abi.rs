// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated VF's programming model as constants; docs/vf-model.md says what they mean.
//!
//! The guest drives the VF by these and host-sim answers to them. All values are little-endian.

/// Size of BAR0 in bytes.
pub const BAR0_SIZE: u32 = 8 << 20;
/// Offset of the MSI-X table in BAR0.
pub const MSIX_TABLE: u32 = 0x1000;
/// Offset of the MSI-X pending-bit array in BAR0.
pub const MSIX_PBA: u32 = 0x1800;
/// MSI-X vectors of a VF.
pub const MSIX_VECTORS: u16 = 4;
/// Offset of the GGTT's PTEs in BAR0.
pub const GGTT: u32 = 0x10_0000;
/// Most PTEs that BAR0 has room for.
pub const GGTT_MAX_ENTRIES: u32 = 0x6_0000;
/// Offset of the VRAM window in BAR0; it shows VRAM from its start.
pub const VRAM_WINDOW: u32 = 0x40_0000;
/// Bytes of VRAM that the window shows.
pub const VRAM_WINDOW_SIZE: u32 = 4 << 20;
/// Bit of a GGTT PTE that makes it valid; bits 12-47 are the DMA page.
pub const PTE_VALID: u64 = 1;

/// Register offsets in BAR0.
pub mod reg {
    /// `ID_VALUE`.
    pub const ID: u32 = 0x00;
    /// Version of the programming model, 1.
    pub const VERSION: u32 = 0x04;
    /// VRAM quota in MiB.
    pub const VRAM_MIB: u32 = 0x08;
    /// GGTT quota in PTEs.
    pub const GGTT_ENTRIES: u32 = 0x0c;
    /// GGTT address of the ring.
    pub const RING_BASE: u32 = 0x10;
    /// Descriptors in the ring, a power of two.
    pub const RING_ENTRIES: u32 = 0x14;
    /// 1 lets the ring run.
    pub const RING_ENABLE: u32 = 0x18;
    /// Doorbell: jobs submitted, free-running.
    pub const RING_TAIL: u32 = 0x1c;
    /// Jobs completed, free-running.
    pub const RING_HEAD: u32 = 0x20;
    /// `RING_HEAD` as the interrupt handler saw it last.
    pub const IRQ_ACK: u32 = 0x24;
    /// 0, or `STATUS_ERROR` plus a reason.
    pub const STATUS: u32 = 0x28;
    /// First of four scratch registers of the main GT.
    pub const SCRATCH: u32 = 0x30;
    /// First of four scratch registers of the media GT.
    pub const MEDIA_SCRATCH: u32 = 0x40;
}

/// Content of `reg::ID`.
pub const ID_VALUE: u32 = 0x5845_5646;
/// Most descriptors a ring has.
pub const RING_MAX_ENTRIES: u32 = 1024;
/// Bytes of a job descriptor: seq, op, src, dst, vram, prev, done, check.
pub const DESCRIPTOR_SIZE: u32 = 32;
/// The only operation.
pub const OP_HASH_BLOCK: u32 = 1;
/// Words in a block.
pub const BLOCK_WORDS: u32 = 64;
/// Bytes in a block.
pub const BLOCK_SIZE: u32 = BLOCK_WORDS * 4;
/// Accumulator after reset.
pub const ACC_RESET: u32 = 0x9e37_79b9;
/// Factor of the accumulator's step.
pub const ACC_FACTOR: u32 = 0x0100_0193;
/// Left rotation of the accumulator's step.
pub const ACC_ROTATE: u32 = 5;
/// Bytes of a completion record: seq, accumulator, sum of the block read back, !seq.
pub const RECORD_SIZE: u32 = 16;
/// Set in `reg::STATUS` when the ring has stopped.
pub const STATUS_ERROR: u32 = 0x8000_0000;

/// Reasons in `reg::STATUS`.
pub mod status {
    /// The descriptor's check word or operation is wrong.
    pub const BAD_DESCRIPTOR: u32 = 1;
    /// The descriptor's number is not the next one.
    pub const OUT_OF_ORDER: u32 = 2;
    /// A GGTT address without a valid PTE, misaligned, or across a page.
    pub const GGTT_FAULT: u32 = 3;
    /// The IOMMU has no mapping for the page.
    pub const DMA_FAULT: u32 = 4;
    /// Outside the VRAM quota.
    pub const VRAM_RANGE: u32 = 5;
    /// Ring registers make no sense.
    pub const RING_SETUP: u32 = 6;
}

/// One step of the accumulator.
#[must_use]
pub const fn accumulate(acc: u32, word: u32) -> u32 {
    (acc.rotate_left(ACC_ROTATE) ^ word).wrapping_mul(ACC_FACTOR)
}
