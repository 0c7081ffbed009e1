// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The local APIC: which interrupt comes next, and the registers that the guest uses of it.
//!
//! Fixed, edge-triggered interrupts only. No timer, no local vectors, no IPIs.

use super::Fault;
use super::interrupts::Vectors;

/// Guest physical address of the page of registers.
pub(super) const BASE: u32 = 0xfee0_0000;
/// Bytes of that page.
pub(super) const SIZE: u32 = 0x1000;
/// Bits that the spurious-interrupt register has here.
pub(super) const SPURIOUS_MASK: u32 = 0x1ff;

const ID: u32 = 0x20;
const VERSION: u32 = 0x30;
const TASK_PRIORITY: u32 = 0x80;
const PROCESSOR_PRIORITY: u32 = 0xa0;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const IN_SERVICE: u32 = 0x100;
const REQUESTED: u32 = 0x200;
/// Eight registers, 16 bytes apart.
const VECTOR_REGISTERS: u32 = 0x80;
/// Version 0x14, six local vectors.
const VERSION_VALUE: u32 = 0x5_0014;
const SPURIOUS_AFTER_RESET: u32 = 0xff;
const ENABLED: u32 = 0x100;

pub(super) struct Lapic {
    pub task_priority: u8,
    pub spurious: u32,
    pub requested: Vectors,
    pub in_service: Vectors,
}

impl Lapic {
    pub fn after_reset() -> Self {
        Self {
            task_priority: 0,
            spurious: SPURIOUS_AFTER_RESET,
            requested: Vectors::default(),
            in_service: Vectors::default(),
        }
    }

    /// Takes vectors in, or drops them while the guest has the APIC disabled, as the hardware does.
    pub fn accept(&mut self, vectors: Vectors) {
        if self.spurious & ENABLED != 0 {
            self.requested.insert_all(vectors);
        }
    }

    /// The vector that the processor would take now, if it takes any.
    pub fn next(&self) -> Option<u8> {
        if self.requested.is_empty() {
            return None;
        }
        let vector = self.requested.highest()?;
        (vector & 0xf0 > self.processor_priority() & 0xf0).then_some(vector)
    }

    /// The processor takes `vector`.
    pub fn begin(&mut self, vector: u8) {
        self.requested.remove(vector);
        self.in_service.insert(vector);
    }

    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0) & 0xf0;
        if self.task_priority & 0xf0 >= in_service {
            self.task_priority
        } else {
            in_service
        }
    }

    pub fn read(&self, offset: u32) -> Result<u32, Fault> {
        Ok(match offset {
            ID => 0,
            VERSION => VERSION_VALUE,
            TASK_PRIORITY => self.task_priority.into(),
            PROCESSOR_PRIORITY => self.processor_priority().into(),
            SPURIOUS => self.spurious,
            _ if offset.is_multiple_of(16)
                && offset.wrapping_sub(IN_SERVICE) < VECTOR_REGISTERS =>
            {
                self.in_service.registers()[((offset - IN_SERVICE) / 16) as usize]
            }
            _ if offset.is_multiple_of(16) && offset.wrapping_sub(REQUESTED) < VECTOR_REGISTERS => {
                self.requested.registers()[((offset - REQUESTED) / 16) as usize]
            }
            _ => return Err(Fault::Lapic { offset, size: 4 }),
        })
    }

    pub fn write(&mut self, offset: u32, value: u32) -> Result<(), Fault> {
        match offset {
            TASK_PRIORITY => self.task_priority = value as u8,
            END_OF_INTERRUPT => {
                if let Some(vector) = self.in_service.highest() {
                    self.in_service.remove(vector);
                }
            }
            SPURIOUS => self.spurious = value & SPURIOUS_MASK,
            _ => return Err(Fault::Lapic { offset, size: 4 }),
        }
        Ok(())
    }
}
