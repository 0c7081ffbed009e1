// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cloud Hypervisor's traits on the device.

use anyhow::anyhow;
use vm_migration::protocol::{MemoryRange, MemoryRangeTable};
use vm_migration::{Migratable, MigratableError, Pausable, Snapshot, Snapshottable, Transportable};

use super::{DeviceError, Passthrough, VfSnapshot, XeVfioDevice};
use crate::state::Outcome;
use crate::transfer::Endpoint;

impl<P: Passthrough> XeVfioDevice<P> {
    /// Takes the PCI state of a snapshot over; the traits have `snapshot` and no counterpart. See
    /// [`XeVfioDevice::restore_snapshot`].
    ///
    /// # Errors
    /// [`MigratableError::Restore`].
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), MigratableError> {
        let snapshot: VfSnapshot = snapshot.to_state()?;
        self.restore_snapshot(&snapshot)
            .map_err(|error| MigratableError::Restore(error.into()))
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, DeviceError> {
        url.parse().map_err(|source| DeviceError::Endpoint {
            id: self.device_id().to_owned(),
            source: Box::new(source),
        })
    }
}

impl<P: Passthrough> Pausable for XeVfioDevice<P> {
    /// RUNNING_P2P, then STOP; nothing to do in STOP. A VM with several VFs uses a [`DeviceGroup`](super::DeviceGroup).
    ///
    /// # Errors
    /// `Pause`, after the VF was brought back to RUNNING.
    fn pause(&mut self) -> Result<(), MigratableError> {
        self.quiesce()
            .and_then(|()| XeVfioDevice::stop(self))
            .map_err(|error| {
                let back = match self.give_back() {
                    Ok(Outcome::GpuStateKept) => {
                        anyhow!(error).context("The VF was not paused and runs on")
                    }
                    Ok(Outcome::Reset { .. }) => {
                        anyhow!(error).context("The VF was reset, its GPU state is lost")
                    }
                    Err(lost) => anyhow!(lost).context(error),
                };
                MigratableError::Pause(back)
            })
    }

    /// RUNNING_P2P, then RUNNING; nothing to do in RUNNING.
    ///
    /// # Errors
    /// `Resume` for a VF that was handed over, and for one that could be brought back by a reset only.
    fn resume(&mut self) -> Result<(), MigratableError> {
        let went = self.unstop().and_then(|()| self.run());
        went.or_else(|error| match error {
            DeviceError::Transition { .. } => match self.give_back() {
                Ok(Outcome::GpuStateKept) => Ok(()),
                Ok(Outcome::Reset { .. }) => {
                    Err(anyhow!(error).context("The VF was reset, its GPU state is lost"))
                }
                Err(lost) => Err(anyhow!(lost).context(error)),
            },
            other => Err(other.into()),
        })
        .map_err(MigratableError::Resume)
    }
}

impl<P: Passthrough> Snapshottable for XeVfioDevice<P> {
    fn id(&self) -> String {
        self.device_id().to_owned()
    }

    /// Manifest and PCI state of the stopped VF, without what is on the GPU: that is for [`Transportable::send`].
    ///
    /// # Errors
    /// `Snapshot`.
    fn snapshot(&mut self) -> Result<Snapshot, MigratableError> {
        let snapshot = self
            .take_snapshot()
            .map_err(|error| MigratableError::Snapshot(error.into()))?;
        Snapshot::new_from_state(&snapshot)
    }
}

impl<P: Passthrough> Transportable for XeVfioDevice<P> {
    /// Streams the state of the stopped VF to `tcp:HOST:PORT`, `unix:PATH` or `file:PATH`. Over a connection it returns when
    /// the other side has loaded it.
    ///
    /// # Errors
    /// `MigrateSend`; the VF keeps its state wherever the kernel lets it, and the error says whether.
    fn send(&self, snapshot: &Snapshot, destination_url: &str) -> Result<(), MigratableError> {
        let failed = |error: DeviceError| MigratableError::MigrateSend(error.into());
        let snapshot: VfSnapshot = snapshot.to_state()?;
        let manifest = snapshot.manifest().map_err(|source| {
            failed(DeviceError::Snapshot {
                id: self.device_id().to_owned(),
                source: Box::new(source),
            })
        })?;
        if manifest.device_id != self.device_id() {
            let (id, found) = (self.device_id().to_owned(), manifest.device_id);
            return Err(failed(DeviceError::OtherDevice { id, found }));
        }
        self.send_to(&self.endpoint(destination_url).map_err(failed)?)
            .map(drop)
            .map_err(failed)
    }

    /// Loads the VF from a URL: listens for one connection, or reads a file. The snapshot that it answers has the source's
    /// manifest and no PCI state, which comes with the VM's own snapshot.
    ///
    /// # Errors
    /// `MigrateReceive`; the VF is clean and the source was told.
    fn recv(&self, source_url: &str) -> Result<Snapshot, MigratableError> {
        let failed = |error: DeviceError| MigratableError::MigrateReceive(error.into());
        let (manifest, _) = self
            .receive_at(&self.endpoint(source_url).map_err(failed)?)
            .map_err(failed)?;
        let snapshot = VfSnapshot::new(&manifest, None).map_err(|source| {
            failed(DeviceError::Manifest {
                id: self.device_id().to_owned(),
                source: Box::new(source),
            })
        })?;
        Snapshot::new_from_state(&snapshot)
    }
}

impl<P: Passthrough> Migratable for XeVfioDevice<P> {
    /// Refuses a VF that cannot migrate before anything moves; the error has the reason.
    ///
    /// # Errors
    /// `StartMigration`; the guest runs on.
    fn start_migration(&mut self) -> Result<(), MigratableError> {
        self.start()
            .map_err(|error| MigratableError::StartMigration(error.into()))
    }

    /// # Errors
    /// `StartDirtyLog`.
    fn start_dirty_log(&mut self) -> Result<(), MigratableError> {
        self.start_dma_log()
            .map_err(|error| MigratableError::StartDirtyLog(error.into()))
    }

    fn stop_dirty_log(&mut self) -> Result<(), MigratableError> {
        self.stop_dma_log();
        Ok(())
    }

    /// As [`XeVfioDevice::dma_written`].
    ///
    /// # Errors
    /// `DirtyLog`.
    fn dirty_log(&mut self) -> Result<MemoryRangeTable, MigratableError> {
        let ranges = self
            .dma_written()
            .map_err(|error| MigratableError::DirtyLog(error.into()))?;
        let mut table = MemoryRangeTable::default();
        for range in ranges {
            table.push(MemoryRange {
                gpa: range.gpa,
                length: range.length,
            });
        }
        Ok(table)
    }

    /// The state is at its destination: the VF does not run here any more.
    fn complete_migration(&mut self) -> Result<(), MigratableError> {
        self.handed_over();
        Ok(())
    }
}
