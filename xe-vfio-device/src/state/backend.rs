// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a session needs of a device: the kernel's, or a simulated one in tests.

use super::{DeviceState, StateError};
use crate::uapi::{MigrationFlags, UapiError};

/// A device that can migrate. Calls are what they are in the kernel: they block, and may fail with any errno.
pub trait MigrationDevice {
    /// The migration data fd.
    type Stream: DataStream;

    /// Which states the device has (FEATURE_MIGRATION).
    ///
    /// # Errors
    /// ENOTTY when the device cannot migrate.
    fn flags(&self) -> Result<MigrationFlags, UapiError>;

    /// The state that the device is in (GET).
    ///
    /// # Errors
    /// [`StateError`] when the call fails or names a state that an Xe VF does not have.
    fn state(&self) -> Result<DeviceState, StateError>;

    /// Asks for a state (SET). Sessions ask for one arc at a time. Answers a data fd on entering STOP_COPY and RESUMING.
    ///
    /// # Errors
    /// The device may then be in any state: ask [`MigrationDevice::state`].
    fn set_state(&self, asked: DeviceState) -> Result<Option<Self::Stream>, UapiError>;

    /// The kernel's estimate of the state in bytes (MIG_DATA_SIZE), somewhat less than what will be read.
    ///
    /// # Errors
    /// Also when the kernel returns an errno as the length.
    fn stop_copy_length(&self) -> Result<u64, UapiError>;

    /// Resets the device (VFIO_DEVICE_RESET): it runs then, with nothing of what the guest had in it. Takes some 100 ms.
    ///
    /// # Errors
    /// When the device cannot be reset.
    fn reset(&self) -> Result<(), UapiError>;

    /// Bytes of a region (GET_REGION_INFO); 0 to 5 are the BARs.
    ///
    /// # Errors
    /// EINVAL for a region that the device does not have.
    fn region_size(&self, index: u32) -> Result<u64, UapiError>;
}

/// A migration data fd. Dropping it closes it.
pub trait DataStream {
    /// Reads up to `buffer.len()` bytes; 0 is the end of the state. Blocks until the buffer is full or the state ends.
    ///
    /// # Errors
    /// After any error the stream is lost.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UapiError>;

    /// Writes a part of `bytes`, at least one byte.
    ///
    /// # Errors
    /// After any error the restore is lost.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, UapiError>;
}
