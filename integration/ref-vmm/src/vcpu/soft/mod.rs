// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vCPU in software, for machines without a usable /dev/kvm.
//!
//! [`SoftVcpu`] interprets the part of x86 that the guest program is made of: flat 32-bit protected mode, no paging,
//! interrupts through the IDT, a minimal local APIC at 0xfee00000. What it does, it does as the processor would, flags
//! included; what it does not know ends the run with a [`Fault`] that names it, and is never guessed.
//!
//! The VMM implements [`Bus`] and shares [`Interrupts`] with whoever delivers MSIs. [`SoftVcpu::run`] answers within a
//! millisecond of `stop` being set, between two instructions, also when the guest is halted. A stopped vCPU is plain
//! data by [`SoftVcpu::state`] and goes on from it after [`SoftVcpu::restore`].
//!
//! Instructions are decoded once, so code must not be changed after it first ran; the guest's is not.

mod cpu;
mod decode;
mod descriptors;
mod exec;
mod flags;
mod interrupts;
mod lapic;
mod operation;
mod state;
mod strings;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cpu::Cpu;
use decode::Cache;
use exec::Machine;
pub use interrupts::Interrupts;
use lapic::Lapic;
pub use state::{Error, LapicState, SoftVcpuState, TableState};

/// How long a halted vCPU sleeps before it looks at `stop` again.
const HALT_POLL: Duration = Duration::from_micros(300);

/// What the vCPU sees of the machine. Addresses are guest physical.
pub trait Bus {
    /// Reads RAM or directly mapped BAR memory; false where there is none. An aligned access of 1, 2 or 4 bytes must be
    /// a single one, since a device may write the same memory.
    fn read_memory(&self, gpa: u32, buf: &mut [u8]) -> bool;
    /// Writes RAM or directly mapped BAR memory; false where there is none. Single accesses as in `read_memory`.
    fn write_memory(&self, gpa: u32, buf: &[u8]) -> bool;
    /// Reads where `read_memory` has nothing.
    fn mmio_read(&self, gpa: u32, buf: &mut [u8]);
    /// Writes where `write_memory` has nothing.
    fn mmio_write(&self, gpa: u32, buf: &[u8]);
    /// Reads an I/O port, 1, 2 or 4 bytes.
    fn pio_in(&self, port: u16, buf: &mut [u8]);
    /// Writes an I/O port, 1, 2 or 4 bytes.
    fn pio_out(&self, port: u16, buf: &[u8]);
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `stop` was set; `run` goes on where it left.
    Stopped,
    /// The guest executed `hlt` with interrupts off: nothing can wake it.
    HaltedForever,
    /// The guest did what this vCPU does not model. The vCPU is left before that instruction.
    Fault {
        /// Address of the instruction.
        eip: u32,
        /// What is not modelled.
        reason: Fault,
    },
}

/// What the guest asked for that is not modelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An instruction, a prefix or an operand outside the subset.
    #[error("the instruction {0} is outside the subset")]
    Instruction(String),
    /// No memory to fetch from.
    #[error("there is no memory to fetch the instruction from")]
    Fetch,
    /// A divisor of 0, or a quotient of more than 32 bits.
    #[error("divide error")]
    Divide,
    /// A selector whose descriptor is not a present flat 32-bit segment.
    #[error("selector {0:#06x} is not a present flat 32-bit segment")]
    Segment(u16),
    /// An interrupt without a present 32-bit gate.
    #[error("vector {0:#04x} has no present 32-bit gate in the IDT")]
    Gate(u8),
    /// Flags that are not modelled.
    #[error("the flags {0:#010x} are not modelled")]
    Flags(u32),
    /// A string instruction with the direction flag set.
    #[error("a string instruction going down")]
    Direction,
    /// An access to the local APIC that is not to a modelled register, or not of 4 aligned bytes.
    #[error("access to offset {offset:#x} of the local APIC, {size} bytes")]
    Lapic {
        /// In its page.
        offset: u32,
        /// Of the access.
        size: usize,
    },
}

/// The vCPU.
pub struct SoftVcpu {
    cpu: Cpu,
    lapic: Lapic,
    cache: Cache,
}

impl SoftVcpu {
    /// At the PVH entry: flat segments, interrupts off, `ebx` the address of the start info.
    #[must_use]
    pub fn new(entry: u32, ebx: u32) -> Self {
        Self {
            cpu: Cpu::at_entry(entry, ebx),
            lapic: Lapic::after_reset(),
            cache: Cache::new(),
        }
    }

    /// Runs until `stop` is set or the guest cannot go on.
    pub fn run(&mut self, bus: &dyn Bus, interrupts: &Interrupts, stop: &AtomicBool) -> Exit {
        loop {
            if stop.load(Ordering::Acquire) {
                return Exit::Stopped;
            }
            if interrupts.any() {
                self.lapic.accept(interrupts.take());
            }
            let eip = self.cpu.eip;
            let mut machine = Machine {
                cpu: &mut self.cpu,
                lapic: &mut self.lapic,
                bus,
            };
            let done = match machine.deliverable() {
                Some(vector) => machine.deliver(vector),
                None if machine.cpu.halted && !machine.cpu.interrupts_on() => {
                    return Exit::HaltedForever;
                }
                None if machine.cpu.halted => {
                    interrupts.wait(HALT_POLL);
                    Ok(())
                }
                None => self
                    .cache
                    .fetch(eip, bus)
                    .and_then(|instruction| machine.execute(instruction)),
            };
            if let Err(reason) = done {
                return Exit::Fault { eip, reason };
            }
        }
    }

    /// All there is to know to go on elsewhere, with the vectors that `interrupts` still holds.
    #[must_use]
    pub fn state(&self, interrupts: &Interrupts) -> SoftVcpuState {
        state::save(&self.cpu, &self.lapic, interrupts)
    }

    /// A vCPU that goes on from `state`.
    ///
    /// # Errors
    ///
    /// The state is one that no vCPU answers.
    pub fn restore(state: &SoftVcpuState) -> Result<Self, Error> {
        let (cpu, lapic) = state::load(state)?;
        Ok(Self {
            cpu,
            lapic,
            cache: Cache::new(),
        })
    }
}
