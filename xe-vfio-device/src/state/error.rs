// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A transition that did not happen.

use std::fmt;

use thiserror::Error;

use super::{AnyVf, DeviceState, MigrationDevice, StateError};
use crate::uapi::UapiError;

/// Why a VF is not in the state it was asked to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TransitionError {
    /// The kernel refused.
    #[error("The VF cannot change its migration state")]
    Refused(#[source] UapiError),
    /// The data fd failed.
    #[error("The VF's migration data cannot be moved")]
    Stream(#[source] UapiError),
    /// The kernel entered a state with a data fd and gave none.
    #[error("The kernel entered {0} and gave no data fd")]
    NoDataFd(DeviceState),
    /// The save was to be ended before its data was read to the end.
    #[error(
        "The VF's data was not read to its end; leaving STOP_COPY now would cost the GPU state: drain it first"
    )]
    NotDrained,
    /// The load was to be ended although a write had failed.
    #[error("A write of the VF's data failed; the load cannot be finished: reset the VF")]
    Incomplete,
    /// The kernel said yes to a reset and the device is in another state than RUNNING.
    #[error("The VF is in {0} after a reset instead of RUNNING")]
    NotReset(DeviceState),
    /// The state cannot be learned.
    #[error("The VF's migration state is unknown")]
    Unknown(#[source] StateError),
}

/// A transition that failed, with the session in the state that the device was found in afterwards.
pub struct Stuck<D: MigrationDevice> {
    /// Why.
    pub error: TransitionError,
    /// Where the device is now.
    pub vf: AnyVf<D>,
}

impl<D: MigrationDevice> fmt::Debug for Stuck<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stuck")
            .field("error", &self.error)
            .field("vf", &self.vf)
            .finish()
    }
}

impl<D: MigrationDevice> fmt::Display for Stuck<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; the VF is {} now", self.error, self.vf)
    }
}

impl<D: MigrationDevice> std::error::Error for Stuck<D> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}
