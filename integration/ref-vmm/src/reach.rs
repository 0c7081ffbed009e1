// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which memory the VFs reach, changed while the VM runs: what a balloon or memory hotplug comes down to in a VM with VFs.
//!
//! Memory that a VF reaches is pinned, so it is first taken out of their reach and only then given back to the host; what is mapped
//! goes as a whole (`--dma-block` says in which pieces RAM is mapped). The guest is not told and sees all of its RAM as before.
//!
//! It may happen in the middle of a migration. A log of DMA goes with the mapping that it is of, and KVM does not log what is given up, so
//! what was taken away counts as written: [`Reach::hold`] answers it to whoever reads the logs, and holds such changes
//! off meanwhile. Where a mapping is new to a log, the crate refuses to go on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_migration::protocol::{MemoryRange, MemoryRangeTable};

use crate::memory::{self, GuestRam, PAGE_SIZE};
use crate::pci::container::{self, Container};

/// Why memory was not taken away or given to the VFs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A VM whose memory no VF reaches anyway.
    #[error("The VM has no VFs, so none of its memory is mapped for them")]
    NoVfs,
    /// Addresses that are no pages.
    #[error("Memory at {gpa:#x} of {length:#x} bytes is not made of whole pages of 4 KiB")]
    Unaligned {
        /// First byte.
        gpa: u64,
        /// Bytes.
        length: u64,
    },
    /// The IOMMU.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// RAM.
    #[error(transparent)]
    Memory(#[from] memory::Error),
}

/// The VFs' reach.
pub struct Reach {
    ram: Arc<GuestRam>,
    container: Option<Arc<Container>>,
    changed: Mutex<Option<MemoryRangeTable>>,
}

impl Reach {
    /// Of a VM with that RAM; without VFs there is no container.
    #[must_use]
    pub fn new(ram: Arc<GuestRam>, container: Option<Arc<Container>>) -> Self {
        Self {
            ram,
            container,
            changed: Mutex::default(),
        }
    }

    /// Takes memory out of the VFs' reach; with `discard` it is given back to the host too and reads as zeros.
    ///
    /// # Errors
    /// [`Error`]; where it is the host that does not take it back, it is out of the VFs' reach all the same.
    pub fn take_away(&self, gpa: u64, length: u64, discard: bool) -> Result<(), Error> {
        let container = self.container_for(gpa, length)?;
        let mut changed = self.hold();
        container.unmap(gpa, length)?;
        if let Some(changed) = &mut *changed {
            changed.push(MemoryRange { gpa, length });
        }
        if discard {
            self.ram.discard(gpa, length)?;
        }
        tracing::info!(gpa, length, discard, "memory was taken from the VFs");
        Ok(())
    }

    /// Gives memory to the VFs.
    ///
    /// # Errors
    /// [`Error`], also for memory that they have.
    pub fn give(&self, gpa: u64, length: u64) -> Result<(), Error> {
        let container = self.container_for(gpa, length)?;
        let _changed = self.hold();
        container.map(gpa, length)?;
        tracing::info!(gpa, length, "memory was given to the VFs");
        Ok(())
    }

    fn container_for(&self, gpa: u64, length: u64) -> Result<&Container, Error> {
        self.ram.check(gpa, length)?;
        let whole = gpa.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(PAGE_SIZE);
        if !whole || length == 0 {
            return Err(Error::Unaligned { gpa, length });
        }
        self.container.as_deref().ok_or(Error::NoVfs)
    }

    /// Holds changes off. What was taken away is noted where there is a table for it, which whoever reads the logs puts there when they begin.
    pub fn hold(&self) -> MutexGuard<'_, Option<MemoryRangeTable>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
