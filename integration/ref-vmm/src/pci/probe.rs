// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device's own configuration space says: its BARs and its MSI-X capability.

use std::ops::Range;

use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};
use vfio_ioctls::VfioDevice;

use super::bar::{Bar, Placer};
use super::config::{CAP_MSIX, CAPABILITIES};
use super::msix::ENTRY_SIZE;

/// Reads configuration space of the device itself.
pub fn read_config(device: &VfioDevice, offset: u8, data: &mut [u8]) {
    device.region_read(VFIO_PCI_CONFIG_REGION_INDEX, data, offset.into());
}

/// Writes configuration space of the device itself.
pub fn write_config(device: &VfioDevice, offset: u8, data: &[u8]) {
    device.region_write(VFIO_PCI_CONFIG_REGION_INDEX, data, offset.into());
}

fn dword(device: &VfioDevice, offset: u8) -> u32 {
    let mut data = [0; 4];
    read_config(device, offset, &mut data);
    u32::from_le_bytes(data)
}

/// The memory BARs, placed; none when an address window is full. I/O BARs are left out: VFs have none.
pub fn bars(device: &VfioDevice, placer: &mut Placer) -> Option<Vec<Bar>> {
    let mut bars = Vec::new();
    let mut index = 0;
    while index < 6 {
        let flags = dword(device, 0x10 + 4 * index);
        let size = device.get_region_size(VFIO_PCI_BAR0_REGION_INDEX + u32::from(index));
        let is_64bit = flags & 0b110 == 0b100;
        if flags & 1 == 0 && size.is_power_of_two() && size >= 16 {
            let address = placer.place(size.max(crate::memory::PAGE_SIZE), is_64bit)?;
            let prefetchable = flags & 8 != 0;
            bars.push(Bar {
                index,
                address,
                size,
                is_64bit,
                prefetchable,
            });
        }
        index += if is_64bit { 2 } else { 1 };
    }
    Some(bars)
}

/// The MSI-X capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixCapability {
    /// Where it is in configuration space.
    pub at: u8,
    /// Vectors.
    pub vectors: usize,
    /// BAR and offset of the table.
    pub table: (u8, u64),
    /// BAR and offset of the pending bits.
    pub pba: (u8, u64),
}

impl MsixCapability {
    /// Finds it.
    pub fn find(device: &VfioDevice) -> Option<Self> {
        let mut pointer = dword(device, CAPABILITIES).to_le_bytes()[0] & 0xfc;
        // A list cannot be longer than the space it lives in: a loop in it ends here.
        for _ in 0..48 {
            if pointer < 0x40 {
                return None;
            }
            let [id, next, low, high] = dword(device, pointer).to_le_bytes();
            if id == CAP_MSIX {
                let place = |at| {
                    let value = dword(device, at);
                    (value.to_le_bytes()[0] & 7, u64::from(value & !7))
                };
                return Some(Self {
                    at: pointer,
                    vectors: usize::from(u16::from_le_bytes([low, high]) & 0x7ff) + 1,
                    table: place(pointer.checked_add(4)?),
                    pba: place(pointer.checked_add(8)?),
                });
            }
            pointer = next & 0xfc;
        }
        None
    }

    /// What of a BAR the table takes.
    pub fn table_range(&self, bar: u8) -> Option<Range<u64>> {
        (self.table.0 == bar).then(|| self.table.1..self.table.1 + self.vectors as u64 * ENTRY_SIZE)
    }

    /// What of a BAR the pending bits take.
    pub fn pba_range(&self, bar: u8) -> Option<Range<u64>> {
        (self.pba.0 == bar).then(|| self.pba.1..self.pba.1 + self.vectors.div_ceil(64) as u64 * 8)
    }
}
