// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The IOMMU's view of the guest: one address space for all VFs of a VM, with all of RAM in it.
//!
//! Two ways lead there, group and container or cdev and iommufd; `vfio-ioctls` has both behind one trait. A VF sees
//! guest physical addresses, so RAM is mapped one to one.
#![allow(unsafe_code)] // A DMA mapping hands a raw address to the kernel.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use iommufd_ioctls::IommuFd;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioIommufd, VfioOps};

use crate::accel::Accelerator;
use crate::memory::GuestRam;

/// Why a VF could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// /dev/iommu.
    #[error("/dev/iommu could not be opened")]
    Iommufd(#[source] iommufd_ioctls::IommufdError),
    /// The container or IOAS.
    #[error("No VFIO address space could be created by {way}")]
    Create {
        /// Group and container, or iommufd.
        way: &'static str,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
    /// The device.
    #[error(
        "Device {path} could not be opened by {way}: it has to be a PCI device's directory in /sys/bus/pci/devices, bound to xe-vfio-pci and unused"
    )]
    Open {
        /// Its directory.
        path: PathBuf,
        /// Group and container, or iommufd.
        way: &'static str,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
    /// VFIO_IOMMU_MAP_DMA or IOMMU_IOAS_MAP.
    #[error("Guest RAM of {size:#x} bytes could not be mapped for DMA")]
    Map {
        /// Bytes.
        size: u64,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
}

/// The address space.
pub struct Container {
    ops: Arc<dyn VfioOps>,
    way: &'static str,
    ram: Arc<GuestRam>,
    mapped: Mutex<bool>,
}

impl Container {
    /// Creates an empty address space.
    ///
    /// # Errors
    /// [`Error::Iommufd`] or [`Error::Create`].
    pub fn new(
        iommufd: bool,
        accelerator: &dyn Accelerator,
        ram: Arc<GuestRam>,
    ) -> Result<Self, Error> {
        let of_kvm = accelerator.vfio_device();
        let (ops, way): (Arc<dyn VfioOps>, _) = if iommufd {
            let way = "iommufd";
            let fd = IommuFd::new().map_err(Error::Iommufd)?;
            let ioas = VfioIommufd::new(Arc::new(fd), None, of_kvm)
                .map_err(|source| Error::Create { way, source })?;
            (Arc::new(ioas), way)
        } else {
            let way = "group and container";
            let container =
                VfioContainer::new(of_kvm).map_err(|source| Error::Create { way, source })?;
            (Arc::new(container), way)
        };
        Ok(Self {
            ops,
            way,
            ram,
            mapped: Mutex::new(false),
        })
    }

    /// Opens the device at a sysfs path and maps RAM for it, if that has not been done yet. The device is RUNNING then
    /// and its interrupts are off.
    ///
    /// # Errors
    /// [`Error::Open`] or [`Error::Map`]; the device is closed again.
    pub fn open(&self, path: &Path) -> Result<VfioDevice, Error> {
        let device = VfioDevice::new(path, self.ops.clone()).map_err(|source| Error::Open {
            path: path.into(),
            way: self.way,
            source,
        })?;
        self.map_ram()?;
        Ok(device)
    }

    /// A container of groups has no page tables before its first device, so this comes after it.
    fn map_ram(&self) -> Result<(), Error> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*mapped {
            let size = self.ram.size();
            let length = usize::try_from(size).unwrap_or(usize::MAX);
            // SAFETY: `self.ram` keeps the mapping for as long as this address space exists, and guest RAM is only ever
            // accessed as memory that others change.
            unsafe { self.ops.vfio_dma_map(0, length, self.ram.host_address()) }
                .map_err(|source| Error::Map { size, source })?;
            *mapped = true;
        }
        Ok(())
    }
}
