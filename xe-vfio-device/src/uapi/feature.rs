// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // ioctl(2) and the fd that VFIO_DEVICE_FEATURE hands over
//! VFIO_DEVICE_FEATURE, VFIO_DEVICE_RESET and VFIO_DEVICE_GET_REGION_INFO on a device fd.
//!
//! Only the five states of [`DeviceState`] can be asked for: a SET to any other makes the driver stop the VF while GET goes
//! on naming the old state.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_DEVICE_FEATURE_MIGRATION, VFIO_DEVICE_FEATURE_SET,
    VFIO_TYPE, vfio_device_feature, vfio_device_feature_mig_data_size,
    vfio_device_feature_mig_state, vfio_device_feature_migration, vfio_region_info,
};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref};
use vmm_sys_util::ioctl_io_nr;

use super::{DataFd, Errno, UapiError};
use crate::state::DeviceState;

ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, VFIO_TYPE as u32, VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE as u32, VFIO_BASE + 11);
ioctl_io_nr!(VFIO_DEVICE_FEATURE, VFIO_TYPE as u32, VFIO_BASE + 17);

/// The header of VFIO_DEVICE_FEATURE and its payload behind it, as the kernel reads them.
#[repr(C)]
struct Feature<T> {
    argsz: u32,
    flags: u32,
    payload: T,
}

const _: () = assert!(size_of::<vfio_device_feature>() == 8);
const _: () = assert!(size_of::<Feature<vfio_device_feature_migration>>() == 16);
const _: () = assert!(size_of::<Feature<vfio_device_feature_mig_state>>() == 16);
const _: () = assert!(size_of::<Feature<vfio_device_feature_mig_data_size>>() == 16);
const _: () = assert!(std::mem::offset_of!(Feature<vfio_device_feature_migration>, payload) == 8);
const _: () = assert!(std::mem::offset_of!(Feature<vfio_device_feature_mig_state>, payload) == 8);
const _: () =
    assert!(std::mem::offset_of!(Feature<vfio_device_feature_mig_data_size>, payload) == 8);
const _: () = assert!(size_of::<vfio_region_info>() == 32);

/// Payloads that any bytes are a valid value of, so that the kernel may write what it likes.
///
/// # Safety
/// Implemented only for structs of integers without padding.
unsafe trait Payload {}
// SAFETY: one u64.
unsafe impl Payload for vfio_device_feature_migration {}
// SAFETY: a u32 and an i32.
unsafe impl Payload for vfio_device_feature_mig_state {}
// SAFETY: one u64.
unsafe impl Payload for vfio_device_feature_mig_data_size {}

/// What FEATURE_MIGRATION says the device can do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MigrationFlags(pub u64);

impl MigrationFlags {
    /// The device has STOP, STOP_COPY and RESUMING.
    pub const STOP_COPY: Self = Self(1);
    /// The device has RUNNING_P2P.
    pub const P2P: Self = Self(2);
    /// The device has PRE_COPY.
    pub const PRE_COPY: Self = Self(4);

    /// Whether all of `other`'s flags are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for MigrationFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::STOP_COPY, "STOP_COPY"),
            (Self::P2P, "P2P"),
            (Self::PRE_COPY, "PRE_COPY"),
        ];
        let known: Vec<_> = names
            .into_iter()
            .filter(|(flag, _)| self.contains(*flag))
            .map(|(_, name)| name)
            .collect();
        write!(
            f,
            "{} ({:#x})",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join("|")
            },
            self.0
        )
    }
}

impl fmt::Debug for MigrationFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn feature<T: Payload>(
    fd: BorrowedFd<'_>,
    call: &'static str,
    flags: u32,
    payload: T,
) -> Result<T, UapiError> {
    let mut feature = Feature {
        argsz: size_of::<Feature<T>>() as u32,
        flags,
        payload,
    };
    // SAFETY: the kernel reads and writes at most `argsz` bytes at the pointer, which is the size of the struct behind it,
    // and whatever it writes is a valid `T` (`Payload`).
    let result = unsafe { ioctl_with_mut_ref(&fd, VFIO_DEVICE_FEATURE(), &mut feature) };
    if result < 0 {
        Err(UapiError::last(call))
    } else {
        Ok(feature.payload)
    }
}

pub(super) fn migration_flags(fd: BorrowedFd<'_>) -> Result<MigrationFlags, UapiError> {
    let payload = vfio_device_feature_migration { flags: 0 };
    feature(
        fd,
        "VFIO_DEVICE_FEATURE GET MIGRATION",
        VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION,
        payload,
    )
    .map(|payload| MigrationFlags(payload.flags))
}

pub(super) fn state(fd: BorrowedFd<'_>) -> Result<u32, UapiError> {
    let payload = vfio_device_feature_mig_state {
        device_state: 0,
        data_fd: -1,
    };
    feature(
        fd,
        "VFIO_DEVICE_FEATURE GET MIG_DEVICE_STATE",
        VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
        payload,
    )
    .map(|payload| payload.device_state)
}

pub(super) fn set_state(
    fd: BorrowedFd<'_>,
    asked: DeviceState,
) -> Result<Option<DataFd>, UapiError> {
    let payload = vfio_device_feature_mig_state {
        device_state: asked.to_kernel(),
        data_fd: -1,
    };
    let payload = feature(
        fd,
        "VFIO_DEVICE_FEATURE SET MIG_DEVICE_STATE",
        VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
        payload,
    )
    .map_err(|error| error.asked(asked))?;
    if payload.data_fd < 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just made this fd for the caller, and nobody else knows of it.
    let data_fd = unsafe { OwnedFd::from_raw_fd(payload.data_fd) };
    DataFd::new(data_fd)
        .map(Some)
        .map_err(|error| error.asked(asked))
}

pub(super) fn stop_copy_length(fd: BorrowedFd<'_>) -> Result<u64, UapiError> {
    const CALL: &str = "VFIO_DEVICE_FEATURE GET MIG_DATA_SIZE";
    let payload = vfio_device_feature_mig_data_size {
        stop_copy_length: 0,
    };
    let length = feature(
        fd,
        CALL,
        VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
        payload,
    )?
    .stop_copy_length;
    checked_length(length).map_err(|errno| UapiError::new(CALL, errno))
}

/// The Xe driver passes a negative errno on as the length, with success as the result.
fn checked_length(length: u64) -> Result<u64, Errno> {
    let signed = length.cast_signed();
    if signed >= 0 {
        Ok(length)
    } else {
        Err(Errno(
            i32::try_from(-i128::from(signed)).unwrap_or(libc::ERANGE),
        ))
    }
}

pub(super) fn reset(fd: BorrowedFd<'_>) -> Result<(), UapiError> {
    // SAFETY: the ioctl takes no argument.
    let result = unsafe { ioctl(&fd, VFIO_DEVICE_RESET()) };
    if result < 0 {
        Err(UapiError::last("VFIO_DEVICE_RESET"))
    } else {
        Ok(())
    }
}

pub(super) fn region_size(fd: BorrowedFd<'_>, index: u32) -> Result<u64, UapiError> {
    let mut info = vfio_region_info {
        argsz: size_of::<vfio_region_info>() as u32,
        flags: 0,
        index,
        cap_offset: 0,
        size: 0,
        offset: 0,
    };
    // SAFETY: the kernel writes at most `argsz` bytes at the pointer, which is the size of the struct behind it, and the
    // struct holds integers only.
    let result = unsafe { ioctl_with_mut_ref(&fd, VFIO_DEVICE_GET_REGION_INFO(), &mut info) };
    debug_assert!(fd.as_raw_fd() >= 0);
    if result < 0 {
        Err(UapiError::last("VFIO_DEVICE_GET_REGION_INFO"))
    } else {
        Ok(info.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_uapi() {
        assert_eq!(VFIO_DEVICE_GET_REGION_INFO(), 0x3b6c);
        assert_eq!(VFIO_DEVICE_RESET(), 0x3b6f);
        assert_eq!(VFIO_DEVICE_FEATURE(), 0x3b75);
    }

    #[test]
    fn an_errno_in_the_length_is_an_error_and_no_size() {
        assert_eq!(checked_length(0xffff_ffff_ffff_fffb), Err(Errno(libc::EIO)));
        assert_eq!(checked_length(1 << 63), Err(Errno(libc::ERANGE)));
        assert_eq!(checked_length(136), Ok(136));
    }

    #[test]
    fn flags_show_their_names() {
        assert_eq!(MigrationFlags(3).to_string(), "STOP_COPY|P2P (0x3)");
        assert_eq!(MigrationFlags(0).to_string(), "none (0x0)");
    }
}
