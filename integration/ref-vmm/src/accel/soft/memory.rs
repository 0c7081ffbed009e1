// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory slots of the software vCPU, and the log of pages it has written.
//!
//! Rules of the unsafe code here: a slot's memory stays mapped until `unmap`, which the VMM calls while it still is;
//! accesses are checked against the slot first; they are volatile, of the guest's width where it is 1, 2 or 4 aligned
//! bytes, since a device may use the same memory at the same time.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use vm_migration::protocol::MemoryRangeTable;

use crate::accel::{Slot, SlotId};
use crate::memory::PAGE_SIZE;

/// Slots and their dirty log.
#[derive(Default)]
pub struct SoftMemory {
    slots: RwLock<BTreeMap<SlotId, Mapped>>,
    logging: AtomicBool,
}

struct Mapped {
    slot: Slot,
    /// A bit per page, none where the slot is not tracked.
    dirty: Vec<AtomicU64>,
}

// SAFETY: the pointer in `slot` is used for volatile accesses only, which any thread may do.
unsafe impl Sync for Mapped {}

impl SoftMemory {
    /// Adds a slot.
    pub fn map(&self, slot: Slot, dirty_tracked: bool) -> SlotId {
        let mut slots = self.write_slots();
        let id = (0..)
            .map(SlotId)
            .find(|id| !slots.contains_key(id))
            .expect("2^32 slots");
        let words = if dirty_tracked {
            slot.size.div_ceil(PAGE_SIZE * 64)
        } else {
            0
        };
        let dirty = (0..words).map(|_| AtomicU64::new(0)).collect();
        slots.insert(id, Mapped { slot, dirty });
        id
    }

    /// Removes a slot.
    pub fn unmap(&self, id: SlotId) {
        self.write_slots().remove(&id);
    }

    /// Reads guest memory; false when no slot has all of it.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> bool {
        let slots = self.read_slots();
        let Some((mapped, offset)) = find(&slots, gpa, buffer.len()) else {
            return false;
        };
        // SAFETY: `find` has checked that offset and length lie in the slot, which is mapped.
        unsafe { read_volatile(mapped.slot.host.add(offset), buffer) };
        true
    }

    /// Writes guest memory; false when no slot has all of it.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        let slots = self.read_slots();
        let Some((mapped, offset)) = find(&slots, gpa, bytes.len()) else {
            return false;
        };
        // SAFETY: `find` has checked that offset and length lie in the slot, which is mapped.
        unsafe { write_volatile(mapped.slot.host.add(offset), bytes) };
        if self.logging.load(Ordering::Acquire) {
            mapped.note(offset as u64, bytes.len() as u64);
        }
        true
    }

    /// Starts a log in which nothing is dirty yet.
    pub fn start_log(&self) {
        self.take_log();
        self.logging.store(true, Ordering::Release);
    }

    /// Ends the log.
    pub fn stop_log(&self) {
        self.logging.store(false, Ordering::Release);
    }

    /// What was written since the last call.
    pub fn take_log(&self) -> MemoryRangeTable {
        let mut table = MemoryRangeTable::default();
        for mapped in self.read_slots().values() {
            let bits = mapped
                .dirty
                .iter()
                .map(|word| word.swap(0, Ordering::AcqRel));
            table.extend(MemoryRangeTable::from_dirty_bitmap(
                bits,
                mapped.slot.gpa,
                PAGE_SIZE,
            ));
        }
        table
    }

    fn read_slots(&self) -> RwLockReadGuard<'_, BTreeMap<SlotId, Mapped>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_slots(&self) -> RwLockWriteGuard<'_, BTreeMap<SlotId, Mapped>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mapped {
    fn note(&self, offset: u64, length: u64) {
        for page in offset / PAGE_SIZE..=(offset + length.max(1) - 1) / PAGE_SIZE {
            #[allow(clippy::cast_possible_truncation)] // an index of memory that is mapped
            if let Some(word) = self.dirty.get((page / 64) as usize) {
                word.fetch_or(1 << (page % 64), Ordering::AcqRel);
            }
        }
    }
}

/// The slot that holds all of a range, and the range's offset in it.
fn find(slots: &BTreeMap<SlotId, Mapped>, gpa: u64, length: usize) -> Option<(&Mapped, usize)> {
    // RAM is the first slot and takes nearly all accesses.
    slots.values().find_map(|mapped| {
        let offset = gpa.checked_sub(mapped.slot.gpa)?;
        let inside = offset.checked_add(length as u64)? <= mapped.slot.size;
        inside.then_some(())?;
        Some((mapped, usize::try_from(offset).ok()?))
    })
}

/// # Safety
/// `from` must be valid for reads of the buffer's length.
unsafe fn read_volatile(from: *const u8, buffer: &mut [u8]) {
    // SAFETY: the caller's promise; alignment is checked before a wider type is used.
    unsafe {
        match buffer.len() {
            4 if from.addr().is_multiple_of(4) => {
                buffer.copy_from_slice(&from.cast::<u32>().read_volatile().to_ne_bytes());
            }
            2 if from.addr().is_multiple_of(2) => {
                buffer.copy_from_slice(&from.cast::<u16>().read_volatile().to_ne_bytes());
            }
            1 => buffer[0] = from.read_volatile(),
            length => ptr::copy(from, buffer.as_mut_ptr(), length),
        }
    }
}

/// # Safety
/// `to` must be valid for writes of the length of `bytes`.
unsafe fn write_volatile(to: *mut u8, bytes: &[u8]) {
    // SAFETY: the caller's promise; alignment is checked before a wider type is used.
    unsafe {
        match *bytes {
            [a, b, c, d] if to.addr().is_multiple_of(4) => {
                to.cast::<u32>()
                    .write_volatile(u32::from_ne_bytes([a, b, c, d]));
            }
            [a, b] if to.addr().is_multiple_of(2) => {
                to.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b]));
            }
            [a] => to.write_volatile(a),
            _ => ptr::copy(bytes.as_ptr(), to, bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{GuestRam, RAM_MIN};

    fn memory() -> (GuestRam, SoftMemory) {
        let ram = GuestRam::new(RAM_MIN).unwrap();
        let memory = SoftMemory::default();
        memory.map(
            Slot {
                gpa: 0,
                size: RAM_MIN,
                host: ram.host_address(0).unwrap(),
            },
            true,
        );
        (ram, memory)
    }

    #[test]
    fn a_write_is_in_ram_and_in_the_log_once() {
        let (ram, memory) = memory();
        assert!(memory.write(0x1ffe, &[1, 2, 3, 4]));
        assert!(
            memory.take_log().is_empty(),
            "nothing is logged before the start"
        );
        memory.start_log();
        assert!(memory.write(0x1ffe, &[5, 6, 7, 8]));
        let mut seen = [0; 4];
        ram.read(0x1ffe, &mut seen).unwrap();
        assert_eq!(seen, [5, 6, 7, 8]);
        let log = memory.take_log();
        assert_eq!(
            (log.regions()[0].gpa, log.regions()[0].length),
            (0x1000, 0x2000)
        );
        assert!(memory.take_log().is_empty());
    }

    #[test]
    fn an_access_beyond_a_slot_is_not_memory() {
        let (_ram, memory) = memory();
        let mut four = [0; 4];
        assert!(memory.read(RAM_MIN - 4, &mut four));
        assert!(!memory.read(RAM_MIN - 3, &mut four));
        assert!(!memory.write(u64::MAX, &four));
    }
}
