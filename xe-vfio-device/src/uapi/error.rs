// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The error of a call into the kernel.

use std::fmt;

use super::Errno;
use crate::state::DeviceState;

/// A call on a VFIO device or its data fd failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UapiError {
    /// The ioctl, with the feature it was for, or the system call.
    pub call: &'static str,
    /// What the kernel answered.
    pub errno: Errno,
    /// The state that the device was in before, where it is known.
    pub before: Option<DeviceState>,
    /// The state that was asked for, when a state was asked for.
    pub asked: Option<DeviceState>,
}

impl UapiError {
    /// `call` failed with the calling thread's errno.
    pub fn last(call: &'static str) -> Self {
        Self::new(call, Errno::last())
    }

    /// `call` failed with `errno`.
    pub fn new(call: &'static str, errno: Errno) -> Self {
        Self {
            call,
            errno,
            before: None,
            asked: None,
        }
    }

    /// The same error with the state that was asked for.
    #[must_use]
    pub fn asked(self, asked: DeviceState) -> Self {
        Self {
            asked: Some(asked),
            ..self
        }
    }

    /// The same error with the state that the device was in before.
    #[must_use]
    pub fn before(self, before: DeviceState) -> Self {
        Self {
            before: Some(before),
            ..self
        }
    }
}

impl std::error::Error for UapiError {}

impl fmt::Display for UapiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed with {}", self.call, self.errno)?;
        match (self.before, self.asked) {
            (Some(before), Some(asked)) => write!(f, " on the way from {before} to {asked}"),
            (None, Some(asked)) => write!(f, " on the way to {asked}"),
            (Some(before), None) => write!(f, " in {before}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_which_call_failed_how_and_between_which_states() {
        let error = UapiError::new("VFIO_DEVICE_FEATURE SET MIG_DEVICE_STATE", Errno(libc::EIO))
            .before(DeviceState::StopCopy)
            .asked(DeviceState::Stop);
        assert_eq!(
            error.to_string(),
            "VFIO_DEVICE_FEATURE SET MIG_DEVICE_STATE failed with EIO (5) on the way from STOP_COPY to STOP"
        );
    }
}
