// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupt and exception handlers.
//!
//! A VF's handler takes `RING_HEAD` into the context and acknowledges it to the VF and to the local APIC. It returns by
//! `popfd` and `ret`: in a flat segment that does what `iretd` does, and KVM's emulator has no `iretd` in protected mode.

use iced_x86::code_asm::{dword_ptr, eax, ebp, edx, esp};

use super::{Emit, Program, at, fixed, variable};
use crate::abi::reg;
use crate::layout::{CONTEXT_SIZE, CONTEXTS, FIRST_VECTOR, MAX_VFS, control};

const LAPIC_EOI: u32 = 0xfee0_00b0;
const SPURIOUS_VECTOR: u8 = 0xff;
const EXCEPTIONS: u8 = 32;

impl Program {
    pub(super) fn interrupts(&mut self) -> Emit {
        self.vf_handlers()?;
        self.exception_handlers()?;
        // A spurious interrupt is not acknowledged.
        let mut spurious = self.a.create_label();
        self.a.set_label(&mut spurious)?;
        self.handlers.push((SPURIOUS_VECTOR, spurious));
        self.return_from_interrupt()
    }

    fn vf_handlers(&mut self) -> Emit {
        let mut common = self.a.create_label();
        for index in 0..MAX_VFS {
            let mut handler = self.a.create_label();
            self.a.set_label(&mut handler)?;
            self.a.push(ebp)?;
            self.a.mov(ebp, CONTEXTS + index * CONTEXT_SIZE)?;
            self.a.jmp(common)?;
            self.handlers.push((FIRST_VECTOR + index as u8, handler));
        }
        let a = &mut self.a;
        a.set_label(&mut common)?;
        a.push(eax)?;
        a.push(edx)?;
        a.mov(edx, variable(control::BAR0))?;
        a.mov(eax, at(edx, reg::RING_HEAD))?;
        a.mov(variable(control::IRQ_HEAD), eax)?;
        a.mov(at(edx, reg::IRQ_ACK), eax)?;
        self.end_of_interrupt()?;
        self.a.pop(edx)?;
        self.a.pop(eax)?;
        self.a.pop(ebp)?;
        self.return_from_interrupt()
    }

    pub(super) fn end_of_interrupt(&mut self) -> Emit {
        self.a.mov(fixed(LAPIC_EOI), 0u32)
    }

    /// On the stack from the top: return address, code segment, flags.
    pub(super) fn return_from_interrupt(&mut self) -> Emit {
        self.a.push(dword_ptr(esp + 8))?;
        self.a.popfd()?;
        self.a.ret_1(8u32)
    }

    /// The program causes none, so each is told and final.
    fn exception_handlers(&mut self) -> Emit {
        let mut common = self.a.create_label();
        for vector in 0..EXCEPTIONS {
            let mut handler = self.a.create_label();
            self.a.set_label(&mut handler)?;
            self.a.push(u32::from(vector))?;
            self.a.jmp(common)?;
            self.handlers.push((vector, handler));
        }
        self.a.set_label(&mut common)?;
        self.print("FAIL exception ")?;
        self.a.pop(eax)?;
        self.a.call(self.routines.print_decimal)?;
        self.print("\n")?;
        self.a.jmp(self.routines.halt)
    }
}
