// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One PCI bus, reached by configuration mechanism 1: a host bridge at 0:0.0, VFs from 0:1.0 on.
//!
//! [`vfio`] is the part to read when a VMM of one's own is to take a VF: it opens the device, shows its BARs and its
//! interrupts to the guest, and implements the crate's `Passthrough`.

pub mod bar;
pub mod config;
pub mod container;
pub mod interrupts;
pub mod mapping;
pub mod msix;
pub mod passthrough;
pub mod probe;
pub mod root;
pub mod shown;
pub mod state;
pub mod vfio;

/// A function on the bus.
pub trait Function: Send + Sync {
    /// Reads 1, 2 or 4 bytes of configuration space that do not cross a dword.
    fn read_config(&self, offset: u8, data: &mut [u8]);

    /// Writes 1, 2 or 4 bytes of configuration space that do not cross a dword.
    fn write_config(&self, offset: u8, data: &[u8]);
}
