// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Takes one VF into use: context cleared, memory and bus mastering on, MSI-X, GGTT, ring.
//!
//! Entered with the config address in `ebx` and BAR0 in `esi`; `edi` is the MSI-X capability once it is found.

use iced_x86::code_asm::{al, eax, ebp, ebx, ecx, edi, edx, esi};

use super::{Emit, Program, VF_FACTOR, Value, at, fixed, variable};
use crate::abi::{ACC_RESET, GGTT, ID_VALUE, PTE_VALID, reg};
use crate::layout::{CONTEXT_SIZE, CONTEXTS, FIRST_VECTOR, SLOTS, VF_COUNT, context, control};
use crate::report::Kind;

pub(super) const COMMAND: u32 = 0x04;
const COMMAND_MEMORY_AND_MASTER: u32 = 0x6;
pub(super) const CAPABILITIES: u32 = 0x34;
const CAPABILITY_MSIX: u32 = 0x11;
const MSIX_ENABLE: u32 = 0x8000_0000;
const MSIX_FUNCTION_MASK: u32 = 0x4000_0000;
/// Messages to this address reach the first processor.
const MSI_ADDRESS: u32 = 0xfee0_0000;
/// Tell the four scratch registers from each other.
const SCRATCH_PATTERNS: [u32; 4] = [0x5343_5230, 0xace1_7b31, 0x0f1e_2d3c, 0xb5ad_4ecf];

impl Program {
    pub(super) fn set_up_vf(&mut self) -> Emit {
        self.a.set_label(&mut self.routines.set_up_vf)?;
        self.clear_context()?;
        self.enable_decoding()?;
        self.check_id()?;
        self.enable_msix(0, FIRST_VECTOR)?;
        self.map_context()?;
        self.write_scratch()?;
        self.enable_ring()?;
        self.a.inc(fixed(VF_COUNT))?;
        self.a.ret()
    }

    pub(super) fn clear_context(&mut self) -> Emit {
        let a = &mut self.a;
        a.mov(ebp, fixed(VF_COUNT))?;
        a.mov(edx, ebp)?;
        a.shl(ebp, CONTEXT_SIZE.trailing_zeros())?;
        a.add(ebp, CONTEXTS)?;
        a.mov(edi, ebp)?;
        a.mov(ecx, context::END / 4)?;
        a.xor(eax, eax)?;
        a.rep().stosd()?;
        a.mov(variable(control::BAR0), esi)?;
        a.mov(variable(control::INDEX), edx)?;
        a.inc(edx)?;
        a.imul_3(eax, edx, VF_FACTOR)?;
        a.mov(variable(control::SEED), eax)?;
        a.mov(variable(control::ACCUMULATOR), ACC_RESET)
    }

    pub(super) fn enable_decoding(&mut self) -> Emit {
        let (read, write) = (self.routines.pci_read, self.routines.pci_write);
        self.a.lea(eax, ebx + COMMAND)?;
        self.a.call(read)?;
        // The upper half is the status register, whose bits are cleared by writing 1.
        self.a.and(eax, 0xffffu32)?;
        self.a.or(eax, COMMAND_MEMORY_AND_MASTER)?;
        self.a.mov(ecx, eax)?;
        self.a.lea(eax, ebx + COMMAND)?;
        self.a.call(write)
    }

    fn check_id(&mut self) -> Emit {
        self.a.mov(edx, at(esi, reg::ID))?;
        let wrong = self.failure(Kind::Id, Value::Constant(ID_VALUE), Value::Register(edx));
        self.a.cmp(edx, ID_VALUE)?;
        self.a.jne(wrong)
    }

    /// The table is in BAR `bar`, which is at `esi`; the VF's position is added to the vector.
    pub(super) fn enable_msix(&mut self, bar: u32, first_vector: u8) -> Emit {
        let (read, write) = (self.routines.pci_read, self.routines.pci_write);
        let missing = self.failure(
            Kind::Msix,
            Value::Constant(CAPABILITY_MSIX),
            Value::Register(eax),
        );
        let elsewhere = self.failure(Kind::MsixBar, Value::Constant(bar), Value::Register(edx));
        let a = &mut self.a;
        let mut walk = a.create_label();
        let mut found = a.create_label();

        a.lea(eax, ebx + CAPABILITIES)?;
        a.call(read)?;
        a.set_label(&mut walk)?;
        a.and(eax, 0xfcu32)?;
        a.je(missing)?;
        a.mov(edi, eax)?;
        a.lea(eax, ebx + edi)?;
        a.call(read)?;
        a.cmp(al, CAPABILITY_MSIX)?;
        a.je(found)?;
        a.shr(eax, 8)?;
        a.jmp(walk)?;

        a.set_label(&mut found)?;
        a.push(eax)?;
        a.lea(eax, ebx + edi + 4)?;
        a.call(read)?;
        a.mov(edx, eax)?;
        a.and(edx, 7)?;
        a.cmp(edx, bar)?;
        a.jne(elsewhere)?;
        a.and(eax, !7u32)?;
        a.add(eax, esi)?;
        a.mov(at(eax, 0), MSI_ADDRESS)?;
        a.mov(at(eax, 4), 0u32)?;
        a.mov(ecx, variable(control::INDEX))?;
        a.add(ecx, u32::from(first_vector))?;
        a.mov(at(eax, 8), ecx)?;
        a.mov(at(eax, 12), 0u32)?;
        a.pop(ecx)?;
        a.or(ecx, MSIX_ENABLE)?;
        a.and(ecx, !MSIX_FUNCTION_MASK)?;
        a.lea(eax, ebx + edi)?;
        a.call(write)
    }

    /// GGTT address = offset in the context.
    fn map_context(&mut self) -> Emit {
        self.a.mov(edx, at(esi, reg::GGTT_ENTRIES))?;
        let small = self.failure(
            Kind::GgttQuota,
            Value::Constant(context::DMA_PAGES),
            Value::Register(edx),
        );
        let a = &mut self.a;
        let mut each = a.create_label();
        a.cmp(edx, context::DMA_PAGES)?;
        a.jb(small)?;
        a.lea(edi, esi + GGTT)?;
        a.lea(eax, ebp + PTE_VALID as u32)?;
        a.mov(ecx, context::DMA_PAGES)?;
        a.set_label(&mut each)?;
        a.mov(at(edi, 0), eax)?;
        a.mov(at(edi, 4), 0u32)?;
        a.add(edi, 8)?;
        a.add(eax, 0x1000)?;
        a.dec(ecx)?;
        a.jne(each)
    }

    fn write_scratch(&mut self) -> Emit {
        for (register, pattern) in (0u32..).zip(SCRATCH_PATTERNS) {
            self.a.mov(eax, variable(control::SEED))?;
            self.a.xor(eax, pattern)?;
            self.a.mov(at(esi, reg::SCRATCH + 4 * register), eax)?;
            self.a.mov(variable(control::SCRATCH + 4 * register), eax)?;
        }
        Ok(())
    }

    /// Jobs are numbered on from `RING_HEAD`, which is 0 after reset.
    fn enable_ring(&mut self) -> Emit {
        let a = &mut self.a;
        a.mov(at(esi, reg::RING_BASE), context::RING)?;
        a.mov(at(esi, reg::RING_ENTRIES), SLOTS)?;
        a.mov(eax, at(esi, reg::RING_HEAD))?;
        for counter in [control::SUBMITTED, control::VERIFIED, control::IRQ_HEAD] {
            a.mov(variable(counter), eax)?;
        }
        a.mov(at(esi, reg::RING_TAIL), eax)?;
        a.mov(at(esi, reg::IRQ_ACK), eax)?;
        a.add(eax, SLOTS)?;
        a.mov(variable(control::LAP_END), eax)?;
        a.mov(at(esi, reg::RING_ENABLE), 1u32)
    }
}
