// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waits for the oldest job of the VF at work and checks all of its result.
//!
//! `ebx` is the job. A job counts as complete when the interrupt handler has seen it: without MSI-X nothing goes on.

use iced_x86::code_asm::{eax, ebp, ebx, ecx, edi, edx, esi};

use super::{Emit, JOB_FACTOR, Program, SOURCE_STEP, Value, at, dword_ptr, variable};
use crate::abi::{ACC_FACTOR, ACC_ROTATE, BLOCK_SIZE, BLOCK_WORDS, VRAM_WINDOW, reg};
use crate::layout::{PROGRESS_JOBS, SLOTS, context, control};
use crate::report::Kind;

const BLOCK_SHIFT: u32 = BLOCK_SIZE.trailing_zeros();
const RECORD_SHIFT: u32 = context::DONE_STRIDE.trailing_zeros();

impl Program {
    pub(super) fn verify(&mut self) -> Emit {
        self.a.set_label(&mut self.routines.verify)?;
        self.a.mov(ebx, variable(control::VERIFIED))?;
        self.a.inc(ebx)?;
        self.wait()?;
        self.check_registers()?;
        self.check_sequence()?;
        self.compute_block()?;
        self.check_vram()?;
        self.check_destination()?;
        self.count()
    }

    /// `edx` is BAR0 from here.
    fn wait(&mut self) -> Emit {
        let failed = self.failure(Kind::Status, Value::Constant(0), Value::Register(eax));
        let a = &mut self.a;
        let mut again = a.create_label();
        let mut complete = a.create_label();
        a.mov(edx, variable(control::BAR0))?;
        a.set_label(&mut again)?;
        a.cli()?;
        a.mov(eax, at(edx, reg::STATUS))?;
        a.test(eax, eax)?;
        a.jne(failed)?;
        a.mov(eax, variable(control::IRQ_HEAD))?;
        a.sub(eax, ebx)?;
        a.jns(complete)?;
        // No interrupt is taken between these two, so none is slept through.
        a.sti()?;
        a.hlt()?;
        a.jmp(again)?;
        a.set_label(&mut complete)?;
        a.sti()
    }

    /// `RING_HEAD` is between this job and the last one submitted; one scratch register of four is as written.
    fn check_registers(&mut self) -> Emit {
        let behind = self.failure(Kind::Head, Value::Register(ebx), Value::Register(eax));
        let ahead = self.failure(
            Kind::Head,
            Value::Memory(variable(control::SUBMITTED)),
            Value::Register(eax),
        );
        let a = &mut self.a;
        a.mov(eax, at(edx, reg::RING_HEAD))?;
        a.mov(ecx, eax)?;
        a.sub(ecx, ebx)?;
        a.js(behind)?;
        a.mov(ecx, variable(control::SUBMITTED))?;
        a.sub(ecx, eax)?;
        a.js(ahead)?;

        a.mov(edi, ebx)?;
        a.and(edi, 3)?;
        a.mov(
            ecx,
            dword_ptr(ebp + edi * 4 + (context::CONTROL + control::SCRATCH)),
        )?;
        a.mov(eax, dword_ptr(edx + edi * 4 + reg::SCRATCH))?;
        self.require_equal(ecx, eax, Kind::Scratch)
    }

    /// `esi` plus `context::DONE` is the job's record from here, `ecx` its slot.
    fn check_sequence(&mut self) -> Emit {
        self.a.lea(ecx, ebx - 1)?;
        self.a.and(ecx, SLOTS - 1)?;
        self.a.mov(esi, ecx)?;
        self.a.shl(esi, RECORD_SHIFT)?;
        self.a.add(esi, ebp)?;
        self.a.mov(eax, at(esi, context::DONE))?;
        self.require_equal(ebx, eax, Kind::Sequence)?;
        self.a.mov(edx, ebx)?;
        self.a.not(edx)?;
        self.a.mov(eax, at(esi, context::DONE + 12))?;
        self.require_equal(edx, eax, Kind::NotSequence)
    }

    /// What the VF must have computed goes into the shadow, `ecx` is its sum, `edi` its address afterwards.
    fn compute_block(&mut self) -> Emit {
        let a = &mut self.a;
        a.lea(edi, ebp + ecx * 4)?;
        a.push(edi)?;
        a.mov(edi, ecx)?;
        a.shl(edi, BLOCK_SHIFT)?;
        a.lea(edi, edi + ebp + context::SHADOW)?;
        a.imul_3(edx, ebx, JOB_FACTOR)?;
        a.xor(edx, variable(control::SEED))?;
        a.mov(eax, variable(control::ACCUMULATOR))?;
        a.xor(ecx, ecx)?;
        for word in 0..BLOCK_WORDS {
            a.add(edx, SOURCE_STEP)?;
            a.rol(eax, ACC_ROTATE)?;
            a.xor(eax, edx)?;
            a.imul_3(eax, eax, ACC_FACTOR)?;
            a.mov(at(edi, 4 * word), eax)?;
            a.add(ecx, eax)?;
        }
        a.pop(edx)?;
        a.mov(at(edx, context::SUMS), ecx)?;
        a.mov(variable(control::ACCUMULATOR), eax)?;
        a.mov(edx, at(esi, context::DONE + 4))?;
        self.require_equal(eax, edx, Kind::Accumulator)
    }

    fn check_vram(&mut self) -> Emit {
        self.a.mov(edx, esi)?;
        self.a.lea(esi, ebx - 1)?;
        self.a.and(esi, SLOTS - 1)?;
        self.a.shl(esi, BLOCK_SHIFT)?;
        self.a.add(esi, variable(control::BAR0))?;
        self.a.add(esi, VRAM_WINDOW)?;
        self.compare_blocks(Kind::Vram)
    }

    /// `edx` is the record, less `context::DONE`. The block came from the VRAM of the oldest job.
    fn check_destination(&mut self) -> Emit {
        self.a.lea(esi, ebx - 1)?;
        self.a.and(esi, SLOTS - 1)?;
        self.a.shl(esi, BLOCK_SHIFT)?;
        self.a.lea(esi, esi + ebp + context::DST)?;
        self.a.mov(edi, ebx)?;
        self.a.and(edi, SLOTS - 1)?;
        self.a.mov(eax, dword_ptr(ebp + edi * 4 + context::SUMS))?;
        self.a.shl(edi, BLOCK_SHIFT)?;
        self.a.lea(edi, edi + ebp + context::SHADOW)?;
        self.compare_blocks(Kind::Destination)?;
        self.a.mov(ecx, at(edx, context::DONE + 8))?;
        self.require_equal(eax, ecx, Kind::Sum)
    }

    /// Reports `kind` unless the block at `esi` is as expected at `edi`. Changes `ecx`, `esi`, `edi`.
    fn compare_blocks(&mut self, kind: Kind) -> Emit {
        let differ = self.failure(
            kind,
            Value::Memory(dword_ptr(edi - 4)),
            Value::Memory(dword_ptr(esi - 4)),
        );
        self.a.mov(ecx, BLOCK_WORDS)?;
        self.a.repe().cmpsd()?;
        self.a.jne(differ)
    }

    fn count(&mut self) -> Emit {
        let mut quiet = self.a.create_label();
        self.a.mov(variable(control::VERIFIED), ebx)?;
        self.a.test(ebx, PROGRESS_JOBS - 1)?;
        self.a.jne(quiet)?;
        self.print("vf")?;
        self.a.mov(eax, variable(control::INDEX))?;
        self.a.call(self.routines.print_decimal)?;
        self.print(" jobs ")?;
        self.a.mov(eax, ebx)?;
        self.a.call(self.routines.print_decimal)?;
        self.print("\n")?;
        self.a.set_label(&mut quiet)?;
        self.a.ret()
    }
}
