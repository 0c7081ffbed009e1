// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the guest keeps what, in guest physical memory.
//!
//! Everything a running guest knows is below [`MEMORY_END`]. One [`CONTEXT_SIZE`] context per VF holds first what the
//! VF reaches by DMA (mapped in the GGTT from address 0), then what only the guest touches.

/// Tables and strings of the image: the lowest address it occupies.
pub const TABLES: u32 = 0x10_0000;
/// Code, and the PVH entry.
pub const CODE: u32 = 0x10_1000;
/// Most bytes of code.
pub const CODE_SIZE: u32 = 0x8000;
/// The stack grows down from here.
pub const STACK_TOP: u32 = 0x1f_0000;
/// Number of VFs found (u32).
pub const VF_COUNT: u32 = 0x1f_0000;
/// 1 when the VF is the kernel lab's (u32).
pub const STAND_IN: u32 = VF_COUNT + 4;
/// First context.
pub const CONTEXTS: u32 = 0x20_0000;
/// Distance of two contexts; a power of two.
pub const CONTEXT_SIZE: u32 = 0x20_0000;
/// Most VFs that the guest works.
pub const MAX_VFS: u32 = 8;
/// RAM from 0 to here is enough for any number of VFs.
pub const MEMORY_END: u32 = CONTEXTS + MAX_VFS * CONTEXT_SIZE;
/// Jobs on the way in each VF; a power of two.
pub const IN_FLIGHT: u32 = 16;
/// Ring slots, and blocks of VRAM in use.
pub const SLOTS: u32 = crate::abi::RING_MAX_ENTRIES;
/// Bytes of VRAM that the guest writes, from its start.
pub const VRAM_USED: u32 = SLOTS * crate::abi::BLOCK_SIZE;
/// Interrupt vector of VF 0; each VF has the next.
pub const FIRST_VECTOR: u8 = 0x40;
/// Verified jobs between two lines of progress; a power of two.
pub const PROGRESS_JOBS: u32 = 256;

/// Offsets in a context.
pub mod context {
    use super::{IN_FLIGHT, SLOTS};
    use crate::abi::{BLOCK_SIZE, DESCRIPTOR_SIZE};

    /// Job descriptors, by slot.
    pub const RING: u32 = 0;
    /// Completion records, by slot, [`DONE_STRIDE`] apart.
    pub const DONE: u32 = RING + SLOTS * DESCRIPTOR_SIZE;
    /// Distance of two completion records, and their alignment.
    pub const DONE_STRIDE: u32 = 32;
    /// Source blocks, by slot modulo [`IN_FLIGHT`].
    pub const SRC: u32 = DONE + SLOTS * DONE_STRIDE;
    /// Destination blocks, by slot.
    pub const DST: u32 = SRC + IN_FLIGHT * BLOCK_SIZE;
    /// End of what the GGTT maps.
    pub const DMA_END: u32 = DST + SLOTS * BLOCK_SIZE;
    /// Pages that the GGTT maps.
    pub const DMA_PAGES: u32 = DMA_END / 0x1000;
    /// The guest's own variables, [`super::control`].
    pub const CONTROL: u32 = 0x6_0000;
    /// Sum of the block in [`SHADOW`], by slot (u32).
    pub const SUMS: u32 = 0x6_1000;
    /// What VRAM must hold, by slot.
    pub const SHADOW: u32 = 0x8_0000;
    /// End of what is in use.
    pub const END: u32 = SHADOW + SLOTS * BLOCK_SIZE;

    const _: () =
        assert!(DMA_END <= CONTROL && DMA_END.is_multiple_of(0x1000) && END <= super::CONTEXT_SIZE);
}

/// Offsets of the variables after [`context::CONTROL`], all u32.
pub mod control {
    /// Address of BAR0.
    pub const BAR0: u32 = 0x00;
    /// Position among the VFs found.
    pub const INDEX: u32 = 0x04;
    /// Number of the last job submitted.
    pub const SUBMITTED: u32 = 0x08;
    /// Number of the last job verified.
    pub const VERIFIED: u32 = 0x0c;
    /// `RING_HEAD` as the interrupt handler saw it last.
    pub const IRQ_HEAD: u32 = 0x10;
    /// The accumulator after the last job verified.
    pub const ACCUMULATOR: u32 = 0x14;
    /// Differs from VF to VF, so that their blocks do.
    pub const SEED: u32 = 0x18;
    /// Number of the job that uses the last fresh slot.
    pub const LAP_END: u32 = 0x1c;
    /// 1 once every slot has been used.
    pub const LAPPED: u32 = 0x20;
    /// What the four scratch registers must hold.
    pub const SCRATCH: u32 = 0x24;
    /// Config address, of the kernel lab's VF only.
    pub const CONFIG: u32 = 0x40;
    /// What its configuration space must hold.
    pub const WITNESS: u32 = 0x44;
    /// 1 once it has been given up to wait for interrupts.
    pub const NO_INTERRUPTS: u32 = 0x80;
}
