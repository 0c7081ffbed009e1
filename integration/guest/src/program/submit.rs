// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Submits the next job: `ebx` its number, `ecx` its slot.
//!
//! Before the slot's record and destination are given away again, they are looked at once more: a page that was lost
//! long after its job had been verified is found here.

use iced_x86::code_asm::{eax, ebp, ebx, ecx, edi, edx, esi};

use super::{Emit, JOB_FACTOR, Program, SOURCE_STEP, at, variable};
use crate::abi::{BLOCK_SIZE, BLOCK_WORDS, DESCRIPTOR_SIZE, OP_HASH_BLOCK, reg};
use crate::layout::{IN_FLIGHT, SLOTS, context, control};
use crate::report::Kind;

const BLOCK_SHIFT: u32 = BLOCK_SIZE.trailing_zeros();

// One shift takes a slot to its descriptor and to its record.
const _: () = assert!(DESCRIPTOR_SIZE == context::DONE_STRIDE);
const SLOT_SHIFT: u32 = DESCRIPTOR_SIZE.trailing_zeros();

impl Program {
    pub(super) fn submit(&mut self) -> Emit {
        let mut fill = self.a.create_label();
        self.a.set_label(&mut self.routines.submit)?;
        self.a.mov(ebx, variable(control::SUBMITTED))?;
        self.a.mov(ecx, ebx)?;
        self.a.inc(ebx)?;
        self.a.and(ecx, SLOTS - 1)?;
        self.a.cmp(variable(control::LAPPED), 0)?;
        self.a.je(fill)?;
        self.look_at_the_old_result()?;
        self.a.set_label(&mut fill)?;
        self.fill_source()?;
        self.write_descriptor()?;
        self.ring_doorbell()
    }

    fn look_at_the_old_result(&mut self) -> Emit {
        self.a.mov(edx, ecx)?;
        self.a.shl(edx, SLOT_SHIFT)?;
        self.a.add(edx, ebp)?;
        self.a.lea(eax, ebx - SLOTS)?;
        self.a.mov(esi, at(edx, context::DONE))?;
        self.require_equal(eax, esi, Kind::OldSequence)?;

        self.a.mov(esi, ecx)?;
        self.a.shl(esi, BLOCK_SHIFT)?;
        self.a.add(esi, ebp)?;
        self.a.xor(eax, eax)?;
        for word in 0..BLOCK_WORDS {
            self.a.add(eax, at(esi, context::DST + 4 * word))?;
        }
        self.a.mov(edx, at(edx, context::DONE + 8))?;
        self.require_equal(edx, eax, Kind::OldSum)
    }

    /// Words in arithmetic progression: two instructions each, and the accumulator mixes them.
    fn fill_source(&mut self) -> Emit {
        let a = &mut self.a;
        a.mov(edi, ecx)?;
        a.and(edi, IN_FLIGHT - 1)?;
        a.shl(edi, BLOCK_SHIFT)?;
        a.add(edi, context::SRC)?;
        a.imul_3(eax, ebx, JOB_FACTOR)?;
        a.xor(eax, variable(control::SEED))?;
        a.lea(esi, edi + ebp)?;
        for word in 0..BLOCK_WORDS {
            a.add(eax, SOURCE_STEP)?;
            a.mov(at(esi, 4 * word), eax)?;
        }
        Ok(())
    }

    /// `edi` is the source's GGTT address. `eax` gathers the check word.
    fn write_descriptor(&mut self) -> Emit {
        let a = &mut self.a;
        a.mov(edx, ecx)?;
        a.shl(edx, SLOT_SHIFT)?;
        a.lea(esi, edx + ebp)?;
        a.mov(at(esi, context::RING), ebx)?;
        a.mov(at(esi, context::RING + 4), OP_HASH_BLOCK)?;
        a.mov(at(esi, context::RING + 8), edi)?;
        a.mov(eax, ebx)?;
        a.xor(eax, OP_HASH_BLOCK)?;
        a.xor(eax, edi)?;
        a.add(edx, context::DONE)?;
        a.mov(at(esi, context::RING + 24), edx)?;
        a.xor(eax, edx)?;
        a.mov(edi, ecx)?;
        a.shl(edi, BLOCK_SHIFT)?;
        a.mov(at(esi, context::RING + 16), edi)?;
        a.xor(eax, edi)?;
        a.lea(edx, edi + context::DST)?;
        a.mov(at(esi, context::RING + 12), edx)?;
        a.xor(eax, edx)?;
        // The oldest block: the one that the next job will write.
        a.inc(ecx)?;
        a.and(ecx, SLOTS - 1)?;
        a.shl(ecx, BLOCK_SHIFT)?;
        a.mov(at(esi, context::RING + 20), ecx)?;
        a.xor(eax, ecx)?;
        a.mov(at(esi, context::RING + 28), eax)
    }

    fn ring_doorbell(&mut self) -> Emit {
        let a = &mut self.a;
        let mut same_lap = a.create_label();
        a.mov(variable(control::SUBMITTED), ebx)?;
        a.cmp(ebx, variable(control::LAP_END))?;
        a.jne(same_lap)?;
        a.mov(variable(control::LAPPED), 1u32)?;
        a.set_label(&mut same_lap)?;
        a.mov(edx, variable(control::BAR0))?;
        a.mov(at(edx, reg::RING_TAIL), ebx)?;
        a.ret()
    }
}
