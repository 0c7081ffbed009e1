// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What this crate needs of a VMM's passthrough device.

use std::sync::Arc;

use crate::dirty::{GuestRange, PageTable};
use crate::state::MigrationDevice;
use crate::xe::{Identity, ProbeError};

/// A VMM's own passthrough device: it opens the VF, emulates its config space, routes its interrupts and maps guest memory for
/// it. This crate does none of that.
///
/// Methods are called from whichever thread calls the [`XeVfioDevice`](super::XeVfioDevice), never while one of its locks is
/// held.
pub trait Passthrough: Send + Sync {
    /// Performs the migration ioctls: [`KernelVf`](crate::uapi::KernelVf) over the open device, such as
    /// `KernelVf<VfioHandle>`.
    type Device: MigrationDevice<Stream: Send> + Send;

    /// The device's name in its VM, the same at source and destination; 1 to 255 printable bytes.
    fn id(&self) -> String;

    /// A handle on the open device. Called more than once; all handles are on the same device.
    fn device(&self) -> Self::Device;

    /// What identifies the VF: [`xe::probe`](crate::xe::probe()) of its sysfs directory.
    ///
    /// # Errors
    /// [`ProbeError`].
    fn identity(&self) -> Result<Identity, ProbeError>;

    /// What the VMM has to know about the device to make it again: config space, interrupts, BAR addresses. The VF is in STOP.
    ///
    /// # Errors
    /// The VMM's own.
    fn save_pci_state(&self) -> anyhow::Result<serde_json::Value>;

    /// Takes such a state over, from a snapshot that may come from elsewhere.
    ///
    /// # Errors
    /// The VMM's own; also for a state that makes no sense.
    fn restore_pci_state(&self, state: &serde_json::Value) -> anyhow::Result<()>;

    /// Guest memory that is mapped for the VF to write.
    ///
    /// # Errors
    /// The VMM's own.
    fn dma_ranges(&self) -> anyhow::Result<Vec<GuestRange>>;

    /// The page table with dirty bits that the VF's DMA goes through.
    ///
    /// # Errors
    /// Why there is none, for people.
    fn dirty_bits(&self) -> Result<Arc<PageTable>, String> {
        Err("the VMM does not use the IOMMU's dirty bits".to_owned())
    }
}
