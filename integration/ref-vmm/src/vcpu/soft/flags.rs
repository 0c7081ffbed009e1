// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arithmetic with the flags it leaves, as the processor defines them.
//!
//! Each function takes operands of `width` in the low bits and answers the result there. Where the architecture leaves
//! a flag undefined, it is cleared or kept; the guest depends on none of these.

pub(super) const CARRY: u32 = 1 << 0;
/// Always 1 in EFLAGS.
pub(super) const FIXED: u32 = 1 << 1;
pub(super) const PARITY: u32 = 1 << 2;
pub(super) const ADJUST: u32 = 1 << 4;
pub(super) const ZERO: u32 = 1 << 6;
pub(super) const SIGN: u32 = 1 << 7;
pub(super) const INTERRUPT: u32 = 1 << 9;
pub(super) const DIRECTION: u32 = 1 << 10;
pub(super) const OVERFLOW: u32 = 1 << 11;
/// The flags that arithmetic writes.
pub(super) const STATUS: u32 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;
/// All flags that this vCPU has.
pub(super) const MODELLED: u32 = STATUS | FIXED | INTERRUPT | DIRECTION;

/// Operand size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Byte,
    Word,
    Dword,
}

impl Width {
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    const fn bits(self) -> u32 {
        8 * self.bytes() as u32
    }

    pub const fn mask(self) -> u32 {
        u32::MAX >> (32 - self.bits())
    }

    const fn sign(self) -> u32 {
        1 << (self.bits() - 1)
    }
}

/// Two-operand arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    /// Also `cmp`, which drops the result.
    Subtract,
    /// Also `test`.
    And,
    Or,
    Xor,
}

/// One-operand arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Increment,
    Decrement,
    Not,
}

/// Shifts and rotations by a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    Left,
    Right,
    RotateLeft,
}

const fn when(condition: bool, flag: u32) -> u32 {
    if condition { flag } else { 0 }
}

/// Zero, sign and parity of a result.
fn of_result(result: u32, width: Width) -> u32 {
    when(result == 0, ZERO)
        | when(result & width.sign() != 0, SIGN)
        | when((result as u8).count_ones().is_multiple_of(2), PARITY)
}

fn replace(flags: &mut u32, which: u32, values: u32) {
    *flags = *flags & !which | values;
}

pub(super) fn binary(operation: Binary, a: u32, b: u32, width: Width, flags: &mut u32) -> u32 {
    let (result, carry, overflow) = match operation {
        Binary::Add => {
            let sum = a.wrapping_add(b) & width.mask();
            (sum, sum < a, (a ^ sum) & (b ^ sum) & width.sign() != 0)
        }
        Binary::Subtract => {
            let difference = a.wrapping_sub(b) & width.mask();
            (
                difference,
                a < b,
                (a ^ b) & (a ^ difference) & width.sign() != 0,
            )
        }
        Binary::And => (a & b, false, false),
        Binary::Or => (a | b, false, false),
        Binary::Xor => (a ^ b, false, false),
    };
    let adjust = match operation {
        Binary::Add | Binary::Subtract => (a ^ b ^ result) & ADJUST,
        _ => 0,
    };
    let values = of_result(result, width) | when(carry, CARRY) | when(overflow, OVERFLOW) | adjust;
    replace(flags, STATUS, values);
    result
}

pub(super) fn unary(operation: Unary, a: u32, width: Width, flags: &mut u32) -> u32 {
    let kept = *flags & CARRY;
    let step = match operation {
        Unary::Increment => Binary::Add,
        Unary::Decrement => Binary::Subtract,
        Unary::Not => return !a & width.mask(),
    };
    let result = binary(step, a, 1, width, flags);
    replace(flags, CARRY, kept);
    result
}

pub(super) fn shift(operation: Shift, a: u32, count: u8, width: Width, flags: &mut u32) -> u32 {
    let count = u32::from(count) & 31;
    if count == 0 {
        return a;
    }
    let (bits, wide) = (width.bits(), u64::from(a));
    match operation {
        Shift::Left => {
            let shifted = wide << count;
            let result = shifted as u32 & width.mask();
            let carry = shifted >> bits & 1 != 0;
            let overflow = (result & width.sign() != 0) != carry;
            let values = of_result(result, width) | when(carry, CARRY) | when(overflow, OVERFLOW);
            replace(flags, STATUS, values);
            result
        }
        Shift::Right => {
            let result = (wide >> count) as u32;
            let carry = wide >> (count - 1) & 1 != 0;
            let values = of_result(result, width)
                | when(carry, CARRY)
                | when(a & width.sign() != 0, OVERFLOW);
            replace(flags, STATUS, values);
            result
        }
        Shift::RotateLeft => {
            let turn = count % bits;
            let result = (wide << turn | wide >> (bits - turn)) as u32 & width.mask();
            let carry = result & 1 != 0;
            let overflow = (result & width.sign() != 0) != carry;
            replace(
                flags,
                CARRY | OVERFLOW,
                when(carry, CARRY) | when(overflow, OVERFLOW),
            );
            result
        }
    }
}

/// Signed multiplication, low half.
pub(super) fn multiply(a: u32, b: u32, flags: &mut u32) -> u32 {
    let product = i64::from(a as i32) * i64::from(b as i32);
    let result = product as u32;
    let lost = i64::from(result as i32) != product;
    replace(flags, CARRY | OVERFLOW, when(lost, CARRY | OVERFLOW));
    result
}

/// What a conditional jump asks of the flags, by the number in its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition(pub u8);

impl Condition {
    pub fn holds(self, flags: u32) -> bool {
        let set = |flag| flags & flag != 0;
        let plain = match self.0 >> 1 {
            0 => set(OVERFLOW),
            1 => set(CARRY),
            2 => set(ZERO),
            3 => set(CARRY | ZERO),
            4 => set(SIGN),
            5 => set(PARITY),
            6 => set(SIGN) != set(OVERFLOW),
            _ => set(ZERO) || set(SIGN) != set(OVERFLOW),
        };
        plain != (self.0 & 1 != 0)
    }
}
