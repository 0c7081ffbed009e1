// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log of guest memory that the VF writes, for a VMM that shares its device between threads.
//!
//! None of these takes the session, so they work while a stream is on its way.

use super::slot::{LOADING, SAVING};
use super::{DeviceError, Passthrough, XeVfioDevice};
use crate::dirty::{DirtyError, GuestRange, Moment};
use crate::state::DeviceState;

impl<P: Passthrough> XeVfioDevice<P> {
    /// Begins the log, before the first pass over memory. The VF's state does not change.
    ///
    /// # Errors
    /// [`DeviceError::Dirty`].
    pub fn start_dma_log(&self) -> Result<(), DeviceError> {
        let mapped = self.mapped()?;
        let mut log = self.dirty();
        tracing::info!(id = self.id, strategy = log.kind().name(), "dirty log");
        log.start(&mapped).map_err(|source| self.not_known(source))
    }

    /// What the VF may have written since the last call. With no log on the host that is nothing as long as the VF runs; once
    /// it stands still, which it has to be asked for once more, it is what differs from what was sent (`content`), or all memory that it
    /// can reach (`all`).
    ///
    /// # Errors
    /// [`DeviceError::Dirty`].
    pub fn dma_written(&self) -> Result<Vec<GuestRange>, DeviceError> {
        let mapped = self.mapped()?;
        let moment = match self.slot.look() {
            (None, Some(SAVING | LOADING)) => Moment::Still,
            (None | Some(DeviceState::Running), _) => Moment::Running,
            (Some(_), _) => Moment::Still,
        };
        self.dirty()
            .dirty(moment, &mapped)
            .map_err(|source| self.not_known(source))
    }

    /// Bytes of guest memory that [`XeVfioDevice::dma_written`] answers when the VF stands still, whatever was sent before.
    ///
    /// # Errors
    /// [`DeviceError::Dirty`].
    pub fn memory_left_to_the_end(&self) -> Result<u64, DeviceError> {
        if !self.dirty().leaves_all_to_the_end() {
            return Ok(0);
        }
        Ok(self.mapped()?.iter().map(|range| range.length).sum())
    }

    fn mapped(&self) -> Result<Vec<GuestRange>, DeviceError> {
        let ranges = self.passthrough.dma_ranges();
        ranges.map_err(|error| self.not_known(DirtyError::Mapped(error)))
    }

    /// Ends the log.
    pub fn stop_dma_log(&self) {
        self.dirty().stop();
    }

    pub(super) fn not_known(&self, source: DirtyError) -> DeviceError {
        DeviceError::Dirty {
            id: self.id.clone(),
            source: Box::new(source),
        }
    }
}
