// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest program, routine by routine.
//!
//! Conventions: `ebp` is the context of the VF at work, `ebx` the job at work (0 before the first). Routines change
//! any other register. Interrupts are on but in the start-up and around the check before `hlt`. Inner loops are
//! unrolled, since every instruction may have to be emulated by KVM.

mod interrupt;
mod main_loop;
mod pci;
mod serial;
mod setup;
mod stand_in;
mod start;
mod submit;
mod verify;

use iced_x86::code_asm::{
    AsmMemoryOperand, AsmRegister32, CodeAssembler, CodeLabel, dword_ptr, ebp,
};
use iced_x86::{BlockEncoderOptions, IcedError};

use crate::layout::{CODE, CODE_SIZE, context};
use crate::report::Kind;
use crate::tables::Strings;

type Emit = Result<(), IcedError>;

/// Distance of two words of a source block, odd.
pub(crate) const SOURCE_STEP: u32 = 0x6c07_8965;
/// Makes a job's first source word from its number.
pub(crate) const JOB_FACTOR: u32 = 0x9e37_79b1;
/// Makes a VF's seed from its position.
pub(crate) const VF_FACTOR: u32 = 0x85eb_ca77;

/// Code at [`CODE`] and what the tables need to know of it.
pub(crate) struct Assembled {
    pub code: Vec<u8>,
    pub strings: Strings,
    /// Interrupt vectors and the addresses of their handlers.
    pub handlers: Vec<(u8, u32)>,
}

/// Where a failure's report finds a value.
#[derive(Clone, Copy)]
enum Value {
    Register(AsmRegister32),
    Memory(AsmMemoryOperand),
    Constant(u32),
}

struct Failure {
    label: CodeLabel,
    kind: Kind,
    expected: Value,
    got: Value,
}

struct Routines {
    main: CodeLabel,
    pci_read: CodeLabel,
    pci_write: CodeLabel,
    set_up_vf: CodeLabel,
    set_up_stand_in: CodeLabel,
    stand_in: CodeLabel,
    submit: CodeLabel,
    verify: CodeLabel,
    print_text: CodeLabel,
    print_decimal: CodeLabel,
    print_hex: CodeLabel,
    fail: CodeLabel,
    halt: CodeLabel,
}

struct Program {
    a: CodeAssembler,
    strings: Strings,
    routines: Routines,
    failures: Vec<Failure>,
    handlers: Vec<(u8, CodeLabel)>,
}

/// Assembles the program for [`CODE`].
pub(crate) fn assemble() -> Result<Assembled, IcedError> {
    let mut code = start::trampoline()?;
    let mut program = Program::new()?;
    program.start()?;
    program.main_loop()?;
    program.submit()?;
    program.verify()?;
    program.set_up_vf()?;
    program.stand_in()?;
    program.pci()?;
    program.serial()?;
    program.interrupts()?;
    program.failure_reports()?;

    let main = program.a.assemble_options(
        start::MAIN.into(),
        BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS,
    )?;
    let mut handlers = Vec::new();
    for (vector, label) in &program.handlers {
        // All code is below 4 GiB.
        handlers.push((*vector, main.label_ip(label)? as u32));
    }
    code.resize((start::MAIN - CODE) as usize, 0);
    code.extend(main.inner.code_buffer);
    assert!(
        code.len() <= CODE_SIZE as usize,
        "the code outgrew its place"
    );
    Ok(Assembled {
        code,
        strings: program.strings,
        handlers,
    })
}

/// The variable of the VF at work.
fn variable(offset: u32) -> AsmMemoryOperand {
    at(ebp, context::CONTROL + offset)
}

/// The doubleword at `base` plus `offset`.
fn at(base: AsmRegister32, offset: u32) -> AsmMemoryOperand {
    dword_ptr(base + offset)
}

/// The doubleword at a fixed address.
fn fixed(address: u32) -> AsmMemoryOperand {
    dword_ptr(u64::from(address))
}

impl Program {
    fn new() -> Result<Self, IcedError> {
        let mut a = CodeAssembler::new(32)?;
        let routines = Routines {
            main: a.create_label(),
            pci_read: a.create_label(),
            pci_write: a.create_label(),
            set_up_vf: a.create_label(),
            set_up_stand_in: a.create_label(),
            stand_in: a.create_label(),
            submit: a.create_label(),
            verify: a.create_label(),
            print_text: a.create_label(),
            print_decimal: a.create_label(),
            print_hex: a.create_label(),
            fail: a.create_label(),
            halt: a.create_label(),
        };
        Ok(Self {
            a,
            strings: Strings::default(),
            routines,
            failures: Vec::new(),
            handlers: Vec::new(),
        })
    }

    /// A place to jump to in order to report `kind` about job `ebx` of the VF at work, and stop.
    fn failure(&mut self, kind: Kind, expected: Value, got: Value) -> CodeLabel {
        let label = self.a.create_label();
        self.failures.push(Failure {
            label,
            kind,
            expected,
            got,
        });
        label
    }

    /// Reports `kind` unless the two agree. Changes flags only.
    fn require_equal(&mut self, expected: AsmRegister32, got: AsmRegister32, kind: Kind) -> Emit {
        let label = self.failure(kind, Value::Register(expected), Value::Register(got));
        self.a.cmp(expected, got)?;
        self.a.jne(label)
    }
}
