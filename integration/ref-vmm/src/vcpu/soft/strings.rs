// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The string instructions, a bounded number of words at a time.

use super::Fault;
use super::cpu::{EAX, ECX, EDI, ESI};
use super::exec::Machine;
use super::flags::{self, Binary, DIRECTION, Width};

/// Doublewords that a repeated string instruction does at once, before interrupts and `stop` are looked at.
const STRING_CHUNK: u32 = 256;

impl Machine<'_> {
    /// Whether it is complete; if not, it goes on when executed again.
    pub fn store_string(&mut self, repeated: bool) -> Result<bool, Fault> {
        let left = self.string_count(repeated)?;
        let count = left.min(STRING_CHUNK);
        let (to, value) = (self.cpu.get(EDI), self.cpu.get(EAX));
        let mut bytes = [0; 4 * STRING_CHUNK as usize];
        let bytes = &mut bytes[..4 * count as usize];
        bytes
            .chunks_exact_mut(4)
            .for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
        let in_one = count > 1 && !self.is_lapic(to) && self.bus.write_memory(to, bytes);
        if !in_one {
            for word in 0..count {
                self.write(to.wrapping_add(4 * word), Width::Dword, value)?;
            }
        }
        self.cpu.set(EDI, to.wrapping_add(4 * count));
        if repeated {
            self.cpu.set(ECX, left - count);
        }
        Ok(count == left)
    }

    /// Whether it is complete, as in `store_string`.
    pub fn compare_strings(&mut self, repeated: bool) -> Result<bool, Fault> {
        let left = self.string_count(repeated)?;
        for done in 1..=left.min(STRING_CHUNK) {
            let (from, with) = (self.cpu.get(ESI), self.cpu.get(EDI));
            let (a, b) = (
                self.read(from, Width::Dword)?,
                self.read(with, Width::Dword)?,
            );
            flags::binary(Binary::Subtract, a, b, Width::Dword, &mut self.cpu.flags);
            self.cpu.set(ESI, from.wrapping_add(4));
            self.cpu.set(EDI, with.wrapping_add(4));
            if repeated {
                self.cpu.set(ECX, left - done);
            }
            if a != b {
                return Ok(true);
            }
        }
        Ok(left <= STRING_CHUNK)
    }

    fn string_count(&self, repeated: bool) -> Result<u32, Fault> {
        if self.cpu.flags & DIRECTION != 0 {
            return Err(Fault::Direction);
        }
        Ok(if repeated { self.cpu.get(ECX) } else { 1 })
    }
}
