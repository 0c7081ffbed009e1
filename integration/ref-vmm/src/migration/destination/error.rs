// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a VM did not arrive.

use std::time::Duration;

use xe_vfio_device::device::DeviceError;
use xe_vfio_device::stream::ManifestError;
use xe_vfio_device::transfer::EndpointError;

use super::super::channel;
use crate::accel::Kind as AccelKind;
use crate::{memory, vm};

/// Why a VM did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The main connection.
    #[error(transparent)]
    Channel(#[from] channel::Error),
    /// The VM here.
    #[error(transparent)]
    Vm(#[from] vm::Error),
    /// A VF here.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A manifest that cannot be read.
    #[error("The manifest of VF {id} cannot be used")]
    Manifest {
        /// The VF.
        id: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The VM has other VFs than this VMM.
    #[error("The VM has the VFs [{source_ids}], this VMM was given [{here}]: they go by their ids")]
    Devices {
        /// Of the source.
        source_ids: String,
        /// Of this VMM.
        here: String,
    },
    /// The VM runs on another accelerator.
    #[error("The VM runs on {source_kind}, this VMM was told to use {here}")]
    Accel {
        /// Of the source.
        source_kind: AccelKind,
        /// Of this VMM.
        here: AccelKind,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The state of VFs did not arrive.
    #[error("The state of the VFs did not arrive: {0}")]
    Loads(String),
    /// The source gave up.
    #[error("The source has given up: {0}")]
    Abandoned(String),
    /// go did not come.
    #[error("No go within the lease of {0:?}")]
    Lease(Duration),
    /// go came too late, or the VFs took too long to start after it.
    #[error(
        "The guest could not run within the lease of {lease:?}: it is {took:?} since it was loaded"
    )]
    Late {
        /// How long what was loaded may wait.
        lease: Duration,
        /// How long it has waited.
        took: Duration,
    },
    /// The system has no thread for a part of it.
    #[error("No thread could be started for {0}")]
    Thread(&'static str, #[source] std::io::Error),
    /// No random numbers.
    #[error("No id for the attempt")]
    Attempt(#[source] std::io::Error),
}
