// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Segments and gates, as far as flat protected mode needs them.
//!
//! A segment register may only be loaded with a present, flat 32-bit segment: then addresses need no segmentation, and
//! none is done.

use super::cpu::Table;
use super::{Bus, Fault};

const PRESENT: u64 = 1 << 47;
const CODE_OR_DATA: u64 = 1 << 44;
const EXECUTABLE: u64 = 1 << 43;
/// Readable code or writable data.
const READ_WRITE: u64 = 1 << 41;
/// Expands down, or is conforming.
const DIRECTION: u64 = 1 << 42;
const PRIVILEGE: u64 = 3 << 45;
const GRANULARITY: u64 = 1 << 55;
const SIZE_32: u64 = 1 << 54;
const LONG: u64 = 1 << 53;
const BASE: u64 = 0xff00_00ff_ffff_0000;
const LIMIT: u64 = 0x000f_0000_0000_ffff;

const GATE_TYPE: u64 = 0x1f << 40;
const INTERRUPT_GATE: u64 = 0xe << 40;
const TRAP_GATE: u64 = 0xf << 40;

/// What a gate of the IDT says.
pub(super) struct Gate {
    pub selector: u16,
    pub handler: u32,
    /// Whether interrupts go off.
    pub clears_interrupts: bool,
}

/// Checks that `selector` may be loaded into `cs` (`code`) or into a data segment register.
pub(super) fn check_segment(
    bus: &dyn Bus,
    gdt: Table,
    selector: u16,
    code: bool,
) -> Result<(), Fault> {
    let refused = Fault::Segment(selector);
    // Ring 0 in the GDT, not the null descriptor.
    if selector & 7 != 0 || selector == 0 {
        return Err(refused);
    }
    let Some(descriptor) = entry(bus, gdt, selector.into()) else {
        return Err(refused);
    };
    let kind = if code { EXECUTABLE } else { 0 };
    let checked = PRESENT | CODE_OR_DATA | EXECUTABLE | READ_WRITE | DIRECTION | PRIVILEGE;
    let flat = GRANULARITY | SIZE_32 | LONG | BASE | LIMIT;
    let wanted = PRESENT | CODE_OR_DATA | READ_WRITE | GRANULARITY | SIZE_32 | LIMIT | kind;
    if descriptor & (checked | flat) == wanted {
        Ok(())
    } else {
        Err(refused)
    }
}

/// The gate of `vector`, and its code segment checked.
pub(super) fn gate(bus: &dyn Bus, gdt: Table, idt: Table, vector: u8) -> Result<Gate, Fault> {
    let gate = entry(bus, idt, 8 * u32::from(vector)).ok_or(Fault::Gate(vector))?;
    let kind = gate & GATE_TYPE;
    if gate & PRESENT == 0 || (kind != INTERRUPT_GATE && kind != TRAP_GATE) {
        return Err(Fault::Gate(vector));
    }
    let selector = (gate >> 16) as u16;
    check_segment(bus, gdt, selector, true)?;
    Ok(Gate {
        selector,
        handler: (gate & 0xffff | gate >> 32 & 0xffff_0000) as u32,
        clears_interrupts: kind == INTERRUPT_GATE,
    })
}

fn entry(bus: &dyn Bus, table: Table, offset: u32) -> Option<u64> {
    let mut bytes = [0; 8];
    (offset + 7 <= table.limit.into()
        && bus.read_memory(table.base.wrapping_add(offset), &mut bytes))
    .then(|| u64::from_le_bytes(bytes))
}
