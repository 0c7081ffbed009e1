// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // vfio-ioctls lends its fd as a number
//! A VF behind an open VFIO device.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use vfio_ioctls::VfioDevice;

use super::{DataFd, MigrationFlags, UapiError, feature};
use crate::state::{DeviceState, MigrationDevice, StateError};

/// A device that vfio-ioctls opened, kept open for as long as this handle lives.
#[derive(Clone)]
pub struct VfioHandle(Arc<VfioDevice>);

impl VfioHandle {
    /// Shares the device with its other users.
    pub fn new(device: Arc<VfioDevice>) -> Self {
        Self(device)
    }
}

impl fmt::Debug for VfioHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VfioHandle")
            .field(&self.0.as_raw_fd())
            .finish()
    }
}

impl AsFd for VfioHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the device owns its file until it is dropped, and the borrow ends before the `Arc` it is taken from.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// Performs the migration ioctls on the device fd of `O`: a [`VfioHandle`], a `File`, an `OwnedFd` or an `Arc` of one.
#[derive(Debug, Clone)]
pub struct KernelVf<O> {
    pub(super) owner: O,
}

impl<O: AsFd> KernelVf<O> {
    /// Takes the owner of the device fd; the fd stays open for as long as this value lives.
    pub fn new(owner: O) -> Self {
        Self { owner }
    }
}

impl<O: AsFd> MigrationDevice for KernelVf<O> {
    type Stream = DataFd;

    fn flags(&self) -> Result<MigrationFlags, UapiError> {
        feature::migration_flags(self.owner.as_fd())
    }

    fn state(&self) -> Result<DeviceState, StateError> {
        let value = feature::state(self.owner.as_fd())?;
        DeviceState::try_from(value).map_err(StateError::from)
    }

    fn set_state(&self, asked: DeviceState) -> Result<Option<DataFd>, UapiError> {
        feature::set_state(self.owner.as_fd(), asked)
    }

    fn stop_copy_length(&self) -> Result<u64, UapiError> {
        feature::stop_copy_length(self.owner.as_fd())
    }

    fn reset(&self) -> Result<(), UapiError> {
        feature::reset(self.owner.as_fd())
    }

    fn region_size(&self, index: u32) -> Result<u64, UapiError> {
        feature::region_size(self.owner.as_fd(), index)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::uapi::Errno;

    #[test]
    fn a_file_that_is_no_device_answers_enotty_to_everything() {
        let vf = KernelVf::new(File::open("/dev/null").unwrap());
        let errno = |result: Result<(), UapiError>| result.unwrap_err().errno;
        assert_eq!(errno(vf.flags().map(drop)), Errno(libc::ENOTTY));
        assert_eq!(
            errno(vf.set_state(DeviceState::Stop).map(drop)),
            Errno(libc::ENOTTY)
        );
        assert_eq!(errno(vf.stop_copy_length().map(drop)), Errno(libc::ENOTTY));
        assert_eq!(errno(vf.reset()), Errno(libc::ENOTTY));
        assert_eq!(errno(vf.region_size(0).map(drop)), Errno(libc::ENOTTY));
        assert!(
            matches!(vf.state(), Err(StateError::Uapi(error)) if error.errno == Errno(libc::ENOTTY))
        );
    }
}
