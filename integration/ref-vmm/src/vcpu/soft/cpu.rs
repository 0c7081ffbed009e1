// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Registers of the processor.

use super::flags::{FIXED, INTERRUPT, Width};

pub(super) const EAX: u8 = 0;
pub(super) const ECX: u8 = 1;
pub(super) const EDX: u8 = 2;
pub(super) const EBX: u8 = 3;
pub(super) const ESP: u8 = 4;
pub(super) const ESI: u8 = 6;
pub(super) const EDI: u8 = 7;
/// Position of `cs` among the segments, in the processor's order es, cs, ss, ds, fs, gs.
pub(super) const CS: u8 = 1;
pub(super) const SS: u8 = 2;

/// Base and limit of the GDT or the IDT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub base: u32,
    pub limit: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpu {
    /// In the processor's order: eax, ecx, edx, ebx, esp, ebp, esi, edi.
    pub registers: [u32; 8],
    pub eip: u32,
    pub flags: u32,
    pub segments: [u16; 6],
    pub gdt: Table,
    pub idt: Table,
    /// In `hlt`, which has been left behind by `eip`.
    pub halted: bool,
    /// No interrupt before the next instruction, since the last was `sti` or loaded `ss`.
    pub shadow: bool,
}

impl Cpu {
    pub fn at_entry(entry: u32, ebx: u32) -> Self {
        let mut registers = [0; 8];
        registers[usize::from(EBX)] = ebx;
        Self {
            registers,
            eip: entry,
            flags: FIXED,
            segments: [0; 6],
            gdt: Table::default(),
            idt: Table::default(),
            halted: false,
            shadow: false,
        }
    }

    pub fn interrupts_on(&self) -> bool {
        self.flags & INTERRUPT != 0
    }

    /// A 32-bit register.
    pub fn get(&self, register: u8) -> u32 {
        self.registers[usize::from(register & 7)]
    }

    /// Sets a 32-bit register.
    pub fn set(&mut self, register: u8, value: u32) {
        self.registers[usize::from(register & 7)] = value;
    }

    /// A register by its number at that width: of the 8-bit ones, 4 to 7 are ah, ch, dh, bh.
    pub fn get_part(&self, register: u8, width: Width) -> u32 {
        match width {
            Width::Dword => self.get(register),
            Width::Word => self.get(register) & 0xffff,
            Width::Byte => self.get(register & 3) >> byte_shift(register) & 0xff,
        }
    }

    /// Sets that part and keeps the rest of the register.
    pub fn set_part(&mut self, register: u8, width: Width, value: u32) {
        let (whole, shift) = match width {
            Width::Dword => return self.set(register, value),
            Width::Word => (register, 0),
            Width::Byte => (register & 3, byte_shift(register)),
        };
        let mask = width.mask() << shift;
        self.set(whole, self.get(whole) & !mask | value << shift & mask);
    }
}

fn byte_shift(register: u8) -> u32 {
    if register & 4 != 0 { 8 } else { 0 }
}
