// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Configuration mechanism 1: an address at 0xCF8, a window of a dword at 0xCFC, and a host bridge that is only there.
//!
//! The address register is guest state and travels: a guest may stop between its two accesses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use super::Function;

/// First of the eight ports.
pub const BASE: u16 = 0xcf8;
/// Number of ports.
pub const PORTS: u16 = 8;
/// Slots on the bus; slot 0 is the host bridge.
pub const SLOTS: u8 = 32;

const DATA: u16 = 4;
const ENABLE: u32 = 1 << 31;

/// The host bridge's identity: vendor Intel, device 440FX, class 0600.
const BRIDGE: [(u8, u32); 3] = [(0x00, 0x1237_8086), (0x08, 0x0600_0000), (0x0c, 0)];

/// The bus and its address register.
#[derive(Default)]
pub struct Root {
    address: AtomicU32,
    functions: RwLock<BTreeMap<u8, Arc<dyn Function>>>,
}

impl Root {
    /// Puts a function into a slot.
    ///
    /// # Panics
    /// On slot 0 and on slots that do not exist: the VM's configuration is checked before.
    pub fn plug(&self, slot: u8, function: Arc<dyn Function>) {
        assert!((1..SLOTS).contains(&slot), "slot {slot}");
        self.functions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(slot, function);
    }

    /// Takes the functions off the bus.
    pub fn unplug_all(&self) {
        self.functions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The address register, to be saved.
    #[must_use]
    pub fn address(&self) -> u32 {
        self.address.load(Ordering::SeqCst)
    }

    /// Restores the address register; any value is one that a guest could have written.
    pub fn set_address(&self, address: u32) {
        self.address.store(address, Ordering::SeqCst);
    }

    /// The function that the address register selects and the offset of the dword.
    fn selected(&self) -> Option<(u8, u8)> {
        let address = self.address();
        let [register, function, bus, _] = address.to_le_bytes();
        (address & ENABLE != 0 && bus == 0 && function & 7 == 0)
            .then_some((function >> 3, register & 0xfc))
    }

    fn read(&self, within: u8, data: &mut [u8]) {
        data.fill(0xff);
        match self.selected() {
            Some((0, register)) => {
                let dword = BRIDGE
                    .iter()
                    .find(|(at, _)| *at == register)
                    .map_or(0, |(_, value)| *value)
                    .to_le_bytes();
                data.copy_from_slice(&dword[usize::from(within)..][..data.len()]);
            }
            Some((slot, register)) => {
                let functions = self
                    .functions
                    .read()
                    .unwrap_or_else(PoisonError::into_inner);
                if let Some(function) = functions.get(&slot) {
                    function.read_config(register + within, data);
                }
            }
            None => {}
        }
    }

    fn write(&self, within: u8, data: &[u8]) {
        if let Some((slot, register)) = self.selected() {
            let functions = self
                .functions
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(function) = functions.get(&slot) {
                function.write_config(register + within, data);
            }
        }
    }
}

/// Where in the data dword an access lies, when it lies in it and crosses no end.
fn within_data(offset: u16, length: usize) -> Option<u8> {
    let within = offset.checked_sub(DATA)?;
    (matches!(length, 1 | 2 | 4) && usize::from(within) + length <= 4)
        .then(|| u8::try_from(within).ok())
        .flatten()
}

impl DevicePio for Root {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        if let Some(within) = within_data(offset, data.len()) {
            self.read(within, data);
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address().to_le_bytes());
        } else {
            data.fill(0xff);
        }
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let Some(within) = within_data(offset, data.len()) {
            self.write(within, data);
        } else if let (0, Ok(dword)) = (offset, <[u8; 4]>::try_from(data)) {
            self.set_address(u32::from_le_bytes(dword));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u8, Vec<u8>)>>);

    impl Function for Recorder {
        fn read_config(&self, offset: u8, data: &mut [u8]) {
            data.fill(offset);
        }

        fn write_config(&self, offset: u8, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn select(root: &Root, slot: u32, register: u32) {
        root.pio_write(
            PioAddress(BASE),
            0,
            &(ENABLE | slot << 11 | register).to_le_bytes(),
        );
    }

    fn read(root: &Root, within: u16, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        root.pio_read(PioAddress(BASE), DATA + within, &mut data);
        data
    }

    #[test]
    fn the_bridge_is_at_slot_0_and_an_empty_slot_reads_as_ones() {
        let root = Root::default();
        select(&root, 0, 0);
        assert_eq!(read(&root, 0, 4), 0x1237_8086u32.to_le_bytes());
        assert_eq!(read(&root, 2, 2), 0x1237u16.to_le_bytes());
        select(&root, 5, 0);
        assert_eq!(read(&root, 0, 4), [0xff; 4]);
    }

    #[test]
    fn a_function_sees_the_byte_that_was_addressed() {
        let root = Root::default();
        let function = Arc::new(Recorder::default());
        root.plug(3, function.clone());
        select(&root, 3, 0x10);
        assert_eq!(read(&root, 2, 1), [0x12]);
        root.pio_write(PioAddress(BASE), DATA + 2, &[7, 8]);
        root.pio_write(PioAddress(BASE), DATA + 3, &[7, 8]);
        assert_eq!(*function.0.lock().unwrap(), [(0x12, vec![7, 8])]);
    }

    #[test]
    fn without_the_enable_bit_nobody_answers() {
        let root = Root::default();
        root.plug(1, Arc::new(Recorder::default()));
        root.set_address(1 << 11);
        assert_eq!(read(&root, 0, 4), [0xff; 4]);
    }
}
