// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF through its cdev and an iommufd, with their ioctls as they are (include/uapi/linux/iommufd.h).

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use crate::check::{Outcome, failed, works};
use crate::sys::{self, Answer};

const DESTROY: u64 = 0x3b80;
const IOAS_ALLOC: u64 = 0x3b81;
const IOAS_MAP: u64 = 0x3b85;
const IOAS_UNMAP: u64 = 0x3b86;
const HWPT_ALLOC: u64 = 0x3b89;
const GET_HW_INFO: u64 = 0x3b8a;
const SET_DIRTY_TRACKING: u64 = 0x3b8b;
const GET_DIRTY_BITMAP: u64 = 0x3b8c;
const DEVICE_BIND: u64 = 0x3b76;
const DEVICE_ATTACH: u64 = 0x3b77;

/// A page.
pub const PAGE: u64 = 4096;
/// IOMMU_HWPT_ALLOC_DIRTY_TRACKING.
pub const DIRTY_TRACKING: u32 = 2;

/// A bound VF, an IOAS with memory mapped at an IOVA.
pub struct Bound {
    iommufd: OwnedFd,
    cdev: OwnedFd,
    memory: Vec<u8>,
    /// Id of the device.
    pub device: u32,
    /// Id of the IOAS.
    pub ioas: u32,
}

impl Bound {
    /// Opens and binds the VF with this sysfs directory.
    pub fn open(sysfs: &Path) -> Outcome<Self> {
        let named = fs::read_dir(sysfs.join("vfio-dev"))
            .ok()
            .and_then(|mut entries| entries.next()?.ok());
        let Some(named) = named else {
            return failed(format_args!("{} has no vfio-dev", sysfs.display()));
        };
        let node = Path::new("/dev/vfio/devices").join(named.file_name());
        let cdev = works("open the cdev", sys::open(&node, libc::O_RDWR))?;
        let iommufd = works(
            "open /dev/iommu",
            sys::open(Path::new("/dev/iommu"), libc::O_RDWR),
        )?;
        let mut bound = Self {
            iommufd,
            cdev,
            memory: vec![0; 65 * PAGE as usize],
            device: 0,
            ioas: 0,
        };
        let bind = &mut [16, 0, bound.iommufd.as_raw_fd().cast_unsigned(), 0];
        works("BIND_IOMMUFD", call(&bound.cdev, DEVICE_BIND, bind))?;
        bound.device = bind[3];
        let alloc = &mut [12, 0, 0];
        works("IOAS_ALLOC", call(&bound.iommufd, IOAS_ALLOC, alloc))?;
        bound.ioas = alloc[2];
        Ok(bound)
    }

    /// IOMMU_IOAS_MAP of so many pages at an IOVA.
    pub fn map(&self, iova: u64, pages: u64) -> Answer<()> {
        let at = (self.memory.as_ptr() as u64).next_multiple_of(PAGE);
        let [a, b] = split(at);
        let [c, d] = split(pages * PAGE);
        let [e, f] = split(iova);
        let words = &mut [40, 7, self.ioas, 0, a, b, c, d, e, f];
        call(&self.iommufd, IOAS_MAP, words)
    }

    /// IOMMU_IOAS_UNMAP.
    pub fn unmap(&self, iova: u64, pages: u64) -> Answer<()> {
        let ([a, b], [c, d]) = (split(iova), split(pages * PAGE));
        call(&self.iommufd, IOAS_UNMAP, &mut [24, self.ioas, a, b, c, d])
    }

    /// The capabilities of IOMMU_GET_HW_INFO.
    pub fn capabilities(&self, device: u32) -> Answer<u64> {
        let words = &mut [40, 0, device, 0, 0, 0, 0, 0, 0, 0];
        call(&self.iommufd, GET_HW_INFO, words)?;
        Ok(u64::from(words[8]) | u64::from(words[9]) << 32)
    }

    /// IOMMU_HWPT_ALLOC; the id.
    pub fn alloc(&self, flags: u32, device: u32, pt: u32) -> Answer<u32> {
        let words = &mut [48, flags, device, pt, 0, 0, 0, 0, 0, 0, 0, 0];
        call(&self.iommufd, HWPT_ALLOC, words)?;
        Ok(words[4])
    }

    /// VFIO_DEVICE_ATTACH_IOMMUFD_PT; the page table.
    pub fn attach(&self, pt: u32) -> Answer<u32> {
        let words = &mut [12, 0, pt];
        call(&self.cdev, DEVICE_ATTACH, words)?;
        Ok(words[2])
    }

    /// IOMMU_DESTROY.
    pub fn destroy(&self, id: u32) -> Answer<()> {
        call(&self.iommufd, DESTROY, &mut [8, id])
    }

    /// IOMMU_HWPT_SET_DIRTY_TRACKING.
    pub fn set_tracking(&self, hwpt: u32, flags: u32) -> Answer<()> {
        call(&self.iommufd, SET_DIRTY_TRACKING, &mut [16, flags, hwpt, 0])
    }

    /// IOMMU_HWPT_GET_DIRTY_BITMAP of bytes at an IOVA into a word that held `before`.
    pub fn bitmap(&self, hwpt: u32, flags: u32, range: [u64; 3], before: u64) -> Answer<u64> {
        let mut bits = [before; 2];
        let [[a, b], [c, d], [e, f]] = range.map(split);
        let [g, h] = split(bits.as_mut_ptr() as u64);
        let words = &mut [48, hwpt, flags, 0, a, b, c, d, e, f, g, h];
        call(&self.iommufd, GET_DIRTY_BITMAP, words)?;
        Ok(std::hint::black_box(bits)[0])
    }
}

fn split(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

fn call(fd: &OwnedFd, request: u64, words: &mut [u32]) -> Answer<()> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    sys::ioctl_bytes(fd.as_fd(), request, &mut bytes)?;
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Ok(())
}
