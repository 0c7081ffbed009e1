// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated VF as a VMM's device.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use host_sim::host::Host;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioOps};
use xe_vfio_device::device::{Options, Passthrough, XeVfioDevice};
use xe_vfio_device::dirty::GuestRange;
use xe_vfio_device::transfer::Deadlines;
use xe_vfio_device::uapi::{InterruptSignal, KernelVf, VfioHandle};
use xe_vfio_device::xe::{Identity, ProbeError, probe};

/// The crate's device on a simulated VF.
pub type Device = XeVfioDevice<Passed>;

/// A VF opened by group and container.
pub struct Passed {
    vfio: Arc<VfioDevice>,
    sysfs: PathBuf,
    id: String,
}

/// Opens VF `index` as the device `id`.
///
/// # Errors
/// When vfio-ioctls cannot open it.
pub fn open(host: &Host, index: u16, id: String) -> anyhow::Result<Device> {
    let bdf = host.config().bdf(index);
    let sysfs = PathBuf::from(format!("/sys/bus/pci/devices/{bdf}"));
    let ops: Arc<dyn VfioOps> = Arc::new(VfioContainer::new(None).context("no container")?);
    let vfio = VfioDevice::new(&sysfs, ops).with_context(|| format!("VF {index} does not open"))?;
    let passed = Passed {
        vfio: Arc::new(vfio),
        sysfs,
        id,
    };
    let options = Options {
        deadlines: Deadlines::default(),
        interrupt: Some(InterruptSignal::default_signal()?),
    };
    Ok(XeVfioDevice::new(passed, options))
}

impl Passthrough for Passed {
    type Device = KernelVf<VfioHandle>;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn device(&self) -> Self::Device {
        KernelVf::new(VfioHandle::new(Arc::clone(&self.vfio)))
    }

    fn identity(&self) -> Result<Identity, ProbeError> {
        probe(&self.sysfs)
    }

    fn save_pci_state(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }

    fn restore_pci_state(&self, _: &serde_json::Value) -> anyhow::Result<()> {
        Ok(())
    }

    fn dma_ranges(&self) -> anyhow::Result<Vec<GuestRange>> {
        Ok(vec![])
    }
}
