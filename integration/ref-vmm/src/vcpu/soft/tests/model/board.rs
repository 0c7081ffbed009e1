// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the vCPU sees: RAM, config mechanism 1 with the VFs behind it, their MSI-X tables, COM1.

use std::sync::{Mutex, MutexGuard};

use guest::abi::{BAR0_SIZE, MSIX_TABLE};
use guest::layout::MEMORY_END;
use guest::report::{Event, Parser};
use linux_loader::loader::{Elf, KernelLoader, elf::PvhBootCapability};
use vm_memory::{Bytes, GuestAddress};

use super::super::super::Bus;
use super::Memory;

/// BAR0 of VF 0; the others follow.
const FIRST_BAR0: u32 = 0xe000_0000;
const MSIX_PAGE_SIZE: u32 = 0x1000;
const MSIX_CAPABILITY: usize = 0x50;
/// PCI device number of VF 0; the others follow at every second.
const FIRST_DEVICE: usize = 3;

/// Writes memory that is there.
pub fn write(memory: &Memory, gpa: u32, bytes: &[u8]) {
    memory
        .write_slice(bytes, GuestAddress(gpa.into()))
        .expect("the model writes memory");
}

/// BAR0 of VF `index`.
pub fn bar0(index: u32) -> u32 {
    FIRST_BAR0 + index * BAR0_SIZE
}

/// PCI function and MSI-X page of a VF.
pub struct Function {
    /// Config space.
    pub config: [u8; 256],
    msix: [u8; MSIX_PAGE_SIZE as usize],
}

impl Function {
    fn new(index: u32) -> Self {
        let mut config = [0; 256];
        config[0..4].copy_from_slice(&[0x86, 0x80, 0x11, 0xe2]);
        config[6] = 0x10;
        config[8..12].copy_from_slice(&[0, 0, 0x80, 0x03]);
        config[0x10..0x14].copy_from_slice(&bar0(index).to_le_bytes());
        // A capability to be skipped, then MSI-X: 4 vectors, table and PBA in BAR0.
        config[0x34] = 0x40;
        config[0x40..0x42].copy_from_slice(&[0x10, MSIX_CAPABILITY as u8]);
        config[MSIX_CAPABILITY..][..4].copy_from_slice(&[0x11, 0, 3, 0]);
        config[MSIX_CAPABILITY + 4..][..4].copy_from_slice(&MSIX_TABLE.to_le_bytes());
        config[MSIX_CAPABILITY + 8..][..4].copy_from_slice(&guest::abi::MSIX_PBA.to_le_bytes());
        Self {
            config,
            msix: [0; MSIX_PAGE_SIZE as usize],
        }
    }

    /// Address and data of vector 0, if it may be signalled.
    fn message(&self) -> Option<(u32, u32)> {
        let word =
            |at: usize| u32::from_le_bytes(self.msix[at..at + 4].try_into().expect("four bytes"));
        let enabled = self.config[MSIX_CAPABILITY + 3] & 0xc0 == 0x80 && self.config[4] & 6 == 6;
        (enabled && word(12) & 1 == 0 && word(4) == 0).then(|| (word(0), word(8)))
    }
}

struct Devices {
    functions: Vec<Function>,
    config_address: u32,
    serial: Parser,
    events: Vec<Event>,
}

/// The machine but for its vCPU.
pub struct Board {
    /// RAM and BARs.
    pub memory: Memory,
    vfs: u32,
    devices: Mutex<Devices>,
}

impl Board {
    /// With so many VFs, whose BARs are all zero.
    pub fn new(vfs: u32) -> Self {
        let ram = (GuestAddress(0), MEMORY_END as usize);
        let bars = (0..vfs).map(|index| (GuestAddress(bar0(index).into()), BAR0_SIZE as usize));
        let ranges: Vec<_> = [ram].into_iter().chain(bars).collect();
        Self {
            memory: Memory::from_ranges(&ranges).expect("memory for a small machine"),
            vfs,
            devices: Mutex::new(Devices {
                functions: (0..vfs).map(Function::new).collect(),
                config_address: 0,
                serial: Parser::new(),
                events: Vec::new(),
            }),
        }
    }

    /// Loads the guest and answers its PVH entry.
    pub fn boot(&self) -> u32 {
        let mut image = std::io::Cursor::new(guest::image());
        let loaded = Elf::load(&self.memory, None, &mut image, None).expect("an ELF image");
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
            panic!("no PVH entry in the image");
        };
        u32::try_from(entry.0).expect("an entry below 4 GiB")
    }

    /// Number of VFs.
    pub fn vfs(&self) -> u32 {
        self.vfs
    }

    /// What the guest has said so far.
    pub fn events(&self) -> Vec<Event> {
        self.devices().events.clone()
    }

    /// Changes the config space of a VF.
    pub fn change_config(&self, index: usize, change: impl FnOnce(&mut [u8; 256])) {
        change(&mut self.devices().functions[index].config);
    }

    /// The message of a VF's vector 0, if it may be signalled.
    pub fn message(&self, index: u32) -> Option<(u32, u32)> {
        self.devices().functions[index as usize].message()
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().expect("no thread has panicked")
    }

    /// VF and offset of an address in an MSI-X page.
    fn msix(&self, gpa: u32) -> Option<(usize, usize)> {
        let offset = gpa.checked_sub(FIRST_BAR0)?;
        let (index, offset) = (offset / BAR0_SIZE, offset % BAR0_SIZE);
        (index < self.vfs && (MSIX_TABLE..MSIX_TABLE + MSIX_PAGE_SIZE).contains(&offset))
            .then(|| (index as usize, (offset - MSIX_TABLE) as usize))
    }
}

impl Devices {
    /// The config space that the address register points at, and the offset there.
    fn selected(&mut self, port: u16) -> Option<(&mut Function, usize)> {
        let address = self.config_address as usize;
        let device = address >> 11 & 31;
        let elsewhere = address & 0x80ff_0700 != 0x8000_0000;
        if elsewhere || device < FIRST_DEVICE || !(device - FIRST_DEVICE).is_multiple_of(2) {
            return None;
        }
        let function = self.functions.get_mut((device - FIRST_DEVICE) / 2)?;
        Some((function, (address & 0xfc) + usize::from(port - 0xcfc)))
    }
}

impl Bus for Board {
    fn read_memory(&self, gpa: u32, buf: &mut [u8]) -> bool {
        self.msix(gpa).is_none()
            && self
                .memory
                .read_slice(buf, GuestAddress(gpa.into()))
                .is_ok()
    }

    fn write_memory(&self, gpa: u32, buf: &[u8]) -> bool {
        self.msix(gpa).is_none()
            && self
                .memory
                .write_slice(buf, GuestAddress(gpa.into()))
                .is_ok()
    }

    fn mmio_read(&self, gpa: u32, buf: &mut [u8]) {
        let (index, offset) = self.msix(gpa).expect("the guest reads what is there");
        buf.copy_from_slice(&self.devices().functions[index].msix[offset..][..buf.len()]);
    }

    fn mmio_write(&self, gpa: u32, buf: &[u8]) {
        let (index, offset) = self.msix(gpa).expect("the guest writes what is there");
        self.devices().functions[index].msix[offset..][..buf.len()].copy_from_slice(buf);
    }

    fn pio_in(&self, port: u16, buf: &mut [u8]) {
        buf.fill(0xff);
        let mut devices = self.devices();
        if let 0xcfc..0xd00 = port
            && let Some((function, offset)) = devices.selected(port)
        {
            buf.copy_from_slice(&function.config[offset..][..buf.len()]);
        }
    }

    fn pio_out(&self, port: u16, buf: &[u8]) {
        let mut devices = self.devices();
        match port {
            0xcf8 => {
                devices.config_address = u32::from_le_bytes(buf.try_into().expect("a doubleword"));
            }
            0xcfc..0xd00 => {
                if let Some((function, offset)) = devices.selected(port) {
                    function.config[offset..][..buf.len()].copy_from_slice(buf);
                }
            }
            0x3f8 => {
                let events = devices.serial.push(buf);
                devices.events.extend(events);
            }
            0x21 | 0xa1 => {}
            _ => panic!("the guest writes port {port:#x}"),
        }
    }
}
