// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Works the kernel lab's VF, where there is no ring to drive: rounds of memory writes, with the VF as witness.
//!
//! Round `n` rewrites page `n` modulo [`PAGES`] after having checked that it holds what round `n - PAGES` wrote, and folds the
//! old words into the accumulator. Number and accumulator are kept in the context and in the VF's scratch registers; the number
//! is in `ebx` too. So a page, a register or a processor state that is older or newer than the rest is found by the
//! next round that looks at it, and a VF whose state was left behind at once.
//!
//! Both BARs are 64-bit ones, which VMMs place above 4 GiB and Cloud Hypervisor leaves there. So this workload runs with paging:
//! memory is mapped to itself by 4 MiB pages, but for two windows that show the BARs. PSE-36 takes such a page up to 40 bits of
//! address, as many as the lab's processor has. Not PAE: QEMU sets the accessed bit in its uppermost table, where KVM then finds a
//! reserved bit set.

use iced_x86::code_asm::{CodeLabel, cr0, cr3, cr4, dword_ptr, eax, ebp, ebx, ecx, edi, edx, esi};

use super::setup::{CAPABILITIES, COMMAND};
use super::{Emit, JOB_FACTOR, Program, SOURCE_STEP, Value, at, fixed, variable};
use crate::abi::{ACC_FACTOR, ACC_ROTATE};
use crate::layout::{CONTEXTS, STAND_IN, VF_COUNT, context, control};
use crate::report::Kind;
use crate::stand_in::{
    BAR, DIRECTORY, ID, LOOK_ROUNDS, MEMORY, MSIX_BAR, MSIX_WINDOW, PAGES, PROGRESS_ROUNDS, VECTOR,
    WINDOW, WORD_STRIDE, WORDS, reg,
};

const FIRST_BAR: u32 = 0x10;
const BAR_FLAGS: u32 = 0xf;
const PAGE_SIZE: u32 = 4 << 20;
/// Present, writable, large.
const PAGE: u32 = 0x83;
/// Neither cached nor written late.
const DEVICE_PAGE: u32 = PAGE | 0x18;
/// Where the page's bits 32 to 39 are in its entry.
const HIGH_BITS: u32 = 13;
const CR0_PAGING: u32 = 1 << 31;
const CR4_PSE: u32 = 1 << 4;
/// Doublewords of configuration space that must stay as they were, and the bits of each that count: identity, command, both
/// BARs. The capabilities' pointer tells a device whose configuration space is gone.
const WITNESSES: [(u32, u32); 7] = [
    (0x00, u32::MAX),
    (COMMAND, 0xffff),
    (FIRST_BAR + 4 * BAR, u32::MAX),
    (FIRST_BAR + 4 * BAR + 4, u32::MAX),
    (FIRST_BAR + 4 * MSIX_BAR, u32::MAX),
    (FIRST_BAR + 4 * MSIX_BAR + 4, u32::MAX),
    (CAPABILITIES, 0xff),
];
/// How often an interrupt is asked for, and how long each is waited for: one may get lost when the VF moves between unmasking
/// and asking, because the mask is not part of what moves. Long, since the host of the host may be busy.
const ASKS: u32 = 4;
const SPINS: u32 = 1 << 24;

impl Program {
    /// Entered as `set_up_vf`, for a network function; returns when it is another.
    pub(super) fn stand_in(&mut self) -> Emit {
        self.set_up_stand_in()?;
        self.stand_in_rounds()?;
        self.stand_in_interrupt()
    }

    fn set_up_stand_in(&mut self) -> Emit {
        let read = self.routines.pci_read;
        let mut other = self.a.create_label();
        self.a.set_label(&mut self.routines.set_up_stand_in)?;
        self.a.mov(eax, ebx)?;
        self.a.call(read)?;
        self.a.cmp(eax, ID)?;
        self.a.jne(other)?;
        self.map_memory()?;
        self.map_bar(BAR, WINDOW)?;
        self.enable_paging()?;
        self.clear_context()?;
        self.enable_decoding()?;
        self.map_bar(MSIX_BAR, MSIX_WINDOW)?;
        self.enable_msix(MSIX_BAR, VECTOR)?;
        self.remember_configuration()?;
        self.write_first_round()?;
        self.a.inc(fixed(VF_COUNT))?;
        self.a.mov(fixed(STAND_IN), 1u32)?;
        self.a.set_label(&mut other)?;
        self.a.ret()
    }

    fn map_memory(&mut self) -> Emit {
        let mut each = self.a.create_label();
        self.a.mov(edi, DIRECTORY)?;
        self.a.mov(eax, PAGE)?;
        self.a.set_label(&mut each)?;
        self.a.mov(at(edi, 0), eax)?;
        self.a.add(edi, 4)?;
        self.a.add(eax, PAGE_SIZE)?;
        self.a.cmp(edi, DIRECTORY + 0x1000)?;
        self.a.jne(each)
    }

    /// `esi` is the BAR's address in its window.
    fn map_bar(&mut self, bar: u32, window: u32) -> Emit {
        let read = self.routines.pci_read;
        let a = &mut self.a;
        a.lea(eax, ebx + (FIRST_BAR + 4 * (bar + 1)))?;
        a.call(read)?;
        a.mov(ecx, eax)?;
        a.shl(ecx, HIGH_BITS)?;
        a.lea(eax, ebx + (FIRST_BAR + 4 * bar))?;
        a.call(read)?;
        a.and(eax, !BAR_FLAGS)?;
        a.mov(esi, eax)?;
        a.and(esi, PAGE_SIZE - 1)?;
        a.add(esi, window)?;
        a.and(eax, !(PAGE_SIZE - 1))?;
        a.or(eax, ecx)?;
        a.or(eax, DEVICE_PAGE)?;
        a.mov(fixed(DIRECTORY + 4 * (window / PAGE_SIZE)), eax)
    }

    fn enable_paging(&mut self) -> Emit {
        self.a.mov(eax, DIRECTORY)?;
        self.a.mov(cr3, eax)?;
        self.a.mov(eax, cr4)?;
        self.a.or(eax, CR4_PSE)?;
        self.a.mov(cr4, eax)?;
        self.a.mov(eax, cr0)?;
        self.a.or(eax, CR0_PAGING)?;
        self.a.mov(cr0, eax)
    }

    fn remember_configuration(&mut self) -> Emit {
        self.a.mov(variable(control::CONFIG), ebx)?;
        for (place, (offset, bits)) in (0u32..).zip(WITNESSES) {
            self.a.lea(eax, ebx + offset)?;
            self.a.call(self.routines.pci_read)?;
            self.a.and(eax, bits)?;
            self.a.mov(variable(control::WITNESS + 4 * place), eax)?;
        }
        Ok(())
    }

    /// As if rounds had gone on before the first: pages and registers hold what round 1 expects.
    fn write_first_round(&mut self) -> Emit {
        let mut each = self.a.create_label();
        let mut word = self.a.create_label();
        self.a.mov(ebx, 1u32.wrapping_sub(PAGES))?;
        self.a.set_label(&mut each)?;
        self.page()?;
        self.first_word()?;
        self.a.set_label(&mut word)?;
        self.a.add(eax, SOURCE_STEP)?;
        self.a.mov(at(esi, 0), eax)?;
        self.next_word(word)?;
        self.a.inc(ebx)?;
        self.a.cmp(ebx, 1)?;
        self.a.jne(each)?;
        self.a.xor(ebx, ebx)?;
        self.write_registers()
    }

    /// `esi` is the page of round `ebx`, `edi` its end.
    fn page(&mut self) -> Emit {
        self.a.mov(esi, ebx)?;
        self.a.and(esi, PAGES - 1)?;
        self.a.shl(esi, 12)?;
        self.a.add(esi, MEMORY)?;
        self.a.lea(edi, esi + WORDS * WORD_STRIDE)
    }

    /// `eax` is one step before the first word that round `ebx` writes.
    fn first_word(&mut self) -> Emit {
        self.a.imul_3(eax, ebx, JOB_FACTOR)?;
        self.a.xor(eax, variable(control::SEED))
    }

    fn next_word(&mut self, word: CodeLabel) -> Emit {
        self.a.add(esi, WORD_STRIDE)?;
        self.a.cmp(esi, edi)?;
        self.a.jb(word)
    }

    /// What the VF's registers hold after round `ebx`: `edx` is BAR0, changes `eax`.
    fn write_registers(&mut self) -> Emit {
        self.a.mov(edx, variable(control::BAR0))?;
        for register in 0..4 {
            self.expected_register(register)?;
            self.a.mov(at(edx, reg::SCRATCH + 4 * register), eax)?;
        }
        Ok(())
    }

    fn expected_register(&mut self, register: u32) -> Emit {
        self.a.mov(eax, ebx)?;
        match register {
            0 => Ok(()),
            1 => self.a.mov(eax, variable(control::ACCUMULATOR)),
            2 => self.a.not(eax),
            _ => self.first_word(),
        }
    }

    fn stand_in_rounds(&mut self) -> Emit {
        let counter = self.failure(
            Kind::Counter,
            Value::Memory(variable(control::VERIFIED)),
            Value::Register(ebx),
        );
        let mut round = self.a.create_label();
        self.a.set_label(&mut self.routines.stand_in)?;
        self.a.mov(ebp, CONTEXTS)?;
        self.a.mov(ebx, variable(control::VERIFIED))?;
        self.a.set_label(&mut round)?;
        self.a.cmp(ebx, variable(control::VERIFIED))?;
        self.a.jne(counter)?;
        self.check_scratch_registers()?;
        self.a.inc(ebx)?;
        self.rewrite_page()?;
        self.a.mov(variable(control::VERIFIED), ebx)?;
        self.write_registers()?;
        self.a.test(ebx, LOOK_ROUNDS - 1)?;
        self.a.jne(round)?;
        self.check_configuration()?;
        self.check_interrupt()?;
        self.a.test(ebx, PROGRESS_ROUNDS - 1)?;
        self.a.jne(round)?;
        self.print("vf0 jobs ")?;
        self.a.mov(eax, ebx)?;
        self.a.call(self.routines.print_decimal)?;
        self.print("\n")?;
        self.a.jmp(round)
    }

    fn check_scratch_registers(&mut self) -> Emit {
        self.a.mov(edx, variable(control::BAR0))?;
        for register in 0..4 {
            self.expected_register(register)?;
            self.a.mov(ecx, at(edx, reg::SCRATCH + 4 * register))?;
            self.require_equal(eax, ecx, Kind::Scratch)?;
        }
        Ok(())
    }

    /// `eax` walks through the old words, `ecx` through the new, `edx` is the accumulator.
    fn rewrite_page(&mut self) -> Emit {
        let differs = self.failure(
            Kind::Page,
            Value::Register(eax),
            Value::Memory(dword_ptr(esi)),
        );
        let mut word = self.a.create_label();
        self.page()?;
        self.first_word()?;
        self.a.mov(ecx, eax)?;
        self.a.lea(eax, ebx - PAGES)?;
        self.a.imul_3(eax, eax, JOB_FACTOR)?;
        self.a.xor(eax, variable(control::SEED))?;
        self.a.mov(edx, variable(control::ACCUMULATOR))?;
        self.a.set_label(&mut word)?;
        self.a.add(eax, SOURCE_STEP)?;
        self.a.cmp(at(esi, 0), eax)?;
        self.a.jne(differs)?;
        self.a.rol(edx, ACC_ROTATE)?;
        self.a.xor(edx, eax)?;
        self.a.imul_3(edx, edx, ACC_FACTOR)?;
        self.a.add(ecx, SOURCE_STEP)?;
        self.a.mov(at(esi, 0), ecx)?;
        self.next_word(word)?;
        self.a.mov(variable(control::ACCUMULATOR), edx)
    }

    /// Reads once more what is not as it was: Cloud Hypervisor does not move the address port, so a move between the writing of an
    /// address and the reading of the data has all bits set.
    fn check_configuration(&mut self) -> Emit {
        for (place, (offset, bits)) in (0u32..).zip(WITNESSES) {
            let mut same = self.a.create_label();
            self.read_witness(offset, bits)?;
            self.a.mov(ecx, variable(control::WITNESS + 4 * place))?;
            self.a.cmp(ecx, eax)?;
            self.a.je(same)?;
            self.read_witness(offset, bits)?;
            self.require_equal(ecx, eax, Kind::Configuration)?;
            self.a.set_label(&mut same)?;
        }
        self.a.nop()
    }

    fn read_witness(&mut self, offset: u32, bits: u32) -> Emit {
        self.a.mov(eax, variable(control::CONFIG))?;
        self.a.add(eax, offset)?;
        self.a.call(self.routines.pci_read)?;
        self.a.and(eax, bits)
    }

    /// `edi` is the number of interrupts before this one is asked for. An ask in vain is told; after the last the guest goes on
    /// without: what is lost may be the emulated host's interrupt, and the rest is still worth checking.
    fn check_interrupt(&mut self) -> Emit {
        let mut came = self.a.create_label();
        self.a.cmp(variable(control::NO_INTERRUPTS), 0)?;
        self.a.jne(came)?;
        self.a.mov(edi, variable(control::IRQ_HEAD))?;
        for _ in 0..ASKS {
            let mut wait = self.a.create_label();
            self.a.mov(edx, variable(control::BAR0))?;
            for register in [
                reg::INTERRUPT_AUTO_CLEAR,
                reg::INTERRUPT_UNMASK,
                reg::INTERRUPT_SET,
            ] {
                self.a.mov(at(edx, register), 1u32)?;
            }
            self.a.mov(ecx, SPINS)?;
            self.a.set_label(&mut wait)?;
            self.a.cmp(edi, variable(control::IRQ_HEAD))?;
            self.a.jne(came)?;
            self.a.dec(ecx)?;
            self.a.jne(wait)?;
            self.print("vf0 asked for an interrupt in vain\n")?;
        }
        self.a.mov(variable(control::NO_INTERRUPTS), 1u32)?;
        self.print("vf0 goes on without interrupts\n")?;
        self.a.set_label(&mut came)?;
        self.a.nop()
    }

    fn stand_in_interrupt(&mut self) -> Emit {
        let mut handler = self.a.create_label();
        self.a.set_label(&mut handler)?;
        self.handlers.push((VECTOR, handler));
        self.a
            .inc(fixed(CONTEXTS + context::CONTROL + control::IRQ_HEAD))?;
        self.end_of_interrupt()?;
        self.return_from_interrupt()
    }
}
