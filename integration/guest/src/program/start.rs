// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the PVH entry to the main loop: own descriptor tables and stack, local APIC, the search for VFs.

use iced_x86::code_asm::{CodeAssembler, al, ds, eax, ebx, edi, es, esi, esp, fword_ptr, ss};
use iced_x86::{Code, IcedError, Instruction};

use super::{Emit, Program, fixed};
use crate::layout::{CODE, MAX_VFS, STACK_TOP, STAND_IN, VF_COUNT};
use crate::stand_in;
use crate::tables::{CODE_SELECTOR, DATA_SELECTOR, GDT_POINTER, IDT_POINTER};

/// Where the program proper begins, after the trampoline.
pub(super) const MAIN: u32 = CODE + 0x20;
/// Registers of the local APIC.
const LAPIC_SPURIOUS: u32 = 0xfee0_00f0;
/// Enabled, spurious vector 0xff.
const LAPIC_ENABLE: u32 = 0x1ff;
/// The 8259s' mask registers. Nothing of theirs is used, and some VMMs leave them open.
const PIC_MASKS: [u32; 2] = [0x21, 0xa1];
/// Config mechanism 1: bus 0, device 0, and the distance to the next device.
const FIRST_DEVICE: u32 = 0x8000_0000;
const DEVICE_STEP: u32 = 0x800;
const DEVICES: u32 = 32;
const VENDOR_INTEL: u32 = 0x8086;
const CLASS_DISPLAY: u32 = 0x03;

/// The entry. A far jump needs its target as a number, so it stands apart and jumps to a fixed place.
pub(super) fn trampoline() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    a.cli()?;
    a.cld()?;
    a.lgdt(fword_ptr(u64::from(GDT_POINTER)))?;
    a.add_instruction(Instruction::with_far_branch(
        Code::Jmp_ptr1632,
        CODE_SELECTOR,
        MAIN,
    )?)?;
    let code = a.assemble(CODE.into())?;
    assert!(
        code.len() <= (MAIN - CODE) as usize,
        "the trampoline outgrew its place"
    );
    Ok(code)
}

impl Program {
    pub(super) fn start(&mut self) -> Emit {
        let a = &mut self.a;
        a.mov(eax, u32::from(DATA_SELECTOR))?;
        a.mov(ds, eax)?;
        a.mov(es, eax)?;
        a.mov(ss, eax)?;
        a.mov(esp, STACK_TOP)?;
        a.lidt(fword_ptr(u64::from(IDT_POINTER)))?;
        a.mov(al, 0xffu32)?;
        for mask in PIC_MASKS {
            a.out(mask, al)?;
        }
        a.mov(fixed(LAPIC_SPURIOUS), LAPIC_ENABLE)?;
        a.mov(fixed(VF_COUNT), 0u32)?;
        a.mov(fixed(STAND_IN), 0u32)?;
        self.search()?;
        self.announce()
    }

    /// Visits function 0 of every device; `ebx` is its config address.
    fn search(&mut self) -> Emit {
        let (read, set_up_vf) = (self.routines.pci_read, self.routines.set_up_vf);
        let set_up_stand_in = self.routines.set_up_stand_in;
        let a = &mut self.a;
        let mut each = a.create_label();
        let mut no_gpu = a.create_label();
        let mut next = a.create_label();
        let mut done = a.create_label();

        a.mov(ebx, FIRST_DEVICE)?;
        a.set_label(&mut each)?;
        a.mov(eax, ebx)?;
        a.call(read)?;
        a.and(eax, 0xffffu32)?;
        a.cmp(eax, VENDOR_INTEL)?;
        a.jne(next)?;
        a.lea(eax, ebx + 0x08)?;
        a.call(read)?;
        a.shr(eax, 24)?;
        a.cmp(eax, CLASS_DISPLAY)?;
        a.jne(no_gpu)?;
        a.lea(eax, ebx + 0x10)?;
        a.call(read)?;
        a.and(eax, 0xffff_fff0u32)?;
        a.je(next)?;
        a.mov(esi, eax)?;
        a.push(ebx)?;
        a.call(set_up_vf)?;
        a.pop(ebx)?;
        a.cmp(fixed(VF_COUNT), MAX_VFS)?;
        a.je(done)?;
        a.jmp(next)?;

        a.set_label(&mut no_gpu)?;
        a.cmp(eax, stand_in::CLASS_NETWORK)?;
        a.jne(next)?;
        a.push(ebx)?;
        a.call(set_up_stand_in)?;
        a.pop(ebx)?;
        // The lab's VF is alone: it takes all the memory.
        a.cmp(fixed(STAND_IN), 0)?;
        a.jne(done)?;

        a.set_label(&mut next)?;
        a.add(ebx, DEVICE_STEP)?;
        a.cmp(ebx, FIRST_DEVICE + DEVICES * DEVICE_STEP)?;
        a.jb(each)?;
        a.set_label(&mut done)?;
        a.nop()
    }

    fn announce(&mut self) -> Emit {
        let mut found = self.a.create_label();
        self.a.mov(edi, fixed(VF_COUNT))?;
        self.a.test(edi, edi)?;
        self.a.jne(found)?;
        self.print("FAIL no VF\n")?;
        self.a.jmp(self.routines.halt)?;
        self.a.set_label(&mut found)?;
        self.print("xe-guest: ")?;
        self.a.mov(eax, edi)?;
        self.a.call(self.routines.print_decimal)?;
        self.print(" VFs\n")?;
        self.a.sti()?;
        self.a.cmp(fixed(STAND_IN), 0)?;
        self.a.jne(self.routines.stand_in)?;
        self.a.jmp(self.routines.main)
    }
}
