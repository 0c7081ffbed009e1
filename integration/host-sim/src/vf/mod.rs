// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A virtual function: its memory, its states, its packet stream and its engine.
//!
//! All of a VF lives in two files that every process maps, so any process may call any method at any time; a method
//! answers what the kernel's ioctl, read or write would. `transition` has the states, `save` and `load` the data fd, `engine` what
//! the VF does for its guest, `dma_log` what it notes of its DMA, `storm` DMA that no
//! guest asked for, `reset` opening, closing and resetting, `faults` how to break each of them.

mod control;
mod dma_log;
mod engine;
mod errno;
mod faults;
mod guc;
mod load;
mod op;
pub mod packet;
mod reset;
mod restore;
mod save;
mod session;
pub mod state;
mod status;
mod storm;
mod transition;
mod wait;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest::abi;

use crate::host::HostConfig;
use crate::shm::{Memory, Shared, bulk};
use control::Control;
use dma_log::DmaLog;
use storm::StormFile;

pub use errno::Errno;
pub use faults::{CAPACITY as FAULT_CAPACITY, Effect, FaultError, FaultSpec, FaultStatus, Faults};
pub use op::{Op, UnknownOp};
pub use state::State;
pub use status::Status;
pub use storm::{StormCheck, StormError, StormSpec, StormStatus};

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

/// One virtual function of a host.
pub struct Vf {
    index: u16,
    config: Arc<HostConfig>,
    plan: packet::Plan,
    memory_file: File,
    memory: Memory,
    control: Arc<Shared<Control>>,
    faults: Faults,
    dma_log: Option<DmaLog>,
    storm: Shared<StormFile>,
}

impl Vf {
    /// Makes VF `index` in the empty directory `dir`: closed, as after a reset.
    pub(crate) fn create(dir: &Path, index: u16, config: &Arc<HostConfig>) -> io::Result<Self> {
        let make = |name| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(dir.join(name))
        };
        let memory_file = make("memory")?;
        memory_file.set_len(memory_len(config))?;
        if config.populate {
            bulk::populate(&memory_file, memory_len(config))?;
        }
        let dma_log = config
            .dma_logging
            .contains(index)
            .then(|| DmaLog::create(&dir.join("dma-log"), &config.dma_log))
            .transpose()?;
        let control = Shared::create(&make("control")?)?;
        let storm = Shared::create(&make("storm")?)?;
        let vf = Self::new(index, config, memory_file, control, dma_log, storm)?;
        vf.clear_memory()?;
        vf.lock_engine().accumulator = abi::ACC_RESET;
        vf.control
            .live
            .state
            .store(State::Running as u32, Ordering::Release);
        vf.control.magic.store(control::MAGIC, Ordering::Release);
        Ok(vf)
    }

    /// Maps VF `index` in `dir`.
    pub(crate) fn open(dir: &Path, index: u16, config: &Arc<HostConfig>) -> io::Result<Self> {
        let open = |name| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(dir.join(name))
        };
        let memory_file = open("memory")?;
        let control = Shared::<Control>::open(&open("control")?)?;
        let sound = control.magic.load(Ordering::Acquire) == control::MAGIC
            && memory_file.metadata()?.len() == memory_len(config);
        if !sound {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "The VF is not of this host or version",
            ));
        }
        let dma_log = config
            .dma_logging
            .contains(index)
            .then(|| DmaLog::open(&dir.join("dma-log"), &config.dma_log))
            .transpose()?;
        let storm = Shared::open(&open("storm")?)?;
        Self::new(index, config, memory_file, control, dma_log, storm)
    }

    fn new(
        index: u16,
        config: &Arc<HostConfig>,
        memory_file: File,
        control: Shared<Control>,
        dma_log: Option<DmaLog>,
        storm: Shared<StormFile>,
    ) -> io::Result<Self> {
        let len = usize::try_from(memory_len(config)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let memory = Memory::map(&memory_file, len)?;
        let control = Arc::new(control);
        let faults = Faults::new(Arc::clone(&control));
        let (config, plan) = (Arc::clone(config), packet::Plan::of(config));
        Ok(Self {
            index,
            config,
            plan,
            memory_file,
            memory,
            control,
            faults,
            dma_log,
            storm,
        })
    }

    /// Number of the VF, from 1.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The configuration of its host.
    #[must_use]
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// PCI address, `0000:03:00.1`.
    #[must_use]
    pub fn bdf(&self) -> String {
        self.config.bdf(self.index)
    }

    /// IOMMU group number; every VF has a group of its own.
    #[must_use]
    pub fn group_id(&self) -> u32 {
        self.config.group_base + u32::from(self.index) - 1
    }

    /// Number n of its `/dev/vfio/devices/vfio<n>`.
    #[must_use]
    pub fn cdev_index(&self) -> u32 {
        self.config.cdev_base + u32::from(self.index) - 1
    }

    /// The VF's memory: BAR0 below the window from offset 0, VRAM from offset 4 MiB, so that BAR0 is offset 0 with 8 MiB and
    /// BAR2 is offset 4 MiB with [`Vf::bar2_size`].
    #[must_use]
    pub fn memory_file(&self) -> &File {
        &self.memory_file
    }

    /// This process's mapping of the whole of [`Vf::memory_file`], valid as long as the VF is. Guests and other processes
    /// write there at any time.
    #[must_use]
    pub fn memory(&self) -> NonNull<[u8]> {
        self.memory.as_slice_ptr()
    }

    /// Bytes of BAR0.
    #[must_use]
    pub fn bar0_size(&self) -> u64 {
        abi::BAR0_SIZE.into()
    }

    /// Bytes of BAR2: the quota rounded up to a power of two.
    #[must_use]
    pub fn bar2_size(&self) -> u64 {
        self.config.bar2_size()
    }

    /// VRAM quota in bytes.
    #[must_use]
    pub fn vram(&self) -> u64 {
        self.config.vram
    }

    /// The VF's faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    fn memory_len(&self) -> u64 {
        memory_len(&self.config)
    }
}

impl std::fmt::Debug for Vf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vf")
            .field("index", &self.index)
            .field("bdf", &self.bdf())
            .finish_non_exhaustive()
    }
}

fn memory_len(config: &HostConfig) -> u64 {
    u64::from(abi::VRAM_WINDOW) + config.bar2_size()
}
