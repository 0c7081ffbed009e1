// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The way of a VF's interrupts: VFIO signals an eventfd per vector, the accelerator turns it into the guest's message.
//!
//! All eventfds are given to VFIO at once when the guest enables MSI-X. Masking a vector only cuts it off from the
//! accelerator: its signals wait in the eventfd and are delivered when the vector is connected again.

use std::io;
use std::sync::Arc;

use vfio_ioctls::{VfioDevice, VfioError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::msix::Table;
use crate::accel::{self, Accelerator, MsiMessage};

/// Why interrupts could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No eventfd.
    #[error("No eventfd for an MSI-X vector")]
    EventFd(#[source] io::Error),
    /// VFIO_DEVICE_SET_IRQS.
    #[error("VFIO_DEVICE_SET_IRQS failed to {0} MSI-X")]
    SetIrqs(&'static str, #[source] VfioError),
    /// The accelerator.
    #[error("An MSI-X vector could not be connected to the guest")]
    Connect(#[from] accel::Error),
}

/// The vectors of one device.
pub struct Vectors {
    device: Arc<VfioDevice>,
    accelerator: Arc<dyn Accelerator>,
    first_gsi: u32,
    events: Vec<EventFd>,
    connected: Vec<Option<MsiMessage>>,
    armed: bool,
}

impl Vectors {
    /// An eventfd for each vector; nothing is connected.
    ///
    /// # Errors
    /// [`Error::EventFd`].
    pub fn new(
        device: Arc<VfioDevice>,
        accelerator: Arc<dyn Accelerator>,
        first_gsi: u32,
        count: usize,
    ) -> Result<Self, Error> {
        let events = (0..count)
            .map(|_| EventFd::new(EFD_NONBLOCK).map_err(Error::EventFd))
            .collect::<Result<Vec<_>, _>>()?;
        let connected = vec![None; count];
        Ok(Self {
            device,
            accelerator,
            first_gsi,
            events,
            connected,
            armed: false,
        })
    }

    /// Brings VFIO and the accelerator in line with what the guest has written.
    ///
    /// # Errors
    /// [`Error`]; what had been connected before stays so.
    pub fn follow(&mut self, table: &Table) -> Result<(), Error> {
        let wanted = table.wanted();
        for (vector, message) in wanted.iter().enumerate() {
            self.connect(vector, *message)?;
        }
        if table.enabled() && !self.armed {
            // After the vectors are connected: what the device signals from here on has a way to the guest.
            let events = self.events.iter().collect();
            self.device
                .enable_msix(events)
                .map_err(|e| Error::SetIrqs("enable", e))?;
            self.armed = true;
        } else if !table.enabled() && self.armed {
            self.device
                .disable_msix()
                .map_err(|e| Error::SetIrqs("disable", e))?;
            self.armed = false;
        }
        Ok(())
    }

    fn connect(&mut self, vector: usize, message: Option<MsiMessage>) -> Result<(), Error> {
        if self.connected[vector] == message {
            return Ok(());
        }
        let gsi = self.first_gsi + u32::try_from(vector).unwrap_or(u32::MAX);
        let event = &self.events[vector];
        match message {
            Some(message) => self.accelerator.connect_msi(gsi, event, message)?,
            None => self.accelerator.disconnect_msi(gsi, event)?,
        }
        self.connected[vector] = message;
        Ok(())
    }

    /// Which vectors hold a signal back. Nothing changes by asking.
    #[must_use]
    pub fn pending(&self) -> Vec<bool> {
        self.events
            .iter()
            .map(|event| {
                let pending = event.read().is_ok();
                // Put back, since the guest may go on here; an eventfd that was just read cannot be full.
                pending && event.write(1).is_ok()
            })
            .collect()
    }

    /// Signals vectors as if the device had.
    pub fn signal(&self, pending: &[bool]) {
        for (event, _) in self
            .events
            .iter()
            .zip(pending)
            .filter(|(_, pending)| **pending)
        {
            let _ = event.write(1);
        }
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        if self.armed
            && let Err(e) = self.device.disable_msix()
        {
            tracing::debug!(error = %e, "MSI-X stays enabled until the device is closed");
        }
        for (gsi, event) in (self.first_gsi..).zip(&self.events) {
            if let Err(e) = self.accelerator.disconnect_msi(gsi, event) {
                tracing::debug!(error = %e, gsi, "a vector stays connected");
            }
        }
    }
}
