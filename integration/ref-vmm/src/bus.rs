// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where port and MMIO accesses of a vCPU go: two `vm-device` buses.
//!
//! They have a lock each, because a port access (a write to a BAR through 0xCFC) may change what the MMIO bus holds.
//! An address that nobody claims reads as all ones and swallows writes, as on a PC.

use std::sync::{Arc, PoisonError, RwLock};

use vm_device::bus::{Error as BusError, MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_device::{DeviceMmio, DevicePio};

/// A range could not be claimed.
#[derive(Debug, thiserror::Error)]
#[error("Range {base:#x}+{size:#x} cannot be claimed on the {bus} bus")]
pub struct Error {
    bus: &'static str,
    base: u64,
    size: u64,
    #[source]
    source: BusError,
}

/// The two buses of a VM.
#[derive(Default)]
pub struct Bus {
    ports: RwLock<IoManager>,
    mmio: RwLock<IoManager>,
}

impl Bus {
    /// Gives `size` ports from `base` to a device.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn claim_ports(
        &self,
        base: u16,
        size: u16,
        device: Arc<dyn DevicePio + Send + Sync>,
    ) -> Result<(), Error> {
        let failed = |source| Error {
            bus: "port",
            base: base.into(),
            size: size.into(),
            source,
        };
        let range = PioRange::new(PioAddress(base), size).map_err(failed)?;
        let mut ports = self.ports.write().unwrap_or_else(PoisonError::into_inner);
        ports.register_pio(range, device).map_err(failed)
    }

    /// Gives `size` bytes of MMIO from `base` to a device.
    ///
    /// # Errors
    /// When a byte is taken.
    pub fn claim_mmio(
        &self,
        base: u64,
        size: u64,
        device: Arc<dyn DeviceMmio + Send + Sync>,
    ) -> Result<(), Error> {
        let failed = |source| Error {
            bus: "MMIO",
            base,
            size,
            source,
        };
        let range = MmioRange::new(MmioAddress(base), size).map_err(failed)?;
        let mut mmio = self.mmio.write().unwrap_or_else(PoisonError::into_inner);
        mmio.register_mmio(range, device).map_err(failed)
    }

    /// Takes the range that holds `base` away from its device.
    pub fn release_mmio(&self, base: u64) {
        let mut mmio = self.mmio.write().unwrap_or_else(PoisonError::into_inner);
        mmio.deregister_mmio(MmioAddress(base));
    }

    /// A vCPU reads a port.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if ports.pio_read(PioAddress(port), data).is_err() {
            data.fill(0xff);
        }
    }

    /// A vCPU writes a port.
    pub fn write_port(&self, port: u16, data: &[u8]) {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if ports.pio_write(PioAddress(port), data).is_err() {
            tracing::trace!(port, "write to a port that nobody claims");
        }
    }

    /// A vCPU reads an address that is not memory.
    pub fn read_mmio(&self, address: u64, data: &mut [u8]) {
        let mmio = self.mmio.read().unwrap_or_else(PoisonError::into_inner);
        if mmio.mmio_read(MmioAddress(address), data).is_err() {
            data.fill(0xff);
        }
    }

    /// A vCPU writes an address that is not memory.
    pub fn write_mmio(&self, address: u64, data: &[u8]) {
        let mmio = self.mmio.read().unwrap_or_else(PoisonError::into_inner);
        if mmio.mmio_write(MmioAddress(address), data).is_err() {
            tracing::trace!(address, "write to an address that nobody claims");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::{self, Serial, Target};

    #[test]
    fn nobody_home_reads_as_all_ones() {
        let bus = Bus::default();
        let mut data = [0; 4];
        bus.read_port(0x80, &mut data);
        assert_eq!(data, [0xff; 4]);
        data.fill(0);
        bus.read_mmio(0xfee0_0000_0000, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn a_port_has_one_owner() {
        let bus = Bus::default();
        let serial = Arc::new(Serial::new(&Target::Null).unwrap());
        bus.claim_ports(serial::BASE, serial::PORTS, serial.clone())
            .unwrap();
        let error = bus.claim_ports(serial::BASE + 7, 1, serial).unwrap_err();
        assert!(error.to_string().contains("0x3ff"), "{error}");
    }
}
