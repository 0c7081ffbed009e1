// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The states that a VF can be in, as a closed set.

use std::fmt;

use thiserror::Error;
use vfio_bindings::bindings::vfio::{
    vfio_device_mig_state_VFIO_DEVICE_STATE_RESUMING,
    vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING,
    vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING_P2P,
    vfio_device_mig_state_VFIO_DEVICE_STATE_STOP,
    vfio_device_mig_state_VFIO_DEVICE_STATE_STOP_COPY,
};

use crate::uapi::UapiError;

/// A state of the Xe driver (`enum vfio_device_mig_state` in include/uapi/linux/vfio.h, without those that this driver never
/// enters and that must never be asked of it: ERROR, PRE_COPY, PRE_COPY_P2P).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum DeviceState {
    /// The VF stands still.
    Stop = vfio_device_mig_state_VFIO_DEVICE_STATE_STOP,
    /// The VF runs.
    Running = vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING,
    /// The VF stands still and its state can be read.
    StopCopy = vfio_device_mig_state_VFIO_DEVICE_STATE_STOP_COPY,
    /// The VF stands still and its state can be written.
    Resuming = vfio_device_mig_state_VFIO_DEVICE_STATE_RESUMING,
    /// The VF takes accesses to its BARs and executes nothing, so it makes no DMA.
    RunningP2p = vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING_P2P,
}

impl DeviceState {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Running,
        Self::RunningP2p,
        Self::Stop,
        Self::StopCopy,
        Self::Resuming,
    ];

    /// The kernel's number.
    pub const fn to_kernel(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "STOP",
            Self::Running => "RUNNING",
            Self::StopCopy => "STOP_COPY",
            Self::Resuming => "RESUMING",
            Self::RunningP2p => "RUNNING_P2P",
        })
    }
}

/// The kernel named a state that the Xe driver does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "The kernel says that the device is in migration state {0}, which an Xe VF never enters: only a reset helps"
)]
pub struct UnknownState(pub u32);

impl TryFrom<u32> for DeviceState {
    type Error = UnknownState;

    fn try_from(value: u32) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.to_kernel() == value)
            .ok_or(UnknownState(value))
    }
}

/// The state cannot be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateError {
    /// GET failed.
    #[error("The device's migration state cannot be read")]
    Uapi(#[source] UapiError),
    /// GET named a state that is none of ours.
    #[error(transparent)]
    Unknown(#[from] UnknownState),
}

impl From<UapiError> for StateError {
    fn from(error: UapiError) -> Self {
        Self::Uapi(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_uapi_and_all_others_are_refused() {
        let known: Vec<_> = (0..100)
            .filter_map(|value| {
                DeviceState::try_from(value)
                    .ok()
                    .map(|state| (value, state))
            })
            .collect();
        assert_eq!(
            known,
            [
                (1, DeviceState::Stop),
                (2, DeviceState::Running),
                (3, DeviceState::StopCopy),
                (4, DeviceState::Resuming),
                (5, DeviceState::RunningP2p),
            ]
        );
    }
}
