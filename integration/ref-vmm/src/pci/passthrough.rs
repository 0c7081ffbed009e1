// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `xe-vfio-device` asks of a VMM, answered: the whole of the glue between the crate and a passthrough device.

use std::sync::Arc;

use xe_vfio_device::device::Passthrough;
use xe_vfio_device::dirty::{GuestRange, PageTable};
use xe_vfio_device::uapi::{KernelVf, VfioHandle};
use xe_vfio_device::xe::{self, Identity, ProbeError};

use super::state::PciState;
use super::vfio::VfioPci;

/// A passed-through VF as the crate sees it.
pub struct Assigned {
    vf: Arc<VfioPci>,
}

impl Assigned {
    /// The VF.
    #[must_use]
    pub fn new(vf: Arc<VfioPci>) -> Self {
        Self { vf }
    }

    /// The VMM's own device.
    #[must_use]
    pub fn vf(&self) -> &VfioPci {
        &self.vf
    }
}

impl Passthrough for Assigned {
    type Device = KernelVf<VfioHandle>;

    fn id(&self) -> String {
        self.vf.id().to_owned()
    }

    fn device(&self) -> Self::Device {
        KernelVf::new(VfioHandle::new(self.vf.device().clone()))
    }

    fn identity(&self) -> Result<Identity, ProbeError> {
        xe::probe(self.vf.path())
    }

    fn save_pci_state(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::to_value(self.vf.save())?)
    }

    fn restore_pci_state(&self, state: &serde_json::Value) -> anyhow::Result<()> {
        let state: PciState = serde::Deserialize::deserialize(state)?;
        Ok(self.vf.restore(&state)?)
    }

    fn dma_ranges(&self) -> anyhow::Result<Vec<GuestRange>> {
        Ok(self.vf.container().mapped())
    }

    fn dirty_bits(&self) -> Result<Arc<PageTable>, String> {
        self.vf.dirty_bits().cloned().map_err(str::to_owned)
    }
}
