// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The directly mapped pieces of a device's BARs in this process.
#![allow(unsafe_code)] // mmap of a device file has no safe wrapper.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_ioctls::{VfioDevice, VfioRegionInfoCap};

use super::bar::{Bar, Piece, divide};

/// Memory of a device mapped into this process; unmapped when dropped, unless it is to be kept.
pub struct Mapping {
    host: *mut u8,
    size: usize,
    kept: bool,
}

// SAFETY: an address range; those who access it do so as guest memory.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(device: &VfioDevice, offset: u64, size: u64) -> io::Result<Self> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let length = usize::try_from(size).map_err(invalid)?;
        let offset = libc::off_t::try_from(offset).map_err(invalid)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no existing memory.
        let host = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                device.as_raw_fd(),
                offset,
            )
        };
        if host == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            host: host.cast(),
            size: length,
            kept: false,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn host(&self) -> *mut u8 {
        self.host
    }

    /// Leaves it mapped until the process ends, because the guest can still reach it.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.kept {
            tracing::warn!(
                size = self.size,
                "memory of a VF stays mapped: the guest can still reach it"
            );
            return;
        }
        // SAFETY: the range was mapped by `new`, and no slot refers to it: its owner removes them first, and where that
        // failed it has called `keep`.
        unsafe { libc::munmap(self.host.cast(), self.size) };
    }
}

/// A piece of a BAR; `mapping` is there when the guest may reach it directly.
pub struct MappedPiece {
    /// What it is.
    pub piece: Piece,
    /// Its memory.
    pub mapping: Option<Mapping>,
}

/// Maps what can be mapped of a BAR, but for the ranges in `trapped`.
///
/// # Errors
/// The reason of an mmap that failed although the device offers it.
pub fn map_bar(
    device: &VfioDevice,
    bar: &Bar,
    trapped: &[std::ops::Range<u64>],
) -> io::Result<Vec<MappedPiece>> {
    const ALL: u32 =
        VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    let region = VFIO_PCI_BAR0_REGION_INDEX + u32::from(bar.index);
    let mut mappable = Vec::new();
    if device.get_region_flags(region) & ALL == ALL {
        for capability in device.get_region_caps(region) {
            if let VfioRegionInfoCap::SparseMmap(sparse) = capability {
                mappable.extend(sparse.areas.iter().map(|a| a.offset..a.offset + a.size));
            }
        }
        if mappable.is_empty() {
            mappable.push(0..bar.size);
        }
    }
    let start = device.get_region_offset(region);
    divide(bar.size, &mappable, trapped)
        .into_iter()
        .map(|piece| {
            let mapping = piece
                .direct
                .then(|| Mapping::new(device, start + piece.offset, piece.size))
                .transpose()?;
            Ok(MappedPiece { piece, mapping })
        })
        .collect()
}
