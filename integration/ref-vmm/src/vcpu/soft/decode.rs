// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From bytes to operations, and the cache of what has been decoded.
//!
//! An instruction that cannot be expressed as an [`Operation`] is refused with its name.

use iced_x86::{Decoder, DecoderOptions, Instruction as Iced, Mnemonic, OpKind, Register};

use super::flags::{Binary, Condition, Shift, Unary, Width};
use super::operation::{Address, Instruction, Operation, Place, Source};
use super::{Bus, Fault};

/// Longest x86 instruction.
const LONGEST: usize = 15;
/// Entries of the cache, a power of two above the guest's code size.
const ENTRIES: usize = 1 << 13;

/// Decoded instructions by their address.
pub(super) struct Cache(Vec<Option<(u32, Instruction)>>);

impl Cache {
    pub fn new() -> Self {
        Self(vec![None; ENTRIES])
    }

    /// The instruction at `eip`.
    pub fn fetch(&mut self, eip: u32, bus: &dyn Bus) -> Result<Instruction, Fault> {
        let entry = &mut self.0[eip as usize % ENTRIES];
        if let Some((address, instruction)) = entry
            && *address == eip
        {
            return Ok(*instruction);
        }
        let instruction = read_and_decode(eip, bus)?;
        *entry = Some((eip, instruction));
        Ok(instruction)
    }
}

fn read_and_decode(eip: u32, bus: &dyn Bus) -> Result<Instruction, Fault> {
    let mut bytes = [0; LONGEST];
    // Memory may end after the instruction.
    let size = (1..=LONGEST)
        .rev()
        .find(|&size| bus.read_memory(eip, &mut bytes[..size]))
        .ok_or(Fault::Fetch)?;
    decode(eip, &bytes[..size])
}

/// Decodes the instruction that `bytes` begins with.
pub(super) fn decode(eip: u32, bytes: &[u8]) -> Result<Instruction, Fault> {
    let iced = Decoder::with_ip(32, bytes, eip.into(), DecoderOptions::NONE).decode();
    if iced.is_invalid() {
        return Err(Fault::Instruction(format!("of bytes {bytes:02x?}")));
    }
    let refused = || Fault::Instruction(iced.op_code().instruction_string().to_owned());
    if iced.has_lock_prefix() || iced.segment_prefix() != Register::None {
        return Err(refused());
    }
    Ok(Instruction {
        operation: operation(&iced).ok_or_else(refused)?,
        next: iced.next_ip32(),
    })
}

fn operation(iced: &Iced) -> Option<Operation> {
    use Operation as Op;
    let repeated = iced.has_rep_prefix();
    if iced.has_repne_prefix() || (repeated && !iced.is_string_instruction()) {
        return None;
    }
    let (a, b) = (0, 1);
    Some(match iced.mnemonic() {
        Mnemonic::Mov if iced.op0_register().is_segment_register() => {
            Op::LoadSegment(iced.op0_register().number() as u8, segment_source(iced)?)
        }
        Mnemonic::Mov => Op::Move(width(iced)?, place(iced)?, source(iced, b)?),
        Mnemonic::Lea => Op::LoadAddress(dword_register(iced.op0_register())?, address(iced)?),
        Mnemonic::Add => binary(iced, Binary::Add)?,
        Mnemonic::Sub => binary(iced, Binary::Subtract)?,
        Mnemonic::And => binary(iced, Binary::And)?,
        Mnemonic::Or => binary(iced, Binary::Or)?,
        Mnemonic::Xor => binary(iced, Binary::Xor)?,
        Mnemonic::Cmp => Op::Compare(
            Binary::Subtract,
            width(iced)?,
            place(iced)?,
            source(iced, b)?,
        ),
        Mnemonic::Test => Op::Compare(Binary::And, width(iced)?, place(iced)?, source(iced, b)?),
        Mnemonic::Inc => Op::Unary(Unary::Increment, width(iced)?, place(iced)?),
        Mnemonic::Dec => Op::Unary(Unary::Decrement, width(iced)?, place(iced)?),
        Mnemonic::Not => Op::Unary(Unary::Not, width(iced)?, place(iced)?),
        Mnemonic::Shl => shift(iced, Shift::Left)?,
        Mnemonic::Shr => shift(iced, Shift::Right)?,
        Mnemonic::Rol => shift(iced, Shift::RotateLeft)?,
        Mnemonic::Imul => multiply(iced)?,
        Mnemonic::Div if width(iced)? == Width::Dword => Op::Divide(source(iced, a)?),
        Mnemonic::Push if iced.stack_pointer_increment() == -4 => Op::Push(source(iced, a)?),
        Mnemonic::Pop => Op::Pop(dword_register(iced.op0_register())?),
        Mnemonic::Popfd => Op::PopFlags,
        Mnemonic::Call => Op::Call(near_target(iced)?),
        Mnemonic::Ret if iced.stack_pointer_increment() >= 4 => Op::Return {
            drop: if iced.op_count() == 1 {
                iced.immediate16()
            } else {
                0
            },
        },
        Mnemonic::Jmp if iced.op0_kind() == OpKind::FarBranch32 => {
            Op::FarJump(iced.far_branch_selector(), iced.far_branch32())
        }
        Mnemonic::Jmp => Op::Jump(near_target(iced)?),
        // The first condition of iced's enum is "none"; then they come in the order of their opcodes.
        _ if iced.is_jcc_short_or_near() => Op::JumpIf(
            Condition(iced.condition_code() as u8 - 1),
            near_target(iced)?,
        ),
        Mnemonic::Lgdt => Op::LoadGdt(address(iced)?),
        Mnemonic::Lidt => Op::LoadIdt(address(iced)?),
        Mnemonic::In => Op::In(register(iced.op0_register())?.0, port(iced, b)?),
        Mnemonic::Out => Op::Out(register(iced.op1_register())?.0, port(iced, a)?),
        Mnemonic::Stosd if iced.op0_kind() == OpKind::MemoryESEDI => Op::StoreString { repeated },
        Mnemonic::Cmpsd if iced.op0_kind() == OpKind::MemorySegESI => {
            Op::CompareStrings { repeated }
        }
        Mnemonic::Cli => Op::ClearInterrupts,
        Mnemonic::Sti => Op::SetInterrupts,
        Mnemonic::Cld => Op::ClearDirection,
        Mnemonic::Hlt => Op::Halt,
        Mnemonic::Nop if iced.op_count() == 0 => Op::Nothing,
        _ => return None,
    })
}

fn binary(iced: &Iced, operation: Binary) -> Option<Operation> {
    Some(Operation::Binary(
        operation,
        width(iced)?,
        place(iced)?,
        source(iced, 1)?,
    ))
}

fn shift(iced: &Iced, operation: Shift) -> Option<Operation> {
    Some(Operation::Shift(
        operation,
        width(iced)?,
        place(iced)?,
        source(iced, 1)?,
    ))
}

fn multiply(iced: &Iced) -> Option<Operation> {
    let first = match iced.op_count() {
        2 => 0,
        3 => 1,
        _ => return None,
    };
    let (a, b) = (source(iced, first)?, source(iced, first + 1)?);
    Some(Operation::Multiply(
        dword_register(iced.op0_register())?,
        a,
        b,
    ))
}

/// Of the first operand.
fn width(iced: &Iced) -> Option<Width> {
    match iced.op0_kind() {
        OpKind::Register => Some(register(iced.op0_register())?.0),
        OpKind::Memory => match iced.memory_size().size() {
            1 => Some(Width::Byte),
            2 => Some(Width::Word),
            4 => Some(Width::Dword),
            _ => None,
        },
        _ => None,
    }
}

fn place(iced: &Iced) -> Option<Place> {
    match source(iced, 0)? {
        Source::Register(number) => Some(Place::Register(number)),
        Source::Memory(address) => Some(Place::Memory(address)),
        Source::Constant(_) => None,
    }
}

fn source(iced: &Iced, operand: u32) -> Option<Source> {
    Some(match iced.op_kind(operand) {
        OpKind::Register => Source::Register(register(iced.op_register(operand))?.1),
        OpKind::Memory => Source::Memory(address(iced)?),
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32 => Source::Constant(iced.immediate(operand) as u32),
        _ => return None,
    })
}

/// The low word of a general register, whatever the operand size says.
fn segment_source(iced: &Iced) -> Option<Source> {
    match iced.op1_kind() {
        OpKind::Register => Some(Source::Register(register(iced.op1_register())?.1)),
        _ => None,
    }
}

fn port(iced: &Iced, operand: u32) -> Option<Source> {
    source(iced, operand).filter(|port| !matches!(port, Source::Memory(_)))
}

fn near_target(iced: &Iced) -> Option<u32> {
    (iced.op0_kind() == OpKind::NearBranch32).then(|| iced.near_branch32())
}

fn address(iced: &Iced) -> Option<Address> {
    let part = |register| match register {
        Register::None => Some(None),
        _ => dword_register(register).map(Some),
    };
    // 16-bit addressing is not in the subset; without registers its displacement tells it.
    if iced.memory_displ_size() == 2 {
        return None;
    }
    Some(Address {
        base: part(iced.memory_base())?,
        index: part(iced.memory_index())?,
        scale: iced.memory_index_scale().trailing_zeros() as u8,
        displacement: iced.memory_displacement32(),
    })
}

fn dword_register(register_: Register) -> Option<u8> {
    register(register_)
        .filter(|(width, _)| *width == Width::Dword)
        .map(|(_, number)| number)
}

/// A general register's width and number.
fn register(register: Register) -> Option<(Width, u8)> {
    let width = match register {
        _ if register.is_gpr8() => Width::Byte,
        _ if register.is_gpr16() => Width::Word,
        _ if register.is_gpr32() => Width::Dword,
        _ => return None,
    };
    Some((width, register.number() as u8))
}
