// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PCI configuration space of a VF: 4 KiB in a file that every process maps, with the bits a driver may change.

// Unsafe: a shared mapping.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use guest::abi;

use super::sys;
use crate::host::HostConfig;
use crate::vf::Vf;

/// Bytes of configuration space.
pub const SIZE: usize = 4096;
/// Offset of the PCIe capability.
const EXP: usize = 0x40;
/// Offset of the power management capability.
const PM: usize = 0x80;
/// Offset of the MSI-X capability.
const MSIX: usize = 0x90;
/// Device control register, and the bit in its high byte that starts a function level reset.
const DEVCTL: usize = EXP + 8;
const FLR: u8 = 0x80;

/// What a write asked for besides storing bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A function level reset.
    Reset,
}

/// Configuration space and its write masks.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: NonNull<[AtomicU8; SIZE]>,
    reset: Vec<u8>,
    mask: Vec<u8>,
}

// SAFETY: the mapping is shared, lives as long as the process, and is accessed by atomic bytes.
unsafe impl Send for ConfigSpace {}
// SAFETY: as above.
unsafe impl Sync for ConfigSpace {}

fn put(bytes: &mut [u8], at: usize, value: u64, len: usize) {
    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// Address that BAR0 of VF `index` has on the host.
pub fn bar0_address(index: u16) -> u64 {
    0x8000_0000 + u64::from(index) * u64::from(abi::BAR0_SIZE)
}

/// Address that BAR2 of VF `index` has on the host.
pub fn bar2_address(index: u16, size: u64) -> u64 {
    (1 << 42) + u64::from(index) * size
}

/// Configuration space after reset.
pub fn initial(config: &HostConfig, index: u16) -> Vec<u8> {
    let mut b = vec![0; SIZE];
    put(&mut b, 0x00, 0x8086, 2);
    put(&mut b, 0x02, u64::from(config.device_id), 2);
    put(&mut b, 0x06, 0x0010, 2);
    put(&mut b, 0x08, u64::from(config.revision), 1);
    put(&mut b, 0x09, 0x03_8000, 3);
    put(&mut b, 0x10, bar0_address(index), 4);
    put(
        &mut b,
        0x18,
        bar2_address(index, config.bar2_size()) | 0xc,
        8,
    );
    put(&mut b, 0x2c, 0x8086, 2);
    put(&mut b, 0x2e, 0x1100, 2);
    put(&mut b, 0x34, EXP as u64, 1);
    // PCIe capability, version 2, endpoint; device capabilities: role-based errors, FLR.
    put(&mut b, EXP, 0x0002_0000 | (PM as u64) << 8 | 0x10, 4);
    put(&mut b, EXP + 4, 1 << 28 | 1 << 15, 4);
    put(&mut b, EXP + 0xc, 0x0001_0011, 4);
    put(&mut b, EXP + 0x12, 0x0011, 2);
    // Power management, version 3.
    put(&mut b, PM, 0x0003_0000 | (MSIX as u64) << 8 | 0x01, 4);
    put(&mut b, PM + 4, 0x8, 2);
    put(
        &mut b,
        MSIX,
        u64::from(abi::MSIX_VECTORS - 1) << 16 | 0x11,
        4,
    );
    put(&mut b, MSIX + 4, u64::from(abi::MSIX_TABLE), 4);
    put(&mut b, MSIX + 8, u64::from(abi::MSIX_PBA), 4);
    b
}

fn writable(bar2_size: u64) -> Vec<u8> {
    let mut m = vec![0; SIZE];
    put(&mut m, 0x04, 0x0546, 2);
    put(&mut m, 0x0c, 0xff, 1);
    put(&mut m, 0x10, !(u64::from(abi::BAR0_SIZE) - 1), 4);
    put(&mut m, 0x18, !(bar2_size - 1), 8);
    put(&mut m, 0x3c, 0xff, 1);
    put(&mut m, DEVCTL, 0x7fff, 2);
    put(&mut m, PM + 4, 0x3, 2);
    put(&mut m, MSIX + 2, 0xc000, 2);
    m
}

impl ConfigSpace {
    /// Opens the configuration space in the file `path`, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be made or mapped.
    pub fn open(path: &Path, config: &HostConfig, vf: &Vf) -> io::Result<Self> {
        let reset = initial(config, vf.index());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if file.metadata()?.len() != SIZE as u64 {
            file.set_len(SIZE as u64)?;
            use std::os::unix::fs::FileExt;
            file.write_all_at(&reset, 0)?;
        }
        let address = sys::map_shared(file.as_raw_fd(), SIZE as u64, 0)
            .map_err(|e| io::Error::from_raw_os_error(e.0))?;
        let bytes = NonNull::new(address as *mut _)
            .ok_or_else(|| io::Error::other("mmap answered address 0"))?;
        Ok(Self {
            bytes,
            reset,
            mask: writable(config.bar2_size()),
        })
    }

    fn bytes(&self) -> &[AtomicU8; SIZE] {
        // SAFETY: mapped in `open`, never unmapped; other processes access it by atomic bytes too.
        unsafe { self.bytes.as_ref() }
    }

    /// As at the first open of the device.
    pub fn reset(&self) {
        for (byte, &value) in self.bytes().iter().zip(&self.reset) {
            byte.store(value, Ordering::Relaxed);
        }
    }

    /// Reads from `offset`; `buf` must end within the space.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        for (to, from) in buf.iter_mut().zip(&self.bytes()[offset..]) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    /// Writes at `offset`; `data` must end within the space.
    pub fn write(&self, offset: usize, data: &[u8]) -> Effect {
        let mut effect = Effect::None;
        for (i, &new) in data.iter().enumerate() {
            let at = offset + i;
            let old = self.bytes()[at].load(Ordering::Relaxed);
            let mask = self.mask[at];
            self.bytes()[at].store((old & !mask) | (new & mask), Ordering::Relaxed);
            if at == DEVCTL + 1 && new & FLR != 0 {
                effect = Effect::Reset;
            }
        }
        effect
    }
}
