// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Small programs: what the vCPU does between the guest's instructions, and what it refuses.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use iced_x86::code_asm::{
    CodeAssembler, bx, byte_ptr, ds, dword_ptr, eax, ebp, ebx, ecx, edi, edx, esp, fword_ptr, ptr,
};
use iced_x86::{Code, IcedError, Instruction};

use super::super::{Bus, Exit, Fault, Interrupts, SoftVcpu, SoftVcpuState};

const CODE: u32 = 0x1000;
const STACK: u32 = 0x8000;
const GDT: u32 = 0x8000;
const POINTER: u32 = 0x8100;
const MEMORY: usize = 0x10000;

/// RAM from 0, and nothing else.
struct Ram(RefCell<Vec<u8>>);

impl Bus for Ram {
    fn read_memory(&self, gpa: u32, buf: &mut [u8]) -> bool {
        let at = gpa as usize;
        self.0
            .borrow()
            .get(at..at + buf.len())
            .is_some_and(|bytes| {
                buf.copy_from_slice(bytes);
                true
            })
    }

    fn write_memory(&self, gpa: u32, buf: &[u8]) -> bool {
        let at = gpa as usize;
        self.0
            .borrow_mut()
            .get_mut(at..at + buf.len())
            .is_some_and(|bytes| {
                bytes.copy_from_slice(buf);
                true
            })
    }

    fn mmio_read(&self, gpa: u32, _: &mut [u8]) {
        panic!("read of {gpa:#x}");
    }

    fn mmio_write(&self, gpa: u32, _: &[u8]) {
        panic!("write of {gpa:#x}");
    }

    fn pio_in(&self, _: u16, buf: &mut [u8]) {
        buf.fill(0xa5);
    }

    fn pio_out(&self, port: u16, _: &[u8]) {
        panic!("write of port {port:#x}");
    }
}

type Assemble = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Runs a program that begins with `esp` set, and answers how it ended and the vCPU's state.
fn run(program: Assemble) -> (Exit, SoftVcpuState) {
    let mut ram = vec![0; MEMORY];
    let flat: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    ram[GDT as usize..][..24].copy_from_slice(&flat.map(u64::to_le_bytes).concat());
    ram[POINTER as usize..][..6].copy_from_slice(&[23, 0, 0, 0x80, 0, 0]);
    let mut a = CodeAssembler::new(32).expect("32-bit code");
    a.mov(esp, STACK)
        .and_then(|()| program(&mut a))
        .expect("a program that assembles");
    let code = a.assemble(CODE.into()).expect("a program that assembles");
    ram[CODE as usize..][..code.len()].copy_from_slice(&code);
    let ram = Ram(RefCell::new(ram));
    let (interrupts, stop) = (Interrupts::new(), AtomicBool::new(false));
    let mut vcpu = SoftVcpu::new(CODE, 0);
    let exit = vcpu.run(&ram, &interrupts, &stop);
    (exit, vcpu.state(&interrupts))
}

#[track_caller]
fn fault(program: Assemble) -> Fault {
    match run(program).0 {
        Exit::Fault { reason, .. } => reason,
        exit => panic!("no fault but {exit:?}"),
    }
}

/// The registers at the `hlt` that ends the program.
#[track_caller]
fn registers(program: Assemble) -> [u32; 8] {
    let (exit, state) = run(program);
    assert_eq!(exit, Exit::HaltedForever);
    state.registers
}

fn text(instruction: &str) -> Fault {
    Fault::Instruction(instruction.to_owned())
}

#[test]
fn instructions_outside_the_subset_are_named() {
    assert_eq!(fault(|a| a.cpuid()), text("CPUID"));
    assert_eq!(fault(|a| a.iretd()), text("IRETD"));
    assert_eq!(fault(|a| a.fninit()), text("FNINIT"));
    assert_eq!(
        fault(|a| a.lock().inc(dword_ptr(0x5000))),
        text("INC r/m32")
    );
    assert_eq!(
        fault(|a| a.mov(eax, dword_ptr(0x5000).fs())),
        text("MOV EAX, moffs32")
    );
    assert_eq!(fault(|a| a.lea(eax, ptr(bx))), text("LEA r32, m"));
    assert_eq!(fault(|a| a.rep().movsd()), text("MOVSD"));
    assert_eq!(fault(|a| a.repne().cmpsd()), text("CMPSD"));
    assert!(matches!(
        fault(|a| a.db(&[0xff; 15])),
        Fault::Instruction(_)
    ));
}

#[test]
fn a_fault_leaves_the_vcpu_before_the_instruction() {
    let (exit, state) = run(|a| {
        a.mov(eax, 7)?;
        a.cpuid()
    });
    let Exit::Fault { eip, .. } = exit else {
        panic!("no fault but {exit:?}");
    };
    assert_eq!((eip, state.eip), (CODE + 10, CODE + 10));
    assert_eq!(state.registers[0], 7);
}

#[test]
fn what_is_not_flat_is_refused() {
    assert_eq!(
        fault(|a| a.add_instruction(Instruction::with_far_branch(Code::Jmp_ptr1632, 8, CODE)?)),
        Fault::Segment(8)
    );
    assert_eq!(
        fault(|a| {
            a.lgdt(fword_ptr(u64::from(POINTER)))?;
            a.mov(eax, 8)?;
            a.mov(ds, eax)
        }),
        Fault::Segment(8)
    );
    assert_eq!(
        fault(|a| {
            a.lgdt(fword_ptr(u64::from(POINTER)))?;
            a.mov(eax, 0x18)?;
            a.mov(ds, eax)
        }),
        Fault::Segment(0x18)
    );
}

#[test]
fn division_errors_are_faults() {
    assert_eq!(fault(|a| a.div(ebx)), Fault::Divide);
    assert_eq!(
        fault(|a| {
            a.mov(edx, 2)?;
            a.mov(ecx, 2)?;
            a.div(ecx)
        }),
        Fault::Divide
    );
}

#[test]
fn flags_that_are_not_modelled_are_refused() {
    assert_eq!(
        fault(|a| {
            a.push(0x102)?;
            a.popfd()
        }),
        Fault::Flags(0x102)
    );
    assert_eq!(
        fault(|a| {
            a.push(0x400)?;
            a.popfd()?;
            a.stosd()
        }),
        Fault::Direction
    );
}

#[test]
fn local_apic_registers_that_are_not_modelled_are_refused() {
    let lapic = |offset, size| Fault::Lapic { offset, size };
    assert_eq!(
        fault(|a| a.mov(dword_ptr(0xfee0_0320u64), 1)),
        lapic(0x320, 4)
    );
    assert_eq!(
        fault(|a| a.mov(eax, dword_ptr(0xfee0_0084u64))),
        lapic(0x84, 4)
    );
    assert_eq!(
        fault(|a| a.mov(byte_ptr(0xfee0_00b0u64), 1)),
        lapic(0xb0, 1)
    );
}

#[test]
fn code_outside_memory_is_a_fault() {
    assert_eq!(
        fault(|a| {
            a.push(0x5000_0000)?;
            a.ret()
        }),
        Fault::Fetch
    );
}

#[test]
fn parts_of_registers_keep_the_rest() {
    let registers = registers(|a| {
        a.mov(eax, 0x1122_3344)?;
        a.mov(iced_x86::code_asm::ah, 0x55)?;
        a.mov(edx, 0x3f8)?;
        a.in_(iced_x86::code_asm::al, iced_x86::code_asm::dx)?;
        a.mov(iced_x86::code_asm::dx, bx)?;
        a.hlt()
    });
    assert_eq!((registers[0], registers[2]), (0x1122_55a5, 0));
}

#[test]
fn stack_calls_and_addresses_work_together() {
    let registers = registers(|a| {
        let mut function = a.create_label();
        a.push(11)?;
        a.push(22)?;
        a.call(function)?;
        a.hlt()?;
        a.set_label(&mut function)?;
        a.mov(ecx, 2)?;
        a.mov(eax, dword_ptr(esp + ecx * 4))?;
        a.mov(edx, dword_ptr(esp + 4))?;
        a.lea(ebp, eax + edx * 2 - 1)?;
        a.ret_1(8)
    });
    assert_eq!((registers[0], registers[2], registers[5]), (11, 22, 54));
    assert_eq!(registers[4], STACK);
}

#[test]
fn string_instructions_stop_where_they_should() {
    let registers = registers(|a| {
        a.mov(eax, 0x0101_0101)?;
        a.mov(edi, 0x4000)?;
        a.mov(ecx, 700)?;
        a.rep().stosd()?;
        a.mov(dword_ptr(0x4000 + 4 * 600), 0)?;
        a.mov(edi, 0x4004)?;
        a.mov(iced_x86::code_asm::esi, 0x4000)?;
        a.mov(ecx, 699)?;
        a.repe().cmpsd()?;
        a.hlt()
    });
    // The 600th comparison is of word 599 with word 600.
    assert_eq!((registers[1], registers[6]), (99, 0x4000 + 4 * 600));
}

#[test]
fn a_halt_with_interrupts_on_waits_for_one() {
    let ram = Ram(RefCell::new(vec![0xfb, 0xf4, 0xf4]));
    let (interrupts, stop) = (Interrupts::new(), AtomicBool::new(false));
    let mut vcpu = SoftVcpu::new(0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            // The APIC is off: the vector is dropped.
            interrupts.inject(0x40);
            std::thread::sleep(std::time::Duration::from_millis(5));
            stop.store(true, Ordering::Release);
        });
        assert_eq!(vcpu.run(&ram, &interrupts, &stop), Exit::Stopped);
    });
    let state = vcpu.state(&interrupts);
    assert!(state.halted && state.lapic.requested == [0; 8]);
}
