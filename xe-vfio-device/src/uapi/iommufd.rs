// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // ioctl(2) with addresses in its argument
//! Page tables with dirty bits in an iommufd (include/uapi/linux/iommufd.h, drivers/iommu/iommufd/hw_pagetable.c).
//!
//! A VMM makes an IOAS ([`alloc_ioas`]), binds its device ([`bind`]), asks [`can_track`], makes a [`DirtyPageTable`] of the IOAS and
//! attaches the device to it ([`attach`]). The IOAS goes on to be what memory is mapped in; the page table follows it.
//!
//! The structs are written down here: no release of iommufd-bindings that vfio-ioctls takes has all of them.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vfio_bindings::bindings::vfio::{VFIO_BASE, VFIO_TYPE};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_io_nr;

use super::{Errno, UapiError};
use crate::dirty::{GuestRange, PAGE_SIZE, PageTableLog};

ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, VFIO_TYPE as u32, VFIO_BASE + 18);
ioctl_io_nr!(
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_TYPE as u32,
    VFIO_BASE + 19
);
ioctl_io_nr!(IOMMU_DESTROY, VFIO_TYPE as u32, 0x80);
ioctl_io_nr!(IOMMU_IOAS_ALLOC, VFIO_TYPE as u32, 0x81);
ioctl_io_nr!(IOMMU_HWPT_ALLOC, VFIO_TYPE as u32, 0x89);
ioctl_io_nr!(IOMMU_GET_HW_INFO, VFIO_TYPE as u32, 0x8a);
ioctl_io_nr!(IOMMU_HWPT_SET_DIRTY_TRACKING, VFIO_TYPE as u32, 0x8b);
ioctl_io_nr!(IOMMU_HWPT_GET_DIRTY_BITMAP, VFIO_TYPE as u32, 0x8c);

/// IOMMU_HW_CAP_DIRTY_TRACKING.
const CAP_DIRTY_TRACKING: u64 = 1;
/// IOMMU_HWPT_ALLOC_DIRTY_TRACKING.
const ALLOC_DIRTY_TRACKING: u32 = 2;
/// IOMMU_HWPT_DIRTY_TRACKING_ENABLE.
const TRACKING_ENABLE: u32 = 1;

#[repr(C)]
#[derive(Default)]
struct BindIommufd {
    argsz: u32,
    flags: u32,
    iommufd: i32,
    out_devid: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachPt {
    argsz: u32,
    flags: u32,
    pt_id: u32,
}

#[repr(C)]
#[derive(Default)]
struct Destroy {
    size: u32,
    id: u32,
}

#[repr(C)]
#[derive(Default)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

#[repr(C)]
#[derive(Default)]
struct HwptAlloc {
    size: u32,
    flags: u32,
    dev_id: u32,
    pt_id: u32,
    out_hwpt_id: u32,
    reserved: u32,
    data_type: u32,
    data_len: u32,
    data_uptr: u64,
    fault_id: u32,
    reserved2: u32,
}

#[repr(C)]
#[derive(Default)]
struct HwInfo {
    size: u32,
    flags: u32,
    dev_id: u32,
    data_len: u32,
    data_uptr: u64,
    out_data_type: u32,
    out_max_pasid_log2: u8,
    reserved: [u8; 3],
    out_capabilities: u64,
}

#[repr(C)]
#[derive(Default)]
struct SetDirtyTracking {
    size: u32,
    flags: u32,
    hwpt_id: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetDirtyBitmap {
    size: u32,
    hwpt_id: u32,
    flags: u32,
    reserved: u32,
    iova: u64,
    length: u64,
    page_size: u64,
    data: u64,
}

const _: () = assert!(size_of::<BindIommufd>() == 16);
const _: () = assert!(size_of::<AttachPt>() == 12);
const _: () = assert!(size_of::<Destroy>() == 8);
const _: () = assert!(size_of::<IoasAlloc>() == 12);
const _: () = assert!(size_of::<HwptAlloc>() == 48);
const _: () = assert!(size_of::<HwInfo>() == 40);
const _: () = assert!(size_of::<SetDirtyTracking>() == 16);
const _: () = assert!(size_of::<GetDirtyBitmap>() == 48);
const _: () = assert!(std::mem::offset_of!(HwInfo, out_capabilities) == 32);
const _: () = assert!(std::mem::offset_of!(GetDirtyBitmap, iova) == 16);

/// The size that a struct says of itself.
fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(0)
}

/// # Safety
/// `argument` is what `request` takes, says its own size, and addresses in it are those of memory that the kernel may access as
/// the request says.
unsafe fn call<T>(
    fd: BorrowedFd<'_>,
    name: &'static str,
    request: libc::c_ulong,
    argument: &mut T,
) -> Result<(), UapiError> {
    // SAFETY: the kernel accesses at most the size that the struct says, which is its own; the rest is the caller's promise.
    if unsafe { ioctl_with_mut_ref(&fd, request, argument) } < 0 {
        Err(UapiError::last(name))
    } else {
        Ok(())
    }
}

/// IOMMU_IOAS_ALLOC: an empty address space; its id. It goes with the iommufd.
///
/// # Errors
/// [`UapiError`].
pub fn alloc_ioas(iommufd: &impl AsRawFd) -> Result<u32, UapiError> {
    let mut alloc = IoasAlloc {
        size: size::<IoasAlloc>(),
        ..IoasAlloc::default()
    };
    let (fd, name) = (borrowed(iommufd), "IOMMU_IOAS_ALLOC");
    // SAFETY: integers only.
    unsafe { call(fd, name, IOMMU_IOAS_ALLOC(), &mut alloc) }?;
    Ok(alloc.out_ioas_id)
}

/// VFIO_DEVICE_BIND_IOMMUFD of an open cdev; the device's id in the iommufd. It is bound until it is closed.
///
/// # Errors
/// [`UapiError`].
pub fn bind(device: &impl AsRawFd, iommufd: &impl AsRawFd) -> Result<u32, UapiError> {
    let mut bind = BindIommufd {
        argsz: size::<BindIommufd>(),
        iommufd: iommufd.as_raw_fd(),
        ..BindIommufd::default()
    };
    let name = "VFIO_DEVICE_BIND_IOMMUFD";
    // SAFETY: integers only.
    unsafe {
        call(
            borrowed(device),
            name,
            VFIO_DEVICE_BIND_IOMMUFD(),
            &mut bind,
        )
    }?;
    Ok(bind.out_devid)
}

/// Whether the IOMMU in front of a bound device has dirty bits, by IOMMU_GET_HW_INFO.
///
/// # Errors
/// [`UapiError`]; EOPNOTSUPP where the IOMMU tells nothing of itself.
pub fn can_track(iommufd: &impl AsRawFd, device_id: u32) -> Result<bool, UapiError> {
    let mut info = HwInfo {
        size: size::<HwInfo>(),
        dev_id: device_id,
        ..HwInfo::default()
    };
    let (fd, name) = (borrowed(iommufd), "IOMMU_GET_HW_INFO");
    // SAFETY: integers only; no room for data is offered.
    unsafe { call(fd, name, IOMMU_GET_HW_INFO(), &mut info) }?;
    Ok(info.out_capabilities & CAP_DIRTY_TRACKING != 0)
}

/// VFIO_DEVICE_ATTACH_IOMMUFD_PT: the device's DMA goes through this page table or IOAS, in place of the one before.
///
/// # Errors
/// [`UapiError`]; the device is where it was.
pub fn attach(device: &impl AsRawFd, page_table: u32) -> Result<(), UapiError> {
    let mut attach = AttachPt {
        argsz: size::<AttachPt>(),
        pt_id: page_table,
        ..AttachPt::default()
    };
    let name = "VFIO_DEVICE_ATTACH_IOMMUFD_PT";
    // SAFETY: integers only.
    unsafe {
        call(
            borrowed(device),
            name,
            VFIO_DEVICE_ATTACH_IOMMUFD_PT(),
            &mut attach,
        )
    }
}

/// A page table with dirty bits, destroyed with the value; devices have to be detached before.
pub struct DirtyPageTable<F: AsRawFd> {
    iommufd: F,
    id: u32,
}

impl<F: AsRawFd> DirtyPageTable<F> {
    /// IOMMU_HWPT_ALLOC for a device, following the mappings of an IOAS.
    ///
    /// # Errors
    /// [`UapiError`]; EOPNOTSUPP where the IOMMU has no dirty bits.
    pub fn new(iommufd: F, device_id: u32, ioas: u32) -> Result<Self, UapiError> {
        let mut alloc = HwptAlloc {
            size: size::<HwptAlloc>(),
            flags: ALLOC_DIRTY_TRACKING,
            dev_id: device_id,
            pt_id: ioas,
            ..HwptAlloc::default()
        };
        let fd = borrowed(&iommufd);
        // SAFETY: integers only; no data is given.
        unsafe { call(fd, "IOMMU_HWPT_ALLOC", IOMMU_HWPT_ALLOC(), &mut alloc) }?;
        let id = alloc.out_hwpt_id;
        Ok(Self { iommufd, id })
    }

    /// Its id, for [`attach`].
    pub fn id(&self) -> u32 {
        self.id
    }
}

fn borrowed(fd: &impl AsRawFd) -> BorrowedFd<'_> {
    let fd: RawFd = fd.as_raw_fd();
    // SAFETY: the owner that lent the number is borrowed for as long as the result is.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

impl<F: AsRawFd + Send + Sync> PageTableLog for DirtyPageTable<F> {
    fn set(&self, on: bool) -> Result<(), UapiError> {
        let mut set = SetDirtyTracking {
            size: size::<SetDirtyTracking>(),
            flags: if on { TRACKING_ENABLE } else { 0 },
            hwpt_id: self.id,
            ..SetDirtyTracking::default()
        };
        let (name, request) = (
            "IOMMU_HWPT_SET_DIRTY_TRACKING",
            IOMMU_HWPT_SET_DIRTY_TRACKING(),
        );
        // SAFETY: integers only.
        unsafe { call(borrowed(&self.iommufd), name, request, &mut set) }
    }

    fn take(&self, range: GuestRange, bitmap: &mut [u64]) -> Result<(), UapiError> {
        let (name, request) = ("IOMMU_HWPT_GET_DIRTY_BITMAP", IOMMU_HWPT_GET_DIRTY_BITMAP());
        if range.length.div_ceil(PAGE_SIZE).div_ceil(64) > bitmap.len() as u64 {
            return Err(UapiError::new(name, Errno(libc::EINVAL)));
        }
        let mut get = GetDirtyBitmap {
            size: size::<GetDirtyBitmap>(),
            hwpt_id: self.id,
            iova: range.gpa,
            length: range.length,
            page_size: PAGE_SIZE,
            data: bitmap.as_mut_ptr() as u64,
            ..GetDirtyBitmap::default()
        };
        // SAFETY: the kernel sets bits for `length` bytes by pages, for which there is room in `bitmap`, during the call only.
        unsafe { call(borrowed(&self.iommufd), name, request, &mut get) }
    }
}

impl<F: AsRawFd> Drop for DirtyPageTable<F> {
    fn drop(&mut self) {
        let mut destroy = Destroy {
            size: size::<Destroy>(),
            id: self.id,
        };
        let fd = borrowed(&self.iommufd);
        // SAFETY: integers only.
        if let Err(error) = unsafe { call(fd, "IOMMU_DESTROY", IOMMU_DESTROY(), &mut destroy) } {
            tracing::warn!(%error, "a page table with dirty bits stays until the iommufd is closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_uapi() {
        assert_eq!(VFIO_DEVICE_BIND_IOMMUFD(), 0x3b76);
        assert_eq!(VFIO_DEVICE_ATTACH_IOMMUFD_PT(), 0x3b77);
        assert_eq!(IOMMU_DESTROY(), 0x3b80);
        assert_eq!(IOMMU_IOAS_ALLOC(), 0x3b81);
        assert_eq!(IOMMU_HWPT_ALLOC(), 0x3b89);
        assert_eq!(IOMMU_GET_HW_INFO(), 0x3b8a);
        assert_eq!(IOMMU_HWPT_SET_DIRTY_TRACKING(), 0x3b8b);
        assert_eq!(IOMMU_HWPT_GET_DIRTY_BITMAP(), 0x3b8c);
    }

    #[test]
    fn a_bitmap_that_is_too_small_never_reaches_the_kernel() {
        let table = DirtyPageTable {
            iommufd: std::fs::File::open("/dev/null").unwrap(),
            id: 1,
        };
        let range = GuestRange {
            gpa: 0,
            length: 65 << 12,
        };
        let errno = table.take(range, &mut [0]).unwrap_err().errno;
        assert_eq!(errno, Errno(libc::EINVAL));
        assert_eq!(
            table.take(range, &mut [0; 2]).unwrap_err().errno,
            Errno(libc::ENOTTY)
        );
    }
}
