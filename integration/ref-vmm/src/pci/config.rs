// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of configuration space that the VMM owns: command, BARs and the MSI-X control word.
//!
//! Pure bookkeeping: the caller passes everything else through to the device and acts on the [`Effect`] of a write.

use std::ops::RangeInclusive;

use super::bar::Bar;

/// Offset of the command register.
pub const COMMAND: u8 = 0x04;
/// Memory decoding and bus mastering, the bits of the command register that matter to a VF, and INTx disable.
pub const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | COMMAND_MASTER | 1 << 10;
/// The device answers to its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// The device may write memory.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Offset of the capability pointer.
pub const CAPABILITIES: u8 = 0x34;
/// Capability id of MSI-X.
pub const CAP_MSIX: u8 = 0x11;
const BARS: RangeInclusive<u8> = 0x10..=0x27;
/// The expansion ROM's BAR; VFs have none.
const ROM: RangeInclusive<u8> = 0x30..=0x33;

/// What a write asks for beyond bookkeeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The device itself has to see it.
    PassThrough,
    /// The command register changed.
    Command,
    /// A BAR has a new address.
    Bars,
    /// MSI-X was enabled, disabled, masked or unmasked; the new message control.
    MsixControl(u16),
    /// Nothing.
    None,
}

/// The emulated registers.
#[derive(Debug, Clone)]
pub struct Registers {
    command: u16,
    bars: [u32; 6],
    layout: Vec<Bar>,
    msix_at: Option<u8>,
}

impl Registers {
    /// Registers of a device with these BARs and the MSI-X capability at `msix_at`.
    #[must_use]
    pub fn new(layout: Vec<Bar>, msix_at: Option<u8>) -> Self {
        let mut registers = Self {
            command: 0,
            bars: [0; 6],
            layout,
            msix_at,
        };
        for bar in registers.layout.clone() {
            registers.set_address(&bar, bar.address);
        }
        registers
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        self.command
    }

    /// Restores the command register.
    pub fn set_command(&mut self, command: u16) {
        self.command = command & COMMAND_WRITABLE;
    }

    /// The BARs at the addresses the guest has given them.
    #[must_use]
    pub fn bars(&self) -> Vec<Bar> {
        self.layout
            .iter()
            .map(|bar| Bar {
                address: self.address(bar),
                ..*bar
            })
            .collect()
    }

    /// Restores the address of BAR `index`; an address that its size does not allow is rounded down.
    pub fn set_bar(&mut self, index: u8, address: u64) {
        if let Some(bar) = self.layout.iter().find(|b| b.index == index).copied() {
            self.set_address(&bar, address);
        }
    }

    fn address(&self, bar: &Bar) -> u64 {
        let low = u64::from(self.bars[usize::from(bar.index)] & !0xf);
        if bar.is_64bit {
            low | u64::from(self.bars[usize::from(bar.index) + 1]) << 32
        } else {
            low
        }
    }

    #[allow(clippy::cast_possible_truncation)] // split into halves
    fn set_address(&mut self, bar: &Bar, address: u64) {
        let address = address & !(bar.size - 1);
        let index = usize::from(bar.index);
        self.bars[index] = address as u32 | bar.flags();
        if bar.is_64bit {
            self.bars[index + 1] = (address >> 32) as u32;
        }
    }

    /// The emulated byte at `offset`, given what the device says; none when the device's byte is right.
    #[must_use]
    pub fn read(&self, offset: u8, msix_control: u16) -> Option<u8> {
        match offset {
            COMMAND => Some(self.command.to_le_bytes()[0]),
            0x05 => Some(self.command.to_le_bytes()[1]),
            at if BARS.contains(&at) => {
                let at = usize::from(at - BARS.start());
                Some(self.bars[at / 4].to_le_bytes()[at % 4])
            }
            at if ROM.contains(&at) => Some(0),
            // The table size in the low byte is the device's, enable and mask are ours.
            at if self.msix_at.is_some_and(|m| at == m + 3) => Some(msix_control.to_le_bytes()[1]),
            _ => None,
        }
    }

    /// The guest writes bytes that lie in one dword.
    pub fn write(&mut self, offset: u8, data: &[u8]) -> Effect {
        let dword = offset & !3;
        if dword == COMMAND {
            self.write_command(offset, data);
            Effect::Command
        } else if BARS.contains(&offset) {
            self.write_bar(offset, data)
        } else if ROM.contains(&offset) {
            Effect::None
        } else if self.msix_at == Some(dword) {
            // Only the high byte of message control can be written.
            data.get(usize::from(dword + 3 - offset))
                .map_or(Effect::None, |high| {
                    Effect::MsixControl(u16::from(*high) << 8)
                })
        } else {
            Effect::PassThrough
        }
    }

    fn write_command(&mut self, offset: u8, data: &[u8]) {
        let mut command = self.command.to_le_bytes();
        for (at, byte) in (usize::from(offset - COMMAND)..).zip(data) {
            // Bytes 2 and 3 are the status register: nothing a guest clears there matters to a VF.
            if let Some(slot) = command.get_mut(at) {
                *slot = *byte;
            }
        }
        self.set_command(u16::from_le_bytes(command));
    }

    fn write_bar(&mut self, offset: u8, data: &[u8]) -> Effect {
        let at = usize::from(offset - BARS.start());
        let index = at / 4;
        let mut image = self.bars[index].to_le_bytes();
        for (slot, byte) in image[at % 4..].iter_mut().zip(data) {
            *slot = *byte;
        }
        let value = u32::from_le_bytes(image);
        let owner = self.layout.iter().find(|b| {
            usize::from(b.index) == index || b.is_64bit && usize::from(b.index) + 1 == index
        });
        let Some(bar) = owner.copied() else {
            return Effect::None;
        };
        // All ones, the question for the size, keeps just the bits that can be an address.
        let mut address = [self.bars[usize::from(bar.index)] & !0xf, 0];
        if bar.is_64bit {
            address[1] = self.bars[usize::from(bar.index) + 1];
        }
        address[index - usize::from(bar.index)] = value;
        self.set_address(
            &bar,
            u64::from(address[1]) << 32 | u64::from(address[0] & !0xf),
        );
        Effect::Bars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        let bar0 = Bar {
            index: 0,
            address: 0xc000_0000,
            size: 8 << 20,
            is_64bit: false,
            prefetchable: false,
        };
        let bar2 = Bar {
            index: 2,
            address: 8 << 30,
            size: 64 << 20,
            is_64bit: true,
            prefetchable: true,
        };
        Registers::new(vec![bar0, bar2], Some(0x70))
    }

    fn dword(registers: &Registers, offset: u8) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|i| {
            registers
                .read(offset + u8::try_from(i).unwrap(), 0)
                .unwrap()
        }))
    }

    #[test]
    fn all_ones_answer_the_size_and_the_kind() {
        let mut registers = registers();
        registers.write(0x10, &[0xff; 4]);
        assert_eq!(dword(&registers, 0x10), 0xff80_0000);
        registers.write(0x18, &[0xff; 4]);
        registers.write(0x1c, &[0xff; 4]);
        assert_eq!(dword(&registers, 0x18), 0xfc00_000c);
        assert_eq!(dword(&registers, 0x1c), 0xffff_ffff);
        registers.write(0x14, &[0xff; 4]);
        assert_eq!(dword(&registers, 0x14), 0);
    }

    #[test]
    fn a_bar_written_back_is_where_it_was() {
        let mut registers = registers();
        let before = registers.bars();
        for offset in [0x10, 0x18, 0x1c] {
            let old = dword(&registers, offset);
            registers.write(offset, &[0xff; 4]);
            assert_eq!(registers.write(offset, &old.to_le_bytes()), Effect::Bars);
        }
        assert_eq!(registers.bars(), before);
    }

    #[test]
    fn only_meant_bits_of_the_command_register_stick() {
        let mut registers = registers();
        assert_eq!(
            registers.write(0x04, &[0xff, 0xff, 0xff, 0xff]),
            Effect::Command
        );
        assert_eq!(registers.command(), COMMAND_WRITABLE);
        registers.write(0x05, &[0]);
        assert_eq!(registers.command(), COMMAND_MEMORY | COMMAND_MASTER);
    }

    #[test]
    fn msix_control_is_seen_in_a_word_a_dword_and_a_byte() {
        let mut registers = registers();
        assert_eq!(
            registers.write(0x72, &[0x03, 0x80]),
            Effect::MsixControl(0x8000)
        );
        assert_eq!(
            registers.write(0x70, &[0x11, 0, 0x03, 0xc0]),
            Effect::MsixControl(0xc000)
        );
        assert_eq!(registers.write(0x73, &[0x80]), Effect::MsixControl(0x8000));
        assert_eq!(registers.write(0x70, &[0x11]), Effect::None);
        assert_eq!(registers.write(0x80, &[1]), Effect::PassThrough);
    }
}
