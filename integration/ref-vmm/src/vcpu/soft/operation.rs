// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The subset of x86, as a closed enum: what an instruction does, its operands found.

use super::flags::{Binary, Condition, Shift, Unary, Width};

/// base + index * 2^scale + displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub base: Option<u8>,
    pub index: Option<u8>,
    pub scale: u8,
    pub displacement: u32,
}

/// An operand that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Register(u8),
    Memory(Address),
    Constant(u32),
}

/// An operand that is written, or read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Register(u8),
    Memory(Address),
}

/// What an instruction does. Jump targets are absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Move(Width, Place, Source),
    LoadAddress(u8, Address),
    Binary(Binary, Width, Place, Source),
    /// `cmp` and `test`: flags only.
    Compare(Binary, Width, Place, Source),
    Unary(Unary, Width, Place),
    Shift(Shift, Width, Place, Source),
    Multiply(u8, Source, Source),
    /// edx:eax by a doubleword.
    Divide(Source),
    Push(Source),
    Pop(u8),
    PopFlags,
    Jump(u32),
    JumpIf(Condition, u32),
    Call(u32),
    Return {
        drop: u16,
    },
    FarJump(u16, u32),
    LoadSegment(u8, Source),
    LoadGdt(Address),
    LoadIdt(Address),
    In(Width, Source),
    Out(Width, Source),
    /// `stosd`, with `rep` or alone.
    StoreString {
        repeated: bool,
    },
    /// `cmpsd`, with `repe` or alone.
    CompareStrings {
        repeated: bool,
    },
    ClearInterrupts,
    SetInterrupts,
    ClearDirection,
    Halt,
    Nothing,
}

/// An operation and where the next instruction begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    pub operation: Operation,
    pub next: u32,
}
