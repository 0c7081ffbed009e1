// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Round-robin over the VFs, for ever: fill each up with jobs, verify its oldest.

use iced_x86::code_asm::{eax, ebp};

use super::{Emit, Program, fixed, variable};
use crate::layout::{CONTEXT_SIZE, CONTEXTS, IN_FLIGHT, VF_COUNT, control};

impl Program {
    pub(super) fn main_loop(&mut self) -> Emit {
        let (submit, verify, main) = (
            self.routines.submit,
            self.routines.verify,
            self.routines.main,
        );
        let a = &mut self.a;
        let mut each = a.create_label();
        let mut full = a.create_label();

        a.set_label(&mut self.routines.main)?;
        a.mov(ebp, CONTEXTS)?;
        a.set_label(&mut each)?;
        a.mov(eax, variable(control::SUBMITTED))?;
        a.sub(eax, variable(control::VERIFIED))?;
        a.cmp(eax, IN_FLIGHT)?;
        a.jae(full)?;
        a.call(submit)?;
        a.jmp(each)?;
        a.set_label(&mut full)?;
        a.call(verify)?;
        a.mov(eax, fixed(VF_COUNT))?;
        a.shl(eax, CONTEXT_SIZE.trailing_zeros())?;
        a.add(eax, CONTEXTS)?;
        a.add(ebp, CONTEXT_SIZE)?;
        a.cmp(ebp, eax)?;
        a.jb(each)?;
        a.jmp(main)
    }
}
