// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The IOMMU's view of the guest: one address space for all VFs of a VM, with all of RAM in it at first.
//!
//! Two ways lead there, group and container or cdev and iommufd; `vfio-ioctls` has both behind one trait. A VF sees
//! guest physical addresses, so RAM is mapped one to one.
#![allow(unsafe_code)] // A DMA mapping hands a raw address to the kernel.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommufd_ioctls::IommuFd;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioIommufd, VfioOps};
use xe_vfio_device::dirty::{GuestRange, PageTable};
use xe_vfio_device::uapi::{self, DirtyPageTable, UapiError};

use crate::accel::Accelerator;
use crate::config::HostConfig;
use crate::memory::{self, GuestRam};

/// Why a VF could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// /dev/iommu.
    #[error("/dev/iommu could not be opened")]
    Iommufd(#[source] iommufd_ioctls::IommufdError),
    /// Its address space.
    #[error("No address space could be made in /dev/iommu")]
    Ioas(#[source] UapiError),
    /// A device's node.
    #[error(
        "Device {path} has no usable node in /dev/vfio/devices: is the kernel built with CONFIG_VFIO_DEVICE_CDEV?"
    )]
    Node {
        /// Its directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// VFIO_DEVICE_BIND_IOMMUFD.
    #[error("Device {path} could not be bound to /dev/iommu")]
    Bind {
        /// Its directory.
        path: PathBuf,
        /// The call that failed.
        #[source]
        source: UapiError,
    },
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
    #[error("Guest RAM at {gpa:#x} of {size:#x} bytes could not be mapped for DMA")]
    Map {
        /// First guest physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
    /// VFIO_IOMMU_UNMAP_DMA or IOMMU_IOAS_UNMAP.
    #[error("Guest RAM at {gpa:#x} of {size:#x} bytes could not be unmapped for DMA")]
    Unmap {
        /// First guest physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// The call that failed.
        #[source]
        source: VfioError,
    },
    /// An unmap of something else than what was mapped.
    #[error(
        "Guest RAM at {gpa:#x} of {size:#x} bytes is not what was mapped for DMA: a mapping goes as a whole, and --dma-block says how large they are"
    )]
    Cut {
        /// First guest physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
    /// Memory that is not RAM.
    #[error(transparent)]
    Memory(#[from] memory::Error),
}

/// The address space.
pub struct Container {
    ops: Arc<dyn VfioOps>,
    iommufd: Option<Iommufd>,
    ram: Arc<GuestRam>,
    /// Bytes of a mapping of RAM; none for one of each piece.
    block: Option<u64>,
    /// What is mapped: first address and bytes of each mapping. None before the first device.
    mapped: Mutex<Option<BTreeMap<u64, u64>>>,
}

struct Iommufd {
    fd: Arc<IommuFd>,
    ioas: u32,
    tables: Mutex<Vec<Tracked>>,
}

struct Tracked {
    id: u32,
    table: Arc<PageTable>,
}

/// Keeps the address space for as long as a page table follows it.
struct Owner {
    fd: Arc<IommuFd>,
    _ops: Arc<dyn VfioOps>,
}

impl AsRawFd for Owner {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A device in the address space.
pub struct Opened {
    /// The device.
    pub device: VfioDevice,
    /// The page table with dirty bits that its DMA goes through, or why there is none.
    pub dirty_bits: Result<Arc<PageTable>, String>,
}

impl Container {
    /// Creates an empty address space.
    ///
    /// # Errors
    /// [`Error::Iommufd`], [`Error::Ioas`] or [`Error::Create`].
    pub fn new(
        host: &HostConfig,
        accelerator: &dyn Accelerator,
        ram: Arc<GuestRam>,
    ) -> Result<Self, Error> {
        let of_kvm = accelerator.vfio_device();
        let (ops, iommufd): (Arc<dyn VfioOps>, _) = if host.iommufd {
            let way = "iommufd";
            let fd = Arc::new(IommuFd::new().map_err(Error::Iommufd)?);
            let ioas = uapi::alloc_ioas(&*fd).map_err(Error::Ioas)?;
            let ops = VfioIommufd::new(fd.clone(), Some(ioas), of_kvm)
                .map_err(|source| Error::Create { way, source })?;
            let tables = Mutex::default();
            (Arc::new(ops), Some(Iommufd { fd, ioas, tables }))
        } else {
            let way = "group and container";
            let container =
                VfioContainer::new(of_kvm).map_err(|source| Error::Create { way, source })?;
            (Arc::new(container), None)
        };
        Ok(Self {
            ops,
            iommufd,
            ram,
            block: host.dma_block,
            mapped: Mutex::default(),
        })
    }

    /// Opens the device at a sysfs path and maps RAM for it, if that has not been done yet. The device is RUNNING then
    /// and its interrupts are off.
    ///
    /// # Errors
    /// [`Error`]; the device is closed again.
    pub fn open(&self, path: &Path) -> Result<Opened, Error> {
        let opened = match &self.iommufd {
            Some(iommufd) => self.open_cdev(iommufd, path)?,
            None => {
                let way = "group and container";
                let device = VfioDevice::new(path, self.ops.clone());
                let device = device.map_err(|source| failed(path, way, source))?;
                let dirty_bits =
                    Err("the VF is used by group and container, without --iommufd".into());
                Opened { device, dirty_bits }
            }
        };
        self.map_ram()?;
        Ok(opened)
    }

    fn open_cdev(&self, iommufd: &Iommufd, path: &Path) -> Result<Opened, Error> {
        let node = node(path).map_err(|source| Error::Node {
            path: path.into(),
            source,
        })?;
        // Only who binds is told the device's id, without which nobody can ask for its IOMMU.
        let id = uapi::bind(&node, &*iommufd.fd).map_err(|source| Error::Bind {
            path: path.into(),
            source,
        })?;
        let device = VfioDevice::new_from_bound_fd(node, self.ops.clone())
            .map_err(|source| failed(path, "iommufd", source))?;
        let dirty_bits = self.track(iommufd, &device, id);
        Ok(Opened { device, dirty_bits })
    }

    /// Takes the device to a page table with dirty bits: one that another device has, where the same IOMMU is in front of
    /// both, or a new one.
    fn track(
        &self,
        iommufd: &Iommufd,
        device: &VfioDevice,
        id: u32,
    ) -> Result<Arc<PageTable>, String> {
        match uapi::can_track(&*iommufd.fd, id) {
            Ok(true) => {}
            Ok(false) => return Err("the IOMMU has no dirty bits".into()),
            Err(error) => return Err(error.to_string()),
        }
        let mut tables = lock(&iommufd.tables);
        for known in &*tables {
            if uapi::attach(device, known.id).is_ok() {
                return Ok(known.table.clone());
            }
        }
        let owner = Owner {
            fd: iommufd.fd.clone(),
            _ops: self.ops.clone(),
        };
        let table = DirtyPageTable::new(owner, id, iommufd.ioas).map_err(|e| e.to_string())?;
        let id = table.id();
        uapi::attach(device, id).map_err(|error| error.to_string())?;
        let table = PageTable::new(table);
        tables.push(Tracked {
            id,
            table: table.clone(),
        });
        Ok(table)
    }

    /// A container of groups has no page tables before its first device, so this comes after it.
    fn map_ram(&self) -> Result<(), Error> {
        let mut mapped = lock(&self.mapped);
        if mapped.is_none() {
            let all = mapped.insert(BTreeMap::new());
            for region in self.ram.layout().regions() {
                self.map_blocks(all, region.gpa, region.size)?;
            }
        }
        Ok(())
    }

    fn map_blocks(
        &self,
        mapped: &mut BTreeMap<u64, u64>,
        gpa: u64,
        length: u64,
    ) -> Result<(), Error> {
        let block = self.block.unwrap_or(length);
        let (mut gpa, end) = (gpa, gpa + length);
        while gpa < end {
            let size = block.min(end - gpa);
            let host = self.ram.host_address(gpa)?;
            let bytes = usize::try_from(size).unwrap_or(usize::MAX);
            // SAFETY: `self.ram` keeps the mapping for as long as this address space exists, and guest RAM is only ever
            // accessed as memory that others change.
            unsafe { self.ops.vfio_dma_map(gpa, bytes, host) }.map_err(|source| Error::Map {
                gpa,
                size,
                source,
            })?;
            mapped.insert(gpa, size);
            gpa += size;
        }
        Ok(())
    }

    /// Maps more of RAM for all devices.
    ///
    /// # Errors
    /// [`Error::Map`], also for what is mapped already; blocks before the one that failed are mapped then. [`Error::Memory`].
    pub fn map(&self, gpa: u64, length: u64) -> Result<(), Error> {
        self.ram.check(gpa, length)?;
        let mut mapped = lock(&self.mapped);
        self.map_blocks(mapped.get_or_insert_default(), gpa, length)
    }

    /// Takes mappings that make up exactly this range away from all devices.
    ///
    /// # Errors
    /// [`Error::Cut`] when they do not, and nothing was unmapped; [`Error::Unmap`], when those before the one that failed are gone.
    pub fn unmap(&self, gpa: u64, length: u64) -> Result<(), Error> {
        let mut mapped = lock(&self.mapped);
        let mapped = mapped.get_or_insert_default();
        let end = gpa + length;
        let whole: Vec<_> = mapped.range(gpa..end).map(|(a, b)| (*a, *b)).collect();
        let covered: u64 = whole.iter().map(|(_, size)| size).sum();
        let fits = whole.last().is_some_and(|(last, size)| last + size == end);
        if covered != length || !fits {
            return Err(Error::Cut { gpa, size: length });
        }
        for (gpa, size) in whole {
            let bytes = usize::try_from(size).unwrap_or(usize::MAX);
            let unmapped = self.ops.vfio_dma_unmap(gpa, bytes);
            unmapped.map_err(|source| Error::Unmap { gpa, size, source })?;
            mapped.remove(&gpa);
        }
        Ok(())
    }

    /// What devices reach, in order.
    #[must_use]
    pub fn mapped(&self) -> Vec<GuestRange> {
        let mapped = lock(&self.mapped);
        let ranges = mapped.iter().flatten();
        ranges
            .map(|(&gpa, &length)| GuestRange { gpa, length })
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(path: &Path, way: &'static str, source: VfioError) -> Error {
    Error::Open {
        path: path.into(),
        way,
        source,
    }
}

/// The node of a device in /dev/vfio/devices.
fn node(path: &Path) -> io::Result<File> {
    let entry = fs::read_dir(path.join("vfio-dev"))?
        .next()
        .ok_or(io::ErrorKind::NotFound)??;
    let node = Path::new("/dev/vfio/devices").join(entry.file_name());
    File::options().read(true).write(true).open(node)
}
