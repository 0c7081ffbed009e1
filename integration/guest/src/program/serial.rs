// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes to COM1, and the end of the guest after a failure.
//!
//! An emulated UART takes a byte at any time, so nothing waits for it. The printing routines take `eax` (a number) or
//! `esi` (a string) and change `eax`, `ecx`, `edx` and `esi`.

use iced_x86::code_asm::{al, byte_ptr, dx, eax, ebx, ecx, edx, esi};

use super::{Emit, Program, Value, variable};
use crate::layout::control;

const COM1: u32 = 0x3f8;

impl Program {
    /// Prints a constant string.
    pub(super) fn print(&mut self, text: &str) -> Emit {
        let address = self.strings.address(text);
        self.a.mov(esi, address)?;
        self.a.call(self.routines.print_text)
    }

    pub(super) fn serial(&mut self) -> Emit {
        self.text_routine()?;
        self.decimal_routine()?;
        self.hex_routine()?;
        self.fail_routine()
    }

    fn text_routine(&mut self) -> Emit {
        let a = &mut self.a;
        let mut each = a.create_label();
        let mut end = a.create_label();
        a.set_label(&mut self.routines.print_text)?;
        a.mov(edx, COM1)?;
        a.set_label(&mut each)?;
        a.mov(al, byte_ptr(esi))?;
        a.test(al, al)?;
        a.je(end)?;
        a.out(dx, al)?;
        a.inc(esi)?;
        a.jmp(each)?;
        a.set_label(&mut end)?;
        a.ret()
    }

    fn decimal_routine(&mut self) -> Emit {
        let a = &mut self.a;
        let mut divide = a.create_label();
        let mut show = a.create_label();
        a.set_label(&mut self.routines.print_decimal)?;
        a.mov(esi, 10u32)?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut divide)?;
        a.xor(edx, edx)?;
        a.div(esi)?;
        a.push(edx)?;
        a.inc(ecx)?;
        a.test(eax, eax)?;
        a.jne(divide)?;
        a.mov(edx, COM1)?;
        a.set_label(&mut show)?;
        a.pop(eax)?;
        a.add(eax, u32::from(b'0'))?;
        a.out(dx, al)?;
        a.dec(ecx)?;
        a.jne(show)?;
        a.ret()
    }

    /// Always eight digits.
    fn hex_routine(&mut self) -> Emit {
        let a = &mut self.a;
        let mut each = a.create_label();
        let mut digit = a.create_label();
        a.set_label(&mut self.routines.print_hex)?;
        a.mov(esi, eax)?;
        a.mov(ecx, 8u32)?;
        a.mov(edx, COM1)?;
        a.set_label(&mut each)?;
        a.rol(esi, 4)?;
        a.mov(eax, esi)?;
        a.and(eax, 15)?;
        a.add(eax, u32::from(b'0'))?;
        a.cmp(eax, u32::from(b'9'))?;
        a.jbe(digit)?;
        a.add(eax, u32::from(b'a' - b'9' - 1))?;
        a.set_label(&mut digit)?;
        a.out(dx, al)?;
        a.dec(ecx)?;
        a.jne(each)?;
        a.ret()
    }

    /// On the stack from the top: name of the kind, the value expected, the value got.
    fn fail_routine(&mut self) -> Emit {
        self.a.set_label(&mut self.routines.fail)?;
        self.a.cli()?;
        self.print("FAIL vf")?;
        self.a.mov(eax, variable(control::INDEX))?;
        self.a.call(self.routines.print_decimal)?;
        self.print(" job ")?;
        self.a.mov(eax, ebx)?;
        self.a.call(self.routines.print_decimal)?;
        self.print(" ")?;
        self.a.pop(esi)?;
        self.a.call(self.routines.print_text)?;
        for label in [" expected 0x", " got 0x"] {
            self.print(label)?;
            self.a.pop(eax)?;
            self.a.call(self.routines.print_hex)?;
        }
        self.print("\n")?;
        let again = self.routines.halt;
        self.a.set_label(&mut self.routines.halt)?;
        self.a.cli()?;
        self.a.hlt()?;
        self.a.jmp(again)
    }

    /// The places that the checks jump to.
    pub(super) fn failure_reports(&mut self) -> Emit {
        for mut failure in std::mem::take(&mut self.failures) {
            let name = self.strings.address(failure.kind.name());
            self.a.set_label(&mut failure.label)?;
            self.push(failure.got)?;
            self.push(failure.expected)?;
            self.a.push(name)?;
            if failure.kind.is_before_the_first_job() {
                self.a.xor(ebx, ebx)?;
            }
            self.a.jmp(self.routines.fail)?;
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Emit {
        match value {
            Value::Register(register) => self.a.push(register),
            Value::Memory(operand) => self.a.push(operand),
            Value::Constant(constant) => self.a.push(constant),
        }
    }
}
