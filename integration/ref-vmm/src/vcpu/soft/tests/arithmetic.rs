// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Results and flags of every arithmetic instruction, against the processor that runs the test.

use super::super::flags::{
    self, ADJUST, Binary, CARRY, Condition, OVERFLOW, PARITY, SIGN, STATUS, Shift, Unary, Width,
    ZERO,
};

/// Values around every edge, and a good many others.
fn operands() -> Vec<u32> {
    let edges = [
        0,
        1,
        2,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        u32::MAX,
    ];
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    edges.into_iter().chain((0..300).map(|_| next())).collect()
}

fn pairs() -> impl Iterator<Item = (u32, u32)> {
    let operands = operands();
    operands
        .clone()
        .into_iter()
        .flat_map(move |a| operands.clone().into_iter().map(move |b| (a, b)))
}

/// Runs `instruction a, b` on the processor: the result, and the status flags, which are `$flags` before.
#[cfg(target_arch = "x86_64")]
macro_rules! on_the_processor {
    ($instruction:expr, $class:ident, $a:expr, $b:expr, $flags:expr) => {{
        let (mut result, mut flags) = ($a, u64::from($flags));
        #[allow(unsafe_code)] // The processor is the oracle.
        // SAFETY: register arithmetic only; the flags pushed and popped are status flags over the fixed bit, with
        // interrupts as the kernel keeps them whatever is popped; the stack is as before at the end.
        unsafe {
            std::arch::asm!(
                "push {flags}", "popfq", $instruction, "pushfq", "pop {flags}",
                a = inout($class) result, b = in($class) $b, flags = inout(reg) flags,
            );
        }
        (result, flags as u32 & STATUS)
    }};
}

#[cfg(target_arch = "x86_64")]
#[track_caller]
fn agree(what: &str, operands: (u32, u32), ours: (u32, u32), processor: (u32, u32), defined: u32) {
    assert_eq!(
        (ours.0, ours.1 & defined),
        (processor.0, processor.1 & defined),
        "{what} of {operands:08x?}"
    );
}

/// Binary operations at 32 and at 8 bits.
#[cfg(target_arch = "x86_64")]
macro_rules! binary_agrees {
    ($test:ident, $operation:expr, $instruction:literal, $part:literal, $defined:expr) => {
        #[test]
        fn $test() {
            for (a, b) in pairs() {
                let before = flags::FIXED | a & STATUS;
                let mut after = before;
                let result = flags::binary($operation, a, b, Width::Dword, &mut after);
                let processor = on_the_processor!($instruction, reg, a, b, before);
                agree($instruction, (a, b), (result, after), processor, $defined);

                let (a, b) = (a as u8, b as u8);
                let mut after = before;
                let result = flags::binary($operation, a.into(), b.into(), Width::Byte, &mut after);
                let (byte, status) = on_the_processor!($part, reg_byte, a, b, before);
                agree(
                    $part,
                    (a.into(), b.into()),
                    (result, after),
                    (byte.into(), status),
                    $defined,
                );
            }
        }
    };
}

/// `and`, `or` and `xor` leave the adjust flag undefined.
#[cfg(target_arch = "x86_64")]
const LOGIC: u32 = STATUS & !ADJUST;

#[cfg(target_arch = "x86_64")]
mod processor {
    use super::*;

    binary_agrees!(
        add_agrees,
        Binary::Add,
        "add {a:e}, {b:e}",
        "add {a}, {b}",
        STATUS
    );
    binary_agrees!(
        sub_agrees,
        Binary::Subtract,
        "sub {a:e}, {b:e}",
        "sub {a}, {b}",
        STATUS
    );
    binary_agrees!(
        and_agrees,
        Binary::And,
        "and {a:e}, {b:e}",
        "and {a}, {b}",
        LOGIC
    );
    binary_agrees!(
        or_agrees,
        Binary::Or,
        "or {a:e}, {b:e}",
        "or {a}, {b}",
        LOGIC
    );
    binary_agrees!(
        xor_agrees,
        Binary::Xor,
        "xor {a:e}, {b:e}",
        "xor {a}, {b}",
        LOGIC
    );

    #[test]
    fn inc_dec_and_not_agree() {
        for (a, b) in pairs() {
            let before = flags::FIXED | b & STATUS;
            let ours = |operation| {
                let mut after = before;
                (flags::unary(operation, a, Width::Dword, &mut after), after)
            };
            let inc = on_the_processor!("inc {a:e} /* {b:e} */", reg, a, b, before);
            agree("inc", (a, b), ours(Unary::Increment), inc, STATUS);
            let dec = on_the_processor!("dec {a:e} /* {b:e} */", reg, a, b, before);
            agree("dec", (a, b), ours(Unary::Decrement), dec, STATUS);
            let not = on_the_processor!("not {a:e} /* {b:e} */", reg, a, b, before);
            agree("not", (a, b), ours(Unary::Not), not, STATUS);
        }
    }

    #[test]
    fn shifts_and_rotations_agree() {
        macro_rules! by_count {
            ($a:expr, $before:expr, $($count:literal)*) => {$(
                let (a, before): (u32, u32) = ($a, $before);
                let once = if $count == 1 { OVERFLOW } else { 0 };
                let ours = |operation| {
                    let mut after = before;
                    (flags::shift(operation, a, $count, Width::Dword, &mut after), after)
                };
                // Nothing changes for a count of 0; the overflow flag is defined for a count of 1.
                let defined = if $count & 31 == 0 { STATUS } else { LOGIC & !OVERFLOW | once };
                let shl = on_the_processor!(concat!("shl {a:e}, ", $count, " /* {b:e} */"), reg, a, a, before);
                agree("shl", (a, $count), ours(Shift::Left), shl, defined);
                let shr = on_the_processor!(concat!("shr {a:e}, ", $count, " /* {b:e} */"), reg, a, a, before);
                agree("shr", (a, $count), ours(Shift::Right), shr, defined);
                let rotated = STATUS & !OVERFLOW | if $count & 31 == 0 { OVERFLOW } else { once };
                let rol = on_the_processor!(concat!("rol {a:e}, ", $count, " /* {b:e} */"), reg, a, a, before);
                agree("rol", (a, $count), ours(Shift::RotateLeft), rol, rotated);
            )*};
        }
        for a in operands() {
            by_count!(a, flags::FIXED | a >> 3 & STATUS, 0 1 2 4 5 8 15 16 17 24 30 31 32 33);
        }
    }

    #[test]
    fn imul_agrees() {
        for (a, b) in pairs() {
            let before = flags::FIXED | a & STATUS;
            let mut after = before;
            let result = flags::multiply(a, b, &mut after);
            let processor = on_the_processor!("imul {a:e}, {b:e}", reg, a, b, before);
            agree("imul", (a, b), (result, after), processor, CARRY | OVERFLOW);
        }
    }
}

#[test]
fn conditions_are_what_a_comparison_means() {
    for (a, b) in pairs() {
        let mut flags = flags::FIXED;
        flags::binary(Binary::Subtract, a, b, Width::Dword, &mut flags);
        let (signed_a, signed_b) = (a as i32, b as i32);
        let difference = signed_a.wrapping_sub(signed_b);
        let meaning = [
            signed_a.checked_sub(signed_b).is_none(),
            a < b,
            a == b,
            a <= b,
            difference < 0,
            (difference as u8).count_ones().is_multiple_of(2),
            signed_a < signed_b,
            signed_a <= signed_b,
        ];
        for (number, holds) in (0u8..).step_by(2).zip(meaning) {
            assert_eq!(
                Condition(number).holds(flags),
                holds,
                "{number} of {a:#x}, {b:#x}"
            );
            assert_eq!(
                Condition(number + 1).holds(flags),
                !holds,
                "{} of {a:#x}, {b:#x}",
                number + 1
            );
        }
    }
}

#[test]
fn the_status_flags_are_those_of_the_processor() {
    assert_eq!(CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW, 0x8d5);
}
