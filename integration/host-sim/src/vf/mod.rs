// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A virtual function: its memory, its states, its packet stream and its engine.
//!
//! All of a VF lives in two files that every process maps, so any process may call any method at any time; a method
//! answers what the kernel's ioctl, read or write would.

mod errno;
pub mod faults;
pub mod state;

use std::fs::File;
use std::ptr::NonNull;

pub use errno::Errno;
pub use faults::{Effect, FaultSpec, Faults, Op};
pub use state::State;

/// Names one data fd's life: dead as soon as the VF leaves the state that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// What a SET of the device state answers besides 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// No data fd (-1).
    None,
    /// A data fd to read from (O_RDONLY).
    Save(SessionId),
    /// A data fd to write to (O_WRONLY).
    Load(SessionId),
}

/// What one call of [`Vf::engine_step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do.
    Idle,
    /// A job was done, or an interrupt made up for.
    Worked,
    /// Nothing will be done until a state change or a reset.
    Halted,
}

/// DMA of a VF, as the IOMMU behind it allows.
pub trait Dma {
    /// Reads guest memory.
    ///
    /// # Errors
    /// Any errno when one byte of it is not mapped.
    fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), Errno>;

    /// Writes guest memory.
    ///
    /// # Errors
    /// Any errno when one byte of it is not mapped for writing.
    fn write(&self, iova: u64, buf: &[u8]) -> Result<(), Errno>;
}

/// Everything `host-sim status` tells about a VF.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// Number of the VF, from 1.
    pub index: u16,
}

/// One virtual function of a host.
#[derive(Debug)]
pub struct Vf {
    memory: File,
    faults: Faults,
}

impl Vf {
    /// Number of the VF, from 1.
    #[must_use]
    pub fn index(&self) -> u16 {
        0
    }

    /// PCI address, `0000:03:00.1`.
    #[must_use]
    pub fn bdf(&self) -> String {
        String::new()
    }

    /// IOMMU group number.
    #[must_use]
    pub fn group_id(&self) -> u32 {
        0
    }

    /// Number n of its `/dev/vfio/devices/vfio<n>`.
    #[must_use]
    pub fn cdev_index(&self) -> u32 {
        0
    }

    /// The VF's memory: BAR0 below the window from offset 0, VRAM from offset 4 MiB, so that BAR0 is offset 0 with 8 MiB and
    /// BAR2 is offset 4 MiB with [`Vf::bar2_size`].
    #[must_use]
    pub fn memory_file(&self) -> &File {
        &self.memory
    }

    /// This process's mapping of the whole of [`Vf::memory_file`], valid as long as the VF is.
    #[must_use]
    pub fn memory(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(NonNull::dangling(), 0)
    }

    /// Bytes of BAR0.
    #[must_use]
    pub fn bar0_size(&self) -> u64 {
        u64::from(guest::abi::BAR0_SIZE)
    }

    /// Bytes of BAR2.
    #[must_use]
    pub fn bar2_size(&self) -> u64 {
        0
    }

    /// VRAM quota in bytes.
    #[must_use]
    pub fn vram(&self) -> u64 {
        0
    }

    /// The first open of the device by process `opener`: function level reset, then RUNNING.
    ///
    /// # Errors
    /// `EIO` when the VF's memory cannot be cleared.
    pub fn device_opened(&self, opener: u32) -> Result<(), Errno> {
        let _ = opener;
        Err(Errno::EIO)
    }

    /// The last close of the device: its data fd answers `ENODEV` from now on. Blocks behind a blocked reader.
    pub fn device_closed(&self) {}

    /// VFIO_DEVICE_RESET: takes the FLR's time, then the state is RUNNING, the data fd dead, GPU state cleared.
    ///
    /// # Errors
    /// That of a fault on `reset`.
    pub fn reset(&self) -> Result<(), Errno> {
        Err(Errno::EIO)
    }

    /// GET of FEATURE_MIGRATION.
    ///
    /// # Errors
    /// `ENOTTY` when the host does not offer migration.
    pub fn migration_flags(&self) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }

    /// GET of the device state, as the uAPI's number. Blocks behind a SET in progress.
    ///
    /// # Errors
    /// `ENOTTY` when the host does not offer migration.
    pub fn state(&self) -> Result<u32, Errno> {
        Err(Errno::ENOTTY)
    }

    /// SET of the device state.
    ///
    /// # Errors
    /// As the kernel; the VF is left in the last state reached.
    pub fn set_state(&self, target: u32) -> Result<Transition, Errno> {
        let _ = target;
        Err(Errno::ENOTTY)
    }

    /// GET of MIG_DATA_SIZE in bytes; a negative errno as a huge value when the PF failed.
    ///
    /// # Errors
    /// `ENOTTY` when the host does not offer migration.
    pub fn stop_copy_length(&self) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }

    /// read of the data fd.
    ///
    /// # Errors
    /// `ENODEV` for a dead session, `EBADF` for one that loads, `EIO` when the save failed, `EINTR` after a signal.
    pub fn data_read(&self, session: SessionId, buf: &mut [u8]) -> Result<usize, Errno> {
        let _ = (session, buf);
        Err(Errno::ENODEV)
    }

    /// write of the data fd.
    ///
    /// # Errors
    /// `ENODEV` for a dead session or a descriptor of another device, `EBADF` for a session that saves, `EINVAL` for bad
    /// headers, `ENOMEM` for absurd sizes, `EIO` when the restore failed.
    pub fn data_write(&self, session: SessionId, buf: &[u8]) -> Result<usize, Errno> {
        let _ = (session, buf);
        Err(Errno::ENODEV)
    }

    /// Does at most one job of the ring. `dma` and `irq` are called while a suspend waits for this job: they must not block
    /// and not call into this VF.
    pub fn engine_step(&self, dma: &dyn Dma, irq: &dyn Fn(u16)) -> Step {
        let _ = (dma, irq);
        Step::Halted
    }

    /// Whether [`Vf::engine_step`] would find something to do; a few loads, for polling.
    #[must_use]
    pub fn ring_may_have_work(&self) -> bool {
        false
    }

    /// The VF's faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What the VF is doing, without waiting for it.
    #[must_use]
    pub fn status(&self) -> Status {
        Status { index: 0 }
    }
}
