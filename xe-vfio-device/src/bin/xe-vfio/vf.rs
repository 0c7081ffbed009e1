// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF that this command has open, with nobody's guest behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iommufd_ioctls::IommuFd;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioIommufd, VfioOps};
use xe_vfio_device::device::{Options, Passthrough, XeVfioDevice};
use xe_vfio_device::dirty::GuestRange;
use xe_vfio_device::transfer::Deadlines;
use xe_vfio_device::uapi::{InterruptSignal, KernelVf, VfioHandle};
use xe_vfio_device::xe::{Identity, ProbeError};

use crate::cli;
use crate::diagnosis::{self, Unusable};

/// The crate's device.
pub type Device = XeVfioDevice<Passed>;

/// An open VF. Opening it has reset it: it is in RUNNING with nothing in it.
pub struct Opened {
    /// Its PCI address.
    pub address: String,
    vfio: Arc<VfioDevice>,
    path: PathBuf,
}

impl Opened {
    /// Opens a VF that sysfs does not speak against.
    ///
    /// # Errors
    /// [`Unusable`]; then it is as it was.
    pub fn new(device: &cli::Device) -> Result<Self, Unusable> {
        let identity = diagnosis::identity(&device.path)?;
        diagnosis::usable(&identity)?;
        let way = if device.iommufd {
            "cdev and iommufd"
        } else {
            "group and container"
        };
        let Identity { path, address, .. } = identity;
        let vfio = open(&path, device.iommufd)
            .map_err(|source| Unusable::of_open(&address, way, source))?;
        Ok(Self {
            address,
            vfio: Arc::new(vfio),
            path,
        })
    }

    /// The crate's device of the name `id`. One at a time is of use.
    pub fn device(&self, id: &str, options: Options) -> Device {
        let passed = Passed {
            id: id.to_owned(),
            vfio: Arc::clone(&self.vfio),
            path: self.path.clone(),
        };
        XeVfioDevice::new(passed, options)
    }
}

fn open(path: &Path, iommufd: bool) -> Result<VfioDevice, VfioError> {
    let ops: Arc<dyn VfioOps> = if iommufd {
        let fd = IommuFd::new().map_err(VfioError::NewVfioIommufd)?;
        Arc::new(VfioIommufd::new(Arc::new(fd), None, None)?)
    } else {
        Arc::new(VfioContainer::new(None)?)
    };
    VfioDevice::new(path, ops)
}

/// How long nothing may happen.
pub fn options(device: Duration, network: Duration) -> Options {
    Options {
        deadlines: Deadlines {
            device,
            network,
            ..Deadlines::default()
        },
        interrupt: InterruptSignal::default_signal().ok(),
    }
}

/// The command's side of a VF: there is no guest, so no PCI state and no memory.
pub struct Passed {
    id: String,
    vfio: Arc<VfioDevice>,
    path: PathBuf,
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
        diagnosis::identity(&self.path)
    }

    fn save_pci_state(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }

    fn restore_pci_state(&self, _: &serde_json::Value) -> anyhow::Result<()> {
        Ok(())
    }

    fn dma_ranges(&self) -> anyhow::Result<Vec<GuestRange>> {
        Ok(Vec::new())
    }
}
