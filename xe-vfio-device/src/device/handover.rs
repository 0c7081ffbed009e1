// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's state to a process of the same host, by its data fd.

use std::os::fd::AsFd;

use super::{DeviceError, Passthrough, XeVfioDevice};
use crate::state::MigrationDevice;
use crate::transfer::{Connection, Endpoint, Phase, SaveReport, hand_over};

impl<P: Passthrough> XeVfioDevice<P>
where
    <P::Device as MigrationDevice>::Stream: AsFd,
{
    /// As [`XeVfioDevice::send_over`], through a unix socket: the other side gets the data fd itself and reads the state from the kernel here. It loads with
    /// [`XeVfioDevice::load_from`] as it loads anything. See [`hand_over`] for what a destination that dies in the middle may cost.
    ///
    /// # Errors
    /// [`DeviceError::Save`] says what holds, as there; over a connection that passes no descriptors nothing was done.
    pub fn send_fd_over(&self, connection: impl Connection) -> Result<SaveReport, DeviceError> {
        self.save_by(|vf, manifest, context| hand_over(vf, connection, manifest, context))
    }

    /// As [`XeVfioDevice::send_fd_over`], to the URL of a unix socket.
    ///
    /// # Errors
    /// [`DeviceError`]; when there is nobody to connect to, nothing was done.
    pub fn send_fd_to(&self, endpoint: &Endpoint) -> Result<SaveReport, DeviceError> {
        self.progress.enter(Phase::Connect);
        let connection = endpoint.connect(self.options.deadlines.connect);
        self.send_fd_over(connection.map_err(|source| self.no_way(source))?)
    }
}
