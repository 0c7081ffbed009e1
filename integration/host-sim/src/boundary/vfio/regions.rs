// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Regions of a device fd: their description, access by pread and pwrite, and mapping.
//!
//! A region starts at its index shifted left by 40 bits, as in vfio-pci.

// Unsafe: copies from and to the VF's memory.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::AsRawFd;

use super::{Answer, device};
use crate::boundary::config_space::{self, Effect};
use crate::boundary::hosts::VfLocal;
use crate::boundary::object::Object;
use crate::boundary::sys::call;
use crate::boundary::user;
use crate::vf::Errno;

const SHIFT: u32 = 40;
/// VFIO_PCI_VGA_REGION_INDEX and VFIO_PCI_NUM_REGIONS.
const VGA: u32 = 8;
/// Number of regions.
pub const COUNT: u32 = 9;

/// What is behind a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    /// A BAR: `len` bytes from `start` in the VF's memory.
    Bar {
        start: u64,
        len: u64,
        has_msix: bool,
    },
    Config,
    /// A BAR or ROM that the VF has not.
    Absent,
}

fn region(vf: &VfLocal, index: u32) -> Result<Region, Errno> {
    match index {
        0 => Ok(Region::Bar {
            start: 0,
            len: vf.vf.bar0_size(),
            has_msix: true,
        }),
        2 => Ok(Region::Bar {
            start: u64::from(guest::abi::VRAM_WINDOW),
            len: vf.vf.bar2_size(),
            has_msix: false,
        }),
        1 | 3..=6 => Ok(Region::Absent),
        7 => Ok(Region::Config),
        VGA.. => Err(Errno::EINVAL),
    }
}

/// VFIO_DEVICE_GET_REGION_INFO.
pub fn info(vf: &VfLocal, arg: usize) -> Answer {
    const SIZE: u32 = 32;
    const READ: u32 = 1;
    const WRITE: u32 = 2;
    const MMAP: u32 = 4;
    const CAPS: u32 = 8;
    const CAP_MSIX_MAPPABLE: u16 = 3;
    let (argsz, index) = (user::get::<u32>(arg)?, user::get::<u32>(arg + 8)?);
    if argsz < SIZE {
        return Err(Errno::EINVAL);
    }
    let (mut flags, size, capability) = match region(vf, index)? {
        Region::Bar { len, has_msix, .. } => (READ | WRITE | MMAP, len, has_msix),
        Region::Config => (READ | WRITE, config_space::SIZE as u64, false),
        Region::Absent => (0, 0, false),
    };
    let mut cap_offset = 0;
    if capability {
        flags |= CAPS;
        if argsz >= SIZE + 8 {
            cap_offset = SIZE;
            user::put(arg + SIZE as usize, CAP_MSIX_MAPPABLE)?;
            user::put(arg + SIZE as usize + 2, 1u16)?;
            user::put(arg + SIZE as usize + 4, 0u32)?;
        } else {
            user::put(arg, SIZE + 8)?;
        }
    }
    user::put(arg + 4, flags)?;
    user::put(arg + 12, cap_offset)?;
    user::put(arg + 16, size)?;
    user::put(arg + 24, u64::from(index) << SHIFT)?;
    Ok(0)
}

fn split(vf: &VfLocal, offset: i64) -> Result<(Region, u64), Errno> {
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let index = u32::try_from(offset >> SHIFT).map_err(|_| Errno::EINVAL)?;
    Ok((region(vf, index)?, offset & ((1 << SHIFT) - 1)))
}

/// How many of `len` bytes at `at` are within a region of `size`.
fn within(at: u64, len: usize, size: u64) -> Result<usize, Errno> {
    if at >= size {
        Err(Errno::EINVAL)
    } else {
        Ok(len.min((size - at) as usize))
    }
}

/// pread on a device fd.
pub fn pread(object: &Object, buf: usize, len: usize, offset: i64) -> Result<usize, Errno> {
    let vf = device::usable(object)?;
    let (region, at) = split(vf, offset)?;
    match region {
        Region::Absent => Err(Errno::EINVAL),
        Region::Config => {
            let len = within(at, len, config_space::SIZE as u64)?;
            vf.config.read(at as usize, user::slice_mut(buf, len)?);
            Ok(len)
        }
        Region::Bar {
            start, len: size, ..
        } => {
            let len = within(at, len, size)?;
            copy(buf, memory(vf, start + at, len)?, len, true)
        }
    }
}

/// pwrite on a device fd.
pub fn pwrite(object: &Object, buf: usize, len: usize, offset: i64) -> Result<usize, Errno> {
    let vf = device::usable(object)?;
    let (region, at) = split(vf, offset)?;
    match region {
        Region::Absent => Err(Errno::EINVAL),
        Region::Config => {
            let len = within(at, len, config_space::SIZE as u64)?;
            if vf.config.write(at as usize, user::slice(buf, len)?) == Effect::Reset {
                vf.vf.reset()?;
            }
            Ok(len)
        }
        Region::Bar {
            start, len: size, ..
        } => {
            let len = within(at, len, size)?;
            copy(buf, memory(vf, start + at, len)?, len, false)
        }
    }
}

/// Address of `len` bytes at `at` in this process's mapping of the VF's memory.
fn memory(vf: &VfLocal, at: u64, len: usize) -> Result<usize, Errno> {
    let memory = vf.vf.memory();
    if at + len as u64 > memory.len() as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(memory.cast::<u8>().as_ptr() as usize + at as usize)
}

/// Copies between a caller's buffer and a device's memory in the widest accesses that the alignment allows.
fn copy(buf: usize, device: usize, len: usize, to_buffer: bool) -> Result<usize, Errno> {
    if len > 0 && buf < 4096 {
        return Err(Errno::EFAULT);
    }
    let mut done = 0;
    while done < len {
        let (host, dev) = (buf + done, device + done);
        // SAFETY: the buffer is lent by the caller of the system call for `len` bytes; the device's range was checked
        // against its mapping, and is accessed volatile, since a guest and other processes share it.
        unsafe {
            macro_rules! access {
                ($t:ty) => {{
                    if to_buffer {
                        (host as *mut $t).write_unaligned((dev as *const $t).read_volatile());
                    } else {
                        (dev as *mut $t).write_volatile((host as *const $t).read_unaligned());
                    }
                    done += size_of::<$t>();
                }};
            }
            match (dev % 8, len - done) {
                (0, 8..) => access!(u64),
                (0 | 4, 4..) => access!(u32),
                (0 | 2 | 4 | 6, 2..) => access!(u16),
                _ => access!(u8),
            }
        }
    }
    Ok(len)
}

/// mmap of a device fd: the VF's memory at the same place.
pub fn mmap(
    object: &Object,
    address: usize,
    len: usize,
    protection: c_int,
    flags: c_int,
    offset: i64,
) -> Result<usize, Errno> {
    let vf = device::usable(object)?;
    if flags & libc::MAP_TYPE == libc::MAP_PRIVATE {
        return Err(Errno::EINVAL);
    }
    let (region, at) = split(vf, offset)?;
    let Region::Bar {
        start, len: size, ..
    } = region
    else {
        return Err(Errno::EINVAL);
    };
    let end = at
        .checked_add(len.next_multiple_of(4096) as u64)
        .ok_or(Errno::EINVAL)?;
    if len == 0 || !at.is_multiple_of(4096) || end > size {
        return Err(Errno::EINVAL);
    }
    let fd = vf.vf.memory_file().as_raw_fd();
    call!(
        libc::SYS_mmap,
        address,
        len,
        protection,
        flags,
        fd,
        start + at
    )
    .map(|a| a as usize)
}
