// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // ioctl(2) with addresses in its argument
//! DMA_LOGGING_START, REPORT and STOP on a device fd (include/uapi/linux/vfio.h, drivers/vfio/vfio_main.c).
//!
//! No Xe VF has them: ENOTTY. Others do, and what they log is what the crate's `device` strategy answers.

use std::os::fd::{AsFd, BorrowedFd};

use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PROBE,
    VFIO_DEVICE_FEATURE_SET, vfio_device_feature_dma_logging_control,
    vfio_device_feature_dma_logging_range, vfio_device_feature_dma_logging_report,
};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use super::feature::VFIO_DEVICE_FEATURE;
use super::{Errno, KernelVf, UapiError};
use crate::dirty::{DmaLog, GuestRange};

#[repr(C)]
struct Feature<T> {
    argsz: u32,
    flags: u32,
    payload: T,
}

const _: () = assert!(size_of::<Feature<()>>() == 8);
const _: () = assert!(size_of::<Feature<vfio_device_feature_dma_logging_control>>() == 32);
const _: () = assert!(size_of::<Feature<vfio_device_feature_dma_logging_report>>() == 40);
const _: () = assert!(size_of::<vfio_device_feature_dma_logging_range>() == 16);

/// # Safety
/// Addresses in `payload` are those of memory that the kernel may access as the feature says.
unsafe fn feature<T>(
    fd: BorrowedFd<'_>,
    call: &'static str,
    flags: u32,
    payload: T,
) -> Result<T, UapiError> {
    let argsz = u32::try_from(size_of::<Feature<T>>()).unwrap_or(0);
    let mut feature = Feature {
        argsz,
        flags,
        payload,
    };
    // SAFETY: the kernel reads and writes at most `argsz` bytes at the pointer, which is the size of the struct behind it; its payloads
    // are integers. What it finds at addresses in it is the caller's promise.
    let result = unsafe { ioctl_with_mut_ref(&fd, VFIO_DEVICE_FEATURE(), &mut feature) };
    if result < 0 {
        Err(UapiError::last(call))
    } else {
        Ok(feature.payload)
    }
}

impl<O: AsFd + Send> DmaLog for KernelVf<O> {
    fn probe(&self) -> Result<(), UapiError> {
        for feature_of_log in [
            VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET,
            VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET,
            VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET,
        ] {
            let flags = feature_of_log | VFIO_DEVICE_FEATURE_PROBE;
            let call = "VFIO_DEVICE_FEATURE PROBE DMA_LOGGING";
            // SAFETY: no payload, no addresses.
            unsafe { feature(self.owner.as_fd(), call, flags, ()) }?;
        }
        Ok(())
    }

    fn start(&self, ranges: &[GuestRange], page: u64) -> Result<u64, UapiError> {
        const CALL: &str = "VFIO_DEVICE_FEATURE SET DMA_LOGGING_START";
        let list: Vec<_> = ranges
            .iter()
            .map(|range| vfio_device_feature_dma_logging_range {
                iova: range.gpa,
                length: range.length,
            })
            .collect();
        let control = vfio_device_feature_dma_logging_control {
            page_size: page,
            num_ranges: u32::try_from(list.len())
                .map_err(|_| UapiError::new(CALL, Errno(libc::E2BIG)))?,
            __reserved: 0,
            ranges: list.as_ptr() as u64,
        };
        let flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET;
        // SAFETY: `ranges` points to `num_ranges` ranges that are read during the call only.
        let taken = unsafe { feature(self.owner.as_fd(), CALL, flags, control) }?;
        Ok(taken.page_size)
    }

    fn report(&self, range: GuestRange, page: u64, bitmap: &mut [u64]) -> Result<(), UapiError> {
        const CALL: &str = "VFIO_DEVICE_FEATURE GET DMA_LOGGING_REPORT";
        let bits = range.length.div_ceil(page.max(1));
        if bits.div_ceil(64) > bitmap.len() as u64 {
            return Err(UapiError::new(CALL, Errno(libc::EINVAL)));
        }
        let report = vfio_device_feature_dma_logging_report {
            iova: range.gpa,
            length: range.length,
            page_size: page,
            bitmap: bitmap.as_mut_ptr() as u64,
        };
        let flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET;
        // SAFETY: the kernel sets bits for `length` bytes by `page`, for which there is room in `bitmap`, during the call only.
        unsafe { feature(self.owner.as_fd(), CALL, flags, report) }.map(drop)
    }

    fn stop(&self) -> Result<(), UapiError> {
        let flags = VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET;
        let call = "VFIO_DEVICE_FEATURE SET DMA_LOGGING_STOP";
        // SAFETY: no payload, no addresses.
        unsafe { feature(self.owner.as_fd(), call, flags, ()) }
    }
}
