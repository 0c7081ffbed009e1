// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU as plain data. What is restored is not trusted: each field is checked.

use serde::{Deserialize, Serialize};

use super::cpu::{Cpu, Table};
use super::flags::{FIXED, MODELLED};
use super::interrupts::{Interrupts, Vectors};
use super::lapic::{Lapic, SPURIOUS_MASK};

/// Vectors below are exceptions and not for a local APIC.
const FIRST_VECTORS: u32 = 0xffff;

/// A stopped vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftVcpuState {
    /// eax, ecx, edx, ebx, esp, ebp, esi, edi.
    pub registers: [u32; 8],
    /// Address of the next instruction.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// Selectors of es, cs, ss, ds, fs, gs.
    pub segments: [u16; 6],
    /// The GDT.
    pub gdt: TableState,
    /// The IDT.
    pub idt: TableState,
    /// Waits in `hlt`.
    pub halted: bool,
    /// Takes no interrupt before the next instruction.
    pub interrupt_shadow: bool,
    /// The local APIC.
    pub lapic: LapicState,
}

/// A descriptor table register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableState {
    /// Where the table is.
    pub base: u32,
    /// Its size less one.
    pub limit: u16,
}

/// A local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LapicState {
    /// Task priority.
    pub task_priority: u8,
    /// Spurious-interrupt register.
    pub spurious: u32,
    /// Vectors requested (IRR), as eight registers.
    pub requested: [u32; 8],
    /// Vectors in service (ISR), as eight registers.
    pub in_service: [u32; 8],
    /// Vectors that had been injected and not yet accepted.
    pub injected: [u32; 8],
}

/// Why a state is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A flag that this vCPU does not have, or the fixed one missing.
    #[error("vCPU state: EFLAGS {0:#010x} has bits that are not modelled")]
    Flags(u32),
    /// A bit of the spurious-interrupt register that it does not have.
    #[error("vCPU state: spurious-interrupt register {0:#010x} has bits that are not modelled")]
    Spurious(u32),
    /// A vector below 16.
    #[error("vCPU state: a local APIC holds a vector below 16 ({0})")]
    Vector(&'static str),
    /// Halted with an interrupt shadow: no instruction leaves that.
    #[error("vCPU state: halted and in the shadow of an instruction at once")]
    HaltedInShadow,
}

pub(super) fn save(cpu: &Cpu, lapic: &Lapic, interrupts: &Interrupts) -> SoftVcpuState {
    SoftVcpuState {
        registers: cpu.registers,
        eip: cpu.eip,
        eflags: cpu.flags,
        segments: cpu.segments,
        gdt: cpu.gdt.into(),
        idt: cpu.idt.into(),
        halted: cpu.halted,
        interrupt_shadow: cpu.shadow,
        lapic: LapicState {
            task_priority: lapic.task_priority,
            spurious: lapic.spurious,
            requested: lapic.requested.registers(),
            in_service: lapic.in_service.registers(),
            injected: interrupts.peek().registers(),
        },
    }
}

pub(super) fn load(state: &SoftVcpuState) -> Result<(Cpu, Lapic), Error> {
    if state.eflags & !MODELLED != 0 || state.eflags & FIXED == 0 {
        return Err(Error::Flags(state.eflags));
    }
    if state.halted && state.interrupt_shadow {
        return Err(Error::HaltedInShadow);
    }
    let apic = &state.lapic;
    if apic.spurious & !SPURIOUS_MASK != 0 {
        return Err(Error::Spurious(apic.spurious));
    }
    let mut lapic = Lapic {
        task_priority: apic.task_priority,
        spurious: apic.spurious,
        requested: vectors(apic.requested, "requested")?,
        in_service: vectors(apic.in_service, "in service")?,
    };
    lapic.accept(vectors(apic.injected, "injected")?);
    let cpu = Cpu {
        registers: state.registers,
        eip: state.eip,
        flags: state.eflags,
        segments: state.segments,
        gdt: Table::from(&state.gdt),
        idt: Table::from(&state.idt),
        halted: state.halted,
        shadow: state.interrupt_shadow,
    };
    Ok((cpu, lapic))
}

fn vectors(registers: [u32; 8], which: &'static str) -> Result<Vectors, Error> {
    if registers[0] & FIRST_VECTORS != 0 {
        return Err(Error::Vector(which));
    }
    Ok(Vectors::from_registers(registers))
}

impl From<Table> for TableState {
    fn from(Table { base, limit }: Table) -> Self {
        Self { base, limit }
    }
}

impl From<&TableState> for Table {
    fn from(&TableState { base, limit }: &TableState) -> Self {
        Self { base, limit }
    }
}
