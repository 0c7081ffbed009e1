// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VMM asks of a component that migrates. Every method has a default that does nothing.

use crate::protocol::MemoryRangeTable;
use crate::{MigratableError, Snapshot};

/// Can be held still and let go.
pub trait Pausable {
    /// Holds the component still.
    ///
    /// # Errors
    /// `Pause`.
    fn pause(&mut self) -> Result<(), MigratableError> {
        Ok(())
    }

    /// Lets the component go on.
    ///
    /// # Errors
    /// `Resume`.
    fn resume(&mut self) -> Result<(), MigratableError> {
        Ok(())
    }
}

/// Can write its state down while it is paused.
pub trait Snapshottable: Pausable {
    /// The name under which the VMM files the snapshot.
    fn id(&self) -> String {
        String::new()
    }

    /// The component's state.
    ///
    /// # Errors
    /// `Snapshot`.
    fn snapshot(&mut self) -> Result<Snapshot, MigratableError> {
        Ok(Snapshot::default())
    }
}

/// Moves state that is not in its snapshot by a transport of its own.
pub trait Transportable: Pausable + Snapshottable {
    /// Sends to where the URL says.
    ///
    /// # Errors
    /// `MigrateSend`.
    fn send(&self, _snapshot: &Snapshot, _destination_url: &str) -> Result<(), MigratableError> {
        Ok(())
    }

    /// Fetches from where the URL says.
    ///
    /// # Errors
    /// `MigrateReceive`.
    fn recv(&self, _source_url: &str) -> Result<Snapshot, MigratableError> {
        Ok(Snapshot::default())
    }
}

/// Takes part in a live migration.
pub trait Migratable: Send + Pausable + Snapshottable + Transportable {
    /// From now on, remember which guest memory the component writes.
    ///
    /// # Errors
    /// `StartDirtyLog`.
    fn start_dirty_log(&mut self) -> Result<(), MigratableError> {
        Ok(())
    }

    /// Stop remembering.
    ///
    /// # Errors
    /// `StopDirtyLog`.
    fn stop_dirty_log(&mut self) -> Result<(), MigratableError> {
        Ok(())
    }

    /// What was written since the last call.
    ///
    /// # Errors
    /// `DirtyLog`.
    fn dirty_log(&mut self) -> Result<MemoryRangeTable, MigratableError> {
        Ok(MemoryRangeTable::default())
    }

    /// A migration begins; the guest still runs.
    ///
    /// # Errors
    /// `StartMigration`.
    fn start_migration(&mut self) -> Result<(), MigratableError> {
        Ok(())
    }

    /// The migration has ended well.
    ///
    /// # Errors
    /// `CompleteMigration`.
    fn complete_migration(&mut self) -> Result<(), MigratableError> {
        Ok(())
    }
}
