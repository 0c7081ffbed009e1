// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a VM did not move.

use std::time::Duration;

use vm_migration::MigratableError;
use xe_vfio_device::device::DeviceError;
use xe_vfio_device::dirty::DirtyError;
use xe_vfio_device::stream::ManifestError;
use xe_vfio_device::transfer::EndpointError;

use super::super::{channel, ram};
use crate::{accel, vm};

/// Why a VM did not move.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody there.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The main connection.
    #[error(transparent)]
    Channel(#[from] channel::Error),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] ram::Error),
    /// The VM here.
    #[error(transparent)]
    Vm(#[from] vm::Error),
    /// A VF, through the traits.
    #[error("VF {id} cannot migrate")]
    Migratable {
        /// Its name.
        id: String,
        /// Why.
        #[source]
        source: MigratableError,
    },
    /// Fingerprints of guest memory.
    #[error(transparent)]
    Fingerprints(DirtyError),
    /// A VF's state.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A VF's manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The destination says no before anything has stopped.
    #[error("The destination will not take this VM: {0}")]
    Refused(String),
    /// The destination has given up.
    #[error("The destination has given up: {0}")]
    Peer(String),
    /// Cancelled here.
    #[error("The migration was ended: {0}")]
    Cancelled(String),
    /// The downtime that the user allows is not enough.
    #[error(
        "The downtime goal of {} ms cannot be met: {why}; {} ms are to be expected",
        goal.as_millis(),
        likely.as_millis()
    )]
    Goal {
        /// What is allowed.
        goal: Duration,
        /// What it would be.
        likely: Duration,
        /// Why it is not less.
        why: String,
    },
    /// The system has no thread for a part of it.
    #[error("No thread could be started for {0}")]
    Thread(&'static str, #[source] std::io::Error),
    /// VM state that is no JSON.
    #[error("The VM state cannot be written")]
    Encode(#[from] serde_json::Error),
    /// An attempt id that is none.
    #[error("The destination answers the attempt id {0:?}")]
    Attempt(String),
}

impl From<accel::Error> for Error {
    fn from(error: accel::Error) -> Self {
        Self::Vm(error.into())
    }
}
