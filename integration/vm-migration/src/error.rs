// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong in a component's migration; each variant names the step and keeps its cause.

use std::io;

use thiserror::Error;

use crate::tls::TlsError;

/// Why restoring memory on demand with userfaultfd failed.
#[derive(Debug, Error)]
pub enum UffdError {
    /// A range of the snapshot does not start and end on page boundaries.
    #[error("A range of the snapshot is not a multiple of pages")]
    UnalignedRanges,
    /// userfaultfd(2) failed.
    #[error("Cannot create a userfaultfd")]
    Create(#[source] io::Error),
    /// A guest physical address has no memory behind it.
    #[error("No host memory behind guest address {gpa:#x}")]
    GpaTranslation {
        /// Guest physical address.
        gpa: u64,
        /// What the memory map answered.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// UFFDIO_REGISTER failed.
    #[error("Cannot register {len:#x} bytes at {addr:#x}")]
    Register {
        /// Host virtual address.
        addr: u64,
        /// Bytes.
        len: u64,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The kernel offers neither COPY nor WAKE for the range.
    #[error("The kernel cannot serve {len:#x} bytes at {addr:#x} on demand")]
    MissingIoctlSupport {
        /// Host virtual address.
        addr: u64,
        /// Bytes.
        len: u64,
    },
    /// A socket option was refused.
    #[error("Cannot set up the page-fault socket")]
    SetSocket(#[source] io::Error),
    /// The handler's thread could not be started.
    #[error("Cannot start the page-fault thread")]
    SpawnThread(#[source] io::Error),
    /// The handler ended before it was ready.
    #[error("The page-fault thread ended before it was ready")]
    HandlerStartup,
    /// The handler ended with an error.
    #[error("The page-fault thread failed")]
    HandlerFailed(#[source] io::Error),
}

/// Why a component could not do its part of a migration.
#[derive(Debug, Error)]
pub enum MigratableError {
    /// Pausing failed.
    #[error("Cannot pause the component")]
    Pause(#[source] anyhow::Error),
    /// Resuming failed.
    #[error("Cannot resume the component")]
    Resume(#[source] anyhow::Error),
    /// Taking the snapshot failed.
    #[error("Cannot take a snapshot of the component")]
    Snapshot(#[source] anyhow::Error),
    /// Restoring from a snapshot failed.
    #[error("Cannot restore the component")]
    Restore(#[source] anyhow::Error),
    /// Sending failed.
    #[error("Cannot send the component")]
    MigrateSend(#[source] anyhow::Error),
    /// Receiving failed.
    #[error("Cannot receive the component")]
    MigrateReceive(#[source] anyhow::Error),
    /// Restoring memory on demand failed.
    #[error("Cannot restore memory on demand")]
    OnDemandRestore(#[source] UffdError),
    /// The connection failed.
    #[error("The migration's connection failed")]
    MigrateSocket(#[source] io::Error),
    /// Starting the dirty log failed.
    #[error("Cannot start the component's dirty log")]
    StartDirtyLog(#[source] anyhow::Error),
    /// Stopping the dirty log failed.
    #[error("Cannot stop the component's dirty log")]
    StopDirtyLog(#[source] anyhow::Error),
    /// Reading the dirty log failed.
    #[error("Cannot read the component's dirty log")]
    DirtyLog(#[source] anyhow::Error),
    /// The component cannot begin a migration.
    #[error("Cannot start the component's migration")]
    StartMigration(#[source] anyhow::Error),
    /// The component cannot end a migration.
    #[error("Cannot complete the component's migration")]
    CompleteMigration(#[source] anyhow::Error),
    /// A disk's lock could not be released.
    #[error("Cannot release a disk's lock")]
    UnlockError(#[source] anyhow::Error),
    /// The component's other half is gone, so that the operation had nothing to act on.
    #[error("Component {0} is disconnected")]
    DeviceDisconnected(String),
    /// The connection could not be encrypted.
    #[error("Cannot encrypt the migration's connection")]
    Tls(#[source] TlsError),
}
