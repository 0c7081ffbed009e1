// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a device did not do what it was asked to.

use std::io;

use thiserror::Error;

use super::snapshot::SnapshotError;
use crate::dirty::DirtyError;
use crate::state::{DeviceState, ResetReason, TransitionError};
use crate::stream::{ManifestError, StreamError};
use crate::transfer::{AttemptId, EndpointError, LoadError, SaveError};
use crate::uapi::{MigrationFlags, UapiError};
use crate::xe::{Mismatch, ProbeError};

/// A device's operation failed. `now` says where that leaves the VF.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The kernel offers no migration for the VF.
    #[error("{id} cannot migrate: the kernel offers no migration for it")]
    Unsupported {
        /// The device.
        id: String,
        /// What the kernel answered to FEATURE_MIGRATION.
        #[source]
        source: UapiError,
    },
    /// The VF lacks states that a migration needs.
    #[error("{id} cannot migrate: it has {flags}, and STOP_COPY and P2P are needed")]
    Incomplete {
        /// The device.
        id: String,
        /// What it has.
        flags: MigrationFlags,
    },
    /// Something else is being done with it.
    #[error("{id} is busy: {what}")]
    Busy {
        /// The device.
        id: String,
        /// What is being done.
        what: &'static str,
    },
    /// The VF's state is at another host, where it may run.
    #[error("{id} was handed over to another host and must not run here")]
    HandedOver {
        /// The device.
        id: String,
    },
    /// The VF is in a state where that cannot be done.
    #[error("{id} is {found}, and {needed} is needed")]
    WrongState {
        /// The device.
        id: String,
        /// Where it is.
        found: String,
        /// Where it has to be.
        needed: DeviceState,
    },
    /// The VF did not change its state.
    #[error("{id} did not go to {asked}; it is {now} now")]
    Transition {
        /// The device.
        id: String,
        /// Where it should have gone.
        asked: DeviceState,
        /// Where it is.
        now: String,
        /// Why.
        #[source]
        source: TransitionError,
    },
    /// The VF was to be reset and cannot be.
    #[error("{id} cannot be reset ({why}); it is {now} now and of no use")]
    Reset {
        /// The device.
        id: String,
        /// Why a reset was needed.
        why: ResetReason,
        /// Where it is.
        now: String,
        /// Why it failed.
        #[source]
        source: Box<TransitionError>,
    },
    /// The state did not leave.
    #[error("{id} was not saved; {now}")]
    Save {
        /// The device.
        id: String,
        /// What holds for the VF.
        now: String,
        /// Why.
        #[source]
        source: Box<SaveError>,
    },
    /// The state did not arrive.
    #[error("{id} was not loaded; {now}")]
    Load {
        /// The device.
        id: String,
        /// What holds for the VF.
        now: String,
        /// Why.
        #[source]
        source: Box<LoadError>,
    },
    /// The stream is for another device.
    #[error("The stream is for device {found:?}, this is {id:?}; nothing was touched")]
    OtherDevice {
        /// This device.
        id: String,
        /// The stream's.
        found: String,
    },
    /// The stream belongs to another attempt.
    #[error(
        "The stream for {id} belongs to the attempt or snapshot {found}, the present one is {expected}; nothing was touched"
    )]
    OtherAttempt {
        /// The device.
        id: String,
        /// The stream's attempt.
        found: AttemptId,
        /// The present one.
        expected: AttemptId,
    },
    /// The stream comes over several connections, and not all of them are here.
    #[error(
        "The stream for {id} comes over {count} connections and {here} of them are here: put them together with Gather; nothing was touched"
    )]
    Parts {
        /// The device.
        id: String,
        /// Connections that are here.
        here: usize,
        /// Connections that there are.
        count: u8,
    },
    /// A number of connections that no stream has.
    #[error("{id} cannot be sent over these connections; nothing was done")]
    Connections {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The two VFs are too different.
    #[error("{id} cannot take the state of that VF: {}", list(.mismatches))]
    Incompatible {
        /// The device.
        id: String,
        /// Everything in which they differ.
        mismatches: Vec<Mismatch>,
    },
    /// The guest's GPU state is lost, so there is nothing to save.
    #[error(
        "{id} was reset because {why}: what the guest had on it is lost, and there is nothing to save"
    )]
    StateLost {
        /// The device.
        id: String,
        /// Why it was reset.
        why: ResetReason,
    },
    /// The VF cannot be identified.
    #[error("{id} cannot be identified")]
    Identity {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: Box<ProbeError>,
    },
    /// The manifest is not valid.
    #[error("The manifest of {id} is not valid")]
    Manifest {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// A call that changes no state failed.
    #[error("{id} cannot be asked")]
    Uapi {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: UapiError,
    },
    /// The URL is not good or nobody is there.
    #[error("The state of {id} has no way to go")]
    Endpoint {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: Box<EndpointError>,
    },
    /// A stream's opening is not good.
    #[error("The stream for {id} cannot be opened")]
    Opening {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: Box<StreamError>,
    },
    /// A file cannot be opened or created.
    #[error("{path} cannot be opened for the state of {id}")]
    File {
        /// The device.
        id: String,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The VMM's part of the device cannot be saved or restored.
    #[error("The PCI state of {id} cannot be {doing}")]
    Pci {
        /// The device.
        id: String,
        /// "saved" or "restored".
        doing: &'static str,
        /// The VMM's reason.
        #[source]
        source: anyhow::Error,
    },
    /// The snapshot is not good.
    #[error("The snapshot of {id} is not good")]
    Snapshot {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: Box<SnapshotError>,
    },
    /// What the VF writes cannot be known.
    #[error("What {id} writes to guest memory cannot be known")]
    Dirty {
        /// The device.
        id: String,
        /// Why.
        #[source]
        source: Box<DirtyError>,
    },
}

fn list(mismatches: &[Mismatch]) -> String {
    mismatches
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
