// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Executes operations, and takes interrupts.
//!
//! An operation that faults leaves the registers as they were before it (a repeated one, before the iteration that
//! faults); memory it was to write may have been written.

use super::cpu::{CS, Cpu, EAX, EDX, ESP, SS, Table};
use super::flags::{self, DIRECTION, FIXED, INTERRUPT, MODELLED, Width};
use super::lapic::{self, Lapic};
use super::operation::{Address, Instruction, Operation, Place, Source};
use super::{Bus, Fault, descriptors};

/// The vCPU while it runs.
pub(super) struct Machine<'a> {
    pub cpu: &'a mut Cpu,
    pub lapic: &'a mut Lapic,
    pub bus: &'a dyn Bus,
}

impl Machine<'_> {
    /// The vector to be taken before the next instruction.
    pub fn deliverable(&self) -> Option<u8> {
        if self.cpu.interrupts_on() && !self.cpu.shadow {
            self.lapic.next()
        } else {
            None
        }
    }

    /// Enters the handler of `vector`.
    pub fn deliver(&mut self, vector: u8) -> Result<(), Fault> {
        let gate = descriptors::gate(self.bus, self.cpu.gdt, self.cpu.idt, vector)?;
        let (flags, segment, eip) = (
            self.cpu.flags,
            self.cpu.segments[usize::from(CS)],
            self.cpu.eip,
        );
        for value in [flags, segment.into(), eip] {
            self.push(value)?;
        }
        self.lapic.begin(vector);
        self.cpu.segments[usize::from(CS)] = gate.selector;
        self.cpu.eip = gate.handler;
        self.cpu.halted = false;
        if gate.clears_interrupts {
            self.cpu.flags &= !INTERRUPT;
        }
        Ok(())
    }

    pub fn execute(&mut self, Instruction { operation, next }: Instruction) -> Result<(), Fault> {
        let mut eip = next;
        let mut shadow = false;
        match operation {
            Operation::Move(width, to, from) => {
                let value = self.source(from, width)?;
                self.put(to, width, value)?;
            }
            Operation::LoadAddress(to, address) => self.cpu.set(to, self.address(address)),
            Operation::Binary(operation, width, to, from) => {
                let (a, b) = (self.place(to, width)?, self.source(from, width)?);
                let mut flags = self.cpu.flags;
                let result = flags::binary(operation, a, b, width, &mut flags);
                self.put(to, width, result)?;
                self.cpu.flags = flags;
            }
            Operation::Compare(operation, width, a, b) => {
                let (a, b) = (self.place(a, width)?, self.source(b, width)?);
                flags::binary(operation, a, b, width, &mut self.cpu.flags);
            }
            Operation::Unary(operation, width, to) => {
                let a = self.place(to, width)?;
                let mut flags = self.cpu.flags;
                let result = flags::unary(operation, a, width, &mut flags);
                self.put(to, width, result)?;
                self.cpu.flags = flags;
            }
            Operation::Shift(operation, width, to, count) => {
                let (a, count) = (self.place(to, width)?, self.source(count, Width::Byte)?);
                let mut flags = self.cpu.flags;
                let result = flags::shift(operation, a, count as u8, width, &mut flags);
                self.put(to, width, result)?;
                self.cpu.flags = flags;
            }
            Operation::Multiply(to, a, b) => {
                let (a, b) = (self.source(a, Width::Dword)?, self.source(b, Width::Dword)?);
                let product = flags::multiply(a, b, &mut self.cpu.flags);
                self.cpu.set(to, product);
            }
            Operation::Divide(by) => self.divide(by)?,
            Operation::Push(from) => {
                let value = self.source(from, Width::Dword)?;
                self.push(value)?;
            }
            Operation::Pop(to) => {
                let value = self.pop()?;
                self.cpu.set(to, value);
            }
            Operation::PopFlags => self.pop_flags()?,
            Operation::Jump(target) => eip = target,
            Operation::JumpIf(condition, target) => {
                if condition.holds(self.cpu.flags) {
                    eip = target;
                }
            }
            Operation::Call(target) => {
                self.push(next)?;
                eip = target;
            }
            Operation::Return { drop } => {
                eip = self.pop()?;
                let top = self.cpu.get(ESP).wrapping_add(drop.into());
                self.cpu.set(ESP, top);
            }
            Operation::FarJump(selector, target) => {
                descriptors::check_segment(self.bus, self.cpu.gdt, selector, true)?;
                self.cpu.segments[usize::from(CS)] = selector;
                eip = target;
            }
            Operation::LoadSegment(segment, from) => {
                let selector = self.source(from, Width::Word)? as u16;
                descriptors::check_segment(self.bus, self.cpu.gdt, selector, false)?;
                self.cpu.segments[usize::from(segment)] = selector;
                shadow = segment == SS;
            }
            Operation::LoadGdt(address) => self.cpu.gdt = self.table(address)?,
            Operation::LoadIdt(address) => self.cpu.idt = self.table(address)?,
            Operation::In(width, port) => {
                let port = self.source(port, Width::Word)? as u16;
                let mut bytes = [0; 4];
                self.bus.pio_in(port, &mut bytes[..width.bytes()]);
                self.cpu.set_part(EAX, width, u32::from_le_bytes(bytes));
            }
            Operation::Out(width, port) => {
                let port = self.source(port, Width::Word)? as u16;
                let bytes = self.cpu.get(EAX).to_le_bytes();
                self.bus.pio_out(port, &bytes[..width.bytes()]);
            }
            Operation::StoreString { repeated } => {
                if !self.store_string(repeated)? {
                    eip = self.cpu.eip;
                }
            }
            Operation::CompareStrings { repeated } => {
                if !self.compare_strings(repeated)? {
                    eip = self.cpu.eip;
                }
            }
            Operation::ClearInterrupts => self.cpu.flags &= !INTERRUPT,
            Operation::SetInterrupts => {
                shadow = !self.cpu.interrupts_on();
                self.cpu.flags |= INTERRUPT;
            }
            Operation::ClearDirection => self.cpu.flags &= !DIRECTION,
            Operation::Halt => self.cpu.halted = true,
            Operation::Nothing => {}
        }
        self.cpu.eip = eip;
        self.cpu.shadow = shadow;
        Ok(())
    }

    fn divide(&mut self, by: Source) -> Result<(), Fault> {
        let divisor = u64::from(self.source(by, Width::Dword)?);
        let dividend = u64::from(self.cpu.get(EDX)) << 32 | u64::from(self.cpu.get(EAX));
        let quotient = dividend.checked_div(divisor).ok_or(Fault::Divide)?;
        let quotient = u32::try_from(quotient).map_err(|_| Fault::Divide)?;
        self.cpu.set(EAX, quotient);
        // Less than a divisor of 32 bits.
        self.cpu.set(EDX, (dividend % divisor) as u32);
        Ok(())
    }

    fn pop_flags(&mut self) -> Result<(), Fault> {
        let value = self.read(self.cpu.get(ESP), Width::Dword)?;
        if value & !MODELLED != 0 {
            return Err(Fault::Flags(value));
        }
        self.pop()?;
        self.cpu.flags = value | FIXED;
        Ok(())
    }

    fn table(&self, address: Address) -> Result<Table, Fault> {
        let at = self.address(address);
        Ok(Table {
            limit: self.read(at, Width::Word)? as u16,
            base: self.read(at.wrapping_add(2), Width::Dword)?,
        })
    }

    fn address(&self, address: Address) -> u32 {
        let base = address.base.map_or(0, |register| self.cpu.get(register));
        let index = address.index.map_or(0, |register| self.cpu.get(register));
        base.wrapping_add(index << address.scale)
            .wrapping_add(address.displacement)
    }

    fn source(&self, source: Source, width: Width) -> Result<u32, Fault> {
        match source {
            Source::Register(register) => Ok(self.cpu.get_part(register, width)),
            Source::Memory(address) => self.read(self.address(address), width),
            Source::Constant(value) => Ok(value & width.mask()),
        }
    }

    fn place(&self, place: Place, width: Width) -> Result<u32, Fault> {
        match place {
            Place::Register(register) => Ok(self.cpu.get_part(register, width)),
            Place::Memory(address) => self.read(self.address(address), width),
        }
    }

    fn put(&mut self, place: Place, width: Width, value: u32) -> Result<(), Fault> {
        match place {
            Place::Register(register) => {
                self.cpu.set_part(register, width, value);
                Ok(())
            }
            Place::Memory(address) => self.write(self.address(address), width, value),
        }
    }

    fn push(&mut self, value: u32) -> Result<(), Fault> {
        let top = self.cpu.get(ESP).wrapping_sub(4);
        self.write(top, Width::Dword, value)?;
        self.cpu.set(ESP, top);
        Ok(())
    }

    fn pop(&mut self) -> Result<u32, Fault> {
        let top = self.cpu.get(ESP);
        let value = self.read(top, Width::Dword)?;
        self.cpu.set(ESP, top.wrapping_add(4));
        Ok(value)
    }

    pub fn read(&self, gpa: u32, width: Width) -> Result<u32, Fault> {
        if self.is_lapic(gpa) {
            return self.lapic.read(lapic_register(gpa, width)?);
        }
        let mut bytes = [0; 4];
        let part = &mut bytes[..width.bytes()];
        if !self.bus.read_memory(gpa, part) {
            self.bus.mmio_read(gpa, part);
        }
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn write(&mut self, gpa: u32, width: Width, value: u32) -> Result<(), Fault> {
        if self.is_lapic(gpa) {
            return self.lapic.write(lapic_register(gpa, width)?, value);
        }
        let bytes = value.to_le_bytes();
        let part = &bytes[..width.bytes()];
        if !self.bus.write_memory(gpa, part) {
            self.bus.mmio_write(gpa, part);
        }
        Ok(())
    }

    pub fn is_lapic(&self, gpa: u32) -> bool {
        gpa & !(lapic::SIZE - 1) == lapic::BASE
    }
}

fn lapic_register(gpa: u32, width: Width) -> Result<u32, Fault> {
    let offset = gpa - lapic::BASE;
    if width == Width::Dword && offset.is_multiple_of(4) {
        Ok(offset)
    } else {
        Err(Fault::Lapic {
            offset,
            size: width.bytes(),
        })
    }
}
