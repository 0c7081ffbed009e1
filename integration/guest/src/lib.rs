// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest program that works a VF and checks every result, as a PVH ELF for KVM, the soft vCPU and Cloud Hypervisor.
//!
//! [`image`] answers the ELF. The program is flat 32-bit protected mode without paging, so that it runs where KVM
//! has to emulate every instruction. It finds the VFs on PCI bus 0, keeps [`layout::IN_FLIGHT`] jobs on the way in
//! each, and checks every result against what it computes itself: order, accumulator, VRAM read back, DMA written,
//! MSI-X seen. What it has to say goes to COM1, one short line each; [`report`] turns that into events.
//!
//! In the kernel lab, where a VF has neither ring nor VRAM in its BARs, it works memory and what the VF has ([`stand_in`]).
//!
//! The first discrepancy is reported and stops the guest for good: its memory is then as it was found.

pub mod abi;
mod elf;
pub mod layout;
mod program;
pub mod report;
pub mod stand_in;
mod tables;

/// The guest as an ELF64 executable with a PVH entry note, complete and the same at every call.
///
/// # Panics
///
/// Never: the program is constant, and the tests assemble it.
#[must_use]
pub fn image() -> Vec<u8> {
    let program = program::assemble().expect("the program is constant and assembles");
    let tables = tables::build(&program);
    elf::pack(
        layout::CODE,
        &[
            elf::Segment {
                address: layout::TABLES,
                bytes: &tables,
            },
            elf::Segment {
                address: layout::CODE,
                bytes: &program.code,
            },
        ],
    )
}
