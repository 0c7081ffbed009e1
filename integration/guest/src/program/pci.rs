// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PCI config space by mechanism 1, a doubleword at a time.
//!
//! `eax` is the config address. `pci_read` answers in `eax`; `pci_write` takes the value in `ecx`. Both change `edx`.

use iced_x86::code_asm::{dx, eax, ecx, edx};

use super::{Emit, Program};

const CONFIG_ADDRESS: u32 = 0xcf8;
const CONFIG_DATA: u32 = 0xcfc;

impl Program {
    pub(super) fn pci(&mut self) -> Emit {
        let a = &mut self.a;
        a.set_label(&mut self.routines.pci_read)?;
        a.mov(edx, CONFIG_ADDRESS)?;
        a.out(dx, eax)?;
        a.mov(edx, CONFIG_DATA)?;
        a.in_(eax, dx)?;
        a.ret()?;

        a.set_label(&mut self.routines.pci_write)?;
        a.mov(edx, CONFIG_ADDRESS)?;
        a.out(dx, eax)?;
        a.mov(edx, CONFIG_DATA)?;
        a.mov(eax, ecx)?;
        a.out(dx, eax)?;
        a.ret()
    }
}
