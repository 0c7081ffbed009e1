// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page tables with dirty bits of one address space in an iommufd.
//!
//! A VMM makes its IOAS here, maps guest memory in it as in any other, binds each device by itself ([`uapi::bind`], since only who
//! binds is told the device's id) and, once the device is attached to the IOAS, has it moved to a page table with dirty bits by
//! [`PageTables::track`]. Devices behind the same IOMMU share one.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::PageTable;
use crate::uapi::{self, DirtyPageTable, UapiError};

/// An address space and its page tables.
pub struct PageTables<F> {
    iommufd: Arc<F>,
    ioas: u32,
    tables: Mutex<Vec<(u32, Arc<PageTable>)>>,
}

/// Keeps the iommufd open for as long as there is a page table.
struct Owner<F>(Arc<F>);

impl<F: AsRawFd> AsRawFd for Owner<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl<F: AsRawFd + Send + Sync + 'static> PageTables<F> {
    /// Makes an empty IOAS, which goes with the iommufd.
    ///
    /// # Errors
    /// [`UapiError`].
    pub fn new(iommufd: Arc<F>) -> Result<Self, UapiError> {
        Ok(Self {
            ioas: uapi::alloc_ioas(&*iommufd)?,
            iommufd,
            tables: Mutex::default(),
        })
    }

    /// The IOAS, to map memory in.
    pub fn ioas(&self) -> u32 {
        self.ioas
    }

    /// Moves a device, bound as `id` and attached to the IOAS, to a page table with dirty bits: one that another device has, where
    /// the same IOMMU is in front of both, or a new one.
    ///
    /// # Errors
    /// Why there is none, for people; the device is attached to the IOAS still.
    pub fn track(&self, device: &impl AsRawFd, id: u32) -> Result<Arc<PageTable>, String> {
        match uapi::can_track(&*self.iommufd, id) {
            Ok(true) => {}
            Ok(false) => return Err("the IOMMU has no dirty bits".into()),
            Err(error) => return Err(error.to_string()),
        }
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for (known, table) in &*tables {
            if uapi::attach(device, *known).is_ok() {
                return Ok(table.clone());
            }
        }
        let owner = Owner(self.iommufd.clone());
        let table = DirtyPageTable::new(owner, id, self.ioas).map_err(|e| e.to_string())?;
        let known = table.id();
        uapi::attach(device, known).map_err(|error| error.to_string())?;
        let table = PageTable::new(table);
        tables.push((known, table.clone()));
        Ok(table)
    }
}
