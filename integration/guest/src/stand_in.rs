// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel lab's VF: an emulated 82576's VF that has a GPU's device id in configuration space.
//!
//! It has neither a ring nor VRAM in its BARs. What it offers a guest: four scratch registers that keep what is written and are
//! part of the state that the lab's PF moves, and an interrupt that the guest can ask for.

/// Vendor and device id in configuration space.
pub const ID: u32 = 0xe211_8086;
/// Its class code tells it from a GPU's VF: network.
pub const CLASS_NETWORK: u32 = 0x02;
/// Index of the BAR with the registers; a 64-bit one.
pub const BAR: u32 = 0;
/// Index of the BAR with the MSI-X table; a 64-bit one.
pub const MSIX_BAR: u32 = 3;
/// Where the guest sees the 4 MiB that hold the BAR with the registers.
pub const WINDOW: u32 = 0xe000_0000;
/// Where it sees those that hold the BAR with the MSI-X table.
pub const MSIX_WINDOW: u32 = 0xe040_0000;
/// The guest's page directory.
pub const DIRECTORY: u32 = 0x18_0000;

/// Register offsets in BAR0.
pub mod reg {
    /// First of four scratch registers (VMBMEM).
    pub const SCRATCH: u32 = 0x0800;
    /// Raises the interrupts whose bits are written (VTEICS).
    pub const INTERRUPT_SET: u32 = 0x1520;
    /// Unmasks interrupts (VTEIMS).
    pub const INTERRUPT_UNMASK: u32 = 0x1524;
    /// Interrupts that clear themselves when they are sent (VTEIAC).
    pub const INTERRUPT_AUTO_CLEAR: u32 = 0x152c;
}

/// Pages that the guest writes in turn.
pub const PAGES: u32 = 2048;
/// First of them.
pub const MEMORY: u32 = 0x40_0000;
/// Words written in a page.
pub const WORDS: u32 = 64;
/// Distance of two words, so that they reach from a page's start to its end.
pub const WORD_STRIDE: u32 = 0x1000 / WORDS;
/// Rounds between two looks at configuration space and interrupts; a power of two.
pub const LOOK_ROUNDS: u32 = 256;
/// Rounds between two lines of progress; a power of two.
pub const PROGRESS_ROUNDS: u32 = 1024;
/// Interrupt vector.
pub const VECTOR: u8 = 0x50;
/// End of the memory in use.
pub const MEMORY_END: u32 = MEMORY + PAGES * 0x1000;

const _: () = assert!(PAGES.is_power_of_two());
const _: () = assert!(MEMORY_END <= crate::layout::MEMORY_END);
const _: () = assert!(DIRECTORY >= crate::layout::CODE + crate::layout::CODE_SIZE);
const _: () = assert!(DIRECTORY + 0x1000 < crate::layout::STACK_TOP);
