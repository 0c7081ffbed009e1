// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A virtual machine: memory, an accelerator, two buses, a serial port and VFs.
//!
//! The order of pausing and resuming is what a VMM has to get right with VFs: all VFs to RUNNING_P2P while the vCPU runs,
//! then the vCPU, then all VFs to STOP; on the way back the VFs first. [`DeviceGroup`] does the VFs' part.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_migration::{MigratableError, Snapshot, Snapshottable};
use xe_vfio_device::device::{
    DeviceError, DeviceGroup, GroupError, GroupMember, GroupReport, Options, XeVfioDevice,
};
use xe_vfio_device::state::Outcome;

use crate::accel::{self, Accelerator, Choice, Kind, Slot};
use crate::boot;
use crate::bus::{self, Bus};
use crate::config::{DeviceConfig, HostConfig};
use crate::memory::{self, GuestRam};
use crate::pci::container::{self, Container};
use crate::pci::passthrough::Assigned;
use crate::pci::root::{self, Root};
use crate::pci::vfio::{self, Resources, VfioPci};
use crate::reach::Reach;
use crate::serial::{self, Serial};

/// A VF with migration around it.
pub type Vf = XeVfioDevice<Assigned>;

/// Version of [`VmState`].
const VERSION: u32 = 1;

/// Why a VM could not be made, paused or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// RAM.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The guest image.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The accelerator.
    #[error(transparent)]
    Accel(#[from] accel::Error),
    /// The buses.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The IOMMU.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// A VF.
    #[error("VF {id} cannot be passed through")]
    Vfio {
        /// Its name.
        id: String,
        /// Why.
        #[source]
        source: vfio::Error,
    },
    /// The serial port's file.
    #[error("The serial port's output cannot be opened")]
    Serial(#[source] io::Error),
    /// All VFs together.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// One VF.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// One VF, through the traits.
    #[error("The state of VF {id} cannot be {doing}")]
    Migratable {
        /// Its name.
        id: String,
        /// "saved" or "restored".
        doing: &'static str,
        /// Why.
        #[source]
        source: MigratableError,
    },
    /// VM state that this VMM does not understand.
    #[error("The VM state cannot be used: {0}")]
    State(String),
    /// Loaded VFs that did not start, and were reset.
    #[error(
        "What was loaded is lost: its VFs were reset when they did not start. Shut this VMM down and bring the VM back again"
    )]
    NotStarted,
    /// VFs that could not even be reset.
    #[error("{vcpu}: {report}")]
    Unrecovered {
        /// What the vCPU does.
        vcpu: &'static str,
        /// What became of each VF.
        report: GroupReport,
    },
}

/// Everything of a VM but its memory and what is on its GPUs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmState {
    version: u32,
    accel: accel::State,
    pci_address: u32,
    devices: BTreeMap<String, Snapshot>,
}

/// A virtual machine; its vCPU is parked at first.
pub struct Vm {
    devices: Vec<Vf>,
    accelerator: Arc<dyn Accelerator>,
    fallback: Option<String>,
    root: Arc<Root>,
    ram: Arc<GuestRam>,
    reach: Arc<Reach>,
    running: AtomicBool,
    start: Mutex<Start>,
}

/// What the VFs hold before the vCPU runs for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// What they get here, or what the guest has on them: there is a way back for it.
    Own,
    /// Loaded state, which has not run here: it starts as a whole or not at all.
    Loaded,
    /// Nothing any more of what was loaded.
    Failed,
}

impl Vm {
    /// Puts a VM together. Its VFs are open, in RUNNING, and nothing has been given to them yet.
    ///
    /// # Errors
    /// [`Error`]; everything that was opened is closed again.
    pub fn new(
        memory: u64,
        devices: &[DeviceConfig],
        accel: Choice,
        host: &HostConfig,
        options: Options,
    ) -> Result<Self, Error> {
        let ram = Arc::new(GuestRam::new(memory)?);
        let bus = Arc::new(Bus::default());
        let (accelerator, fallback) = accel::create(accel, &bus)?;
        for region in ram.layout().regions() {
            let host = ram.host_address(region.gpa)?;
            let (gpa, size) = (region.gpa, region.size);
            accelerator.map(Slot { gpa, size, host }, true)?;
        }
        let serial = Serial::new(&host.serial).map_err(Error::Serial)?;
        bus.claim_ports(serial::BASE, serial::PORTS, Arc::new(serial))?;
        let root = Arc::new(Root::default());
        bus.claim_ports(root::BASE, root::PORTS, root.clone())?;
        let container = if devices.is_empty() {
            None
        } else {
            let container = Container::new(host, &*accelerator, ram.clone())?;
            Some(Arc::new(container))
        };
        let mut vm = Self {
            devices: Vec::new(),
            accelerator,
            fallback,
            root,
            reach: Arc::new(Reach::new(ram.clone(), container.clone())),
            ram,
            running: AtomicBool::new(false),
            start: Mutex::new(Start::Own),
        };
        if let Some(container) = container {
            vm.plug(devices, &container, &bus, options)?;
        }
        Ok(vm)
    }

    fn plug(
        &mut self,
        devices: &[DeviceConfig],
        container: &Arc<Container>,
        bus: &Arc<Bus>,
        options: Options,
    ) -> Result<(), Error> {
        let mut resources = Resources::default();
        for (slot, DeviceConfig { id, path }) in (1..).zip(devices) {
            let vf = VfioPci::open(id, path, container, &self.accelerator, bus, &mut resources)
                .map_err(|source| Error::Vfio {
                    id: id.clone(),
                    source,
                })?;
            self.root.plug(slot, vf.clone());
            self.devices
                .push(XeVfioDevice::new(Assigned::new(vf), options));
        }
        Ok(())
    }

    /// Loads the guest; it starts from its entry when the VM is resumed.
    ///
    /// # Errors
    /// [`Error::Boot`] or [`Error::Accel`].
    pub fn boot(&self, kernel: Option<&Path>) -> Result<(), Error> {
        let entry = boot::load(&self.ram, kernel)?;
        Ok(self.accelerator.boot(entry)?)
    }

    /// Guest memory.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Which of it the VFs reach.
    #[must_use]
    pub fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    /// What runs the guest.
    #[must_use]
    pub fn accelerator(&self) -> &Arc<dyn Accelerator> {
        &self.accelerator
    }

    /// Which accelerator it is, and why it is not KVM when that was tried.
    #[must_use]
    pub fn accel(&self) -> (Kind, Option<&str>) {
        (self.accelerator.kind(), self.fallback.as_deref())
    }

    /// The VFs in the order of their slots.
    #[must_use]
    pub fn devices(&self) -> &[Vf] {
        &self.devices
    }

    /// The VFs, for the trait methods that want them so.
    pub fn devices_mut(&mut self) -> &mut [Vf] {
        &mut self.devices
    }

    /// Does something with all VFs together.
    pub fn with_group<T>(&self, work: impl FnOnce(&DeviceGroup<'_>) -> T) -> T {
        let members: Vec<&dyn GroupMember> = self.devices.iter().map(|d| d as _).collect();
        work(&DeviceGroup::new(&members))
    }

    /// Whether the vCPU runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Lets the vCPU run, when the VFs do.
    pub fn run_vcpu(&self) {
        self.accelerator.run();
        self.running.store(true, Ordering::SeqCst);
    }

    /// Parks the vCPU.
    ///
    /// # Errors
    /// [`Error::Accel`]; it runs on.
    pub fn pause_vcpu(&self) -> Result<(), Error> {
        self.accelerator.pause()?;
        self.running.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Pauses the whole VM: VFs in RUNNING_P2P, vCPU parked, VFs in STOP.
    ///
    /// # Errors
    /// [`Error`]; the VM runs as before, unless the error says what became of a VF.
    pub fn pause(&self) -> Result<(), Error> {
        if !self.is_running() {
            return Ok(());
        }
        if let Err(error) = self.with_group(|group| group.quiesce()) {
            // The group has gone back by itself, but a VF that could not must not be left to a running vCPU.
            self.recover()?;
            return Err(error.into());
        }
        if let Err(error) = self.pause_vcpu() {
            self.recover()?;
            return Err(error);
        }
        if let Err(error) = self.with_group(|group| group.stop()) {
            self.recover()?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Resumes the whole VM from wherever its VFs are; one that was loaded starts, see [`Vm::start_loaded`].
    ///
    /// # Errors
    /// [`Error::Unrecovered`], or those of [`Vm::start_loaded`]; the vCPU stays parked.
    pub fn resume(&self) -> Result<GroupReport, Error> {
        let start = *self.start();
        if start == Start::Own {
            return self.recover();
        }
        self.start_loaded()?;
        self.run_vcpu();
        let kept = |vf: &Vf| (vf.device_id().to_owned(), Ok(Outcome::GpuStateKept));
        Ok(GroupReport {
            members: self.devices.iter().map(kept).collect(),
        })
    }

    /// Takes the VFs from STOP with loaded state to RUNNING: all of them with what they were given, or none. The vCPU is
    /// for [`Vm::run_vcpu`].
    ///
    /// # Errors
    /// [`Error::Group`] after all VFs were reset; [`Error::NotStarted`] ever after, since the guest would miss its GPU.
    pub fn start_loaded(&self) -> Result<(), Error> {
        let mut start = self.start();
        if *start == Start::Failed {
            return Err(Error::NotStarted);
        }
        *start = Start::Failed;
        self.with_group(|group| group.start())?;
        *start = Start::Own;
        Ok(())
    }

    fn start(&self) -> MutexGuard<'_, Start> {
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way back after anything that failed: the vCPU is parked until it is known what becomes of the VFs, then they come
    /// back as a group, then the vCPU. It runs also when a VF had to be reset, since its guest may have other things to do;
    /// the report says so.
    ///
    /// # Errors
    /// [`Error::Unrecovered`] when a VF could not be brought back at all; the vCPU stays parked, unless it did not even park.
    pub fn recover(&self) -> Result<GroupReport, Error> {
        if let Err(error) = self.pause_vcpu() {
            tracing::warn!(%error, "the VFs go back while the vCPU runs");
        }
        let report = self.with_group(|group| group.give_back());
        if report.members.iter().any(|(_, outcome)| outcome.is_err()) {
            let vcpu = if self.is_running() {
                "The vCPU runs on, since it does not park"
            } else {
                "The vCPU stays paused"
            };
            return Err(Error::Unrecovered { vcpu, report });
        }
        self.run_vcpu();
        Ok(report)
    }

    /// The user has been given this report: VFs that it calls reset are not reported again, and may migrate.
    pub fn told(&self, report: &GroupReport) {
        for (id, outcome) in &report.members {
            if matches!(outcome, Ok(Outcome::Reset { .. }))
                && let Some(device) = self.devices.iter().find(|d| d.device_id() == id)
            {
                device.acknowledge_reset();
            }
        }
    }

    /// The state of the paused VM.
    ///
    /// # Errors
    /// [`Error`]; the VM stays paused.
    pub fn save(&mut self) -> Result<VmState, Error> {
        let accel = self.accelerator.save()?;
        let mut devices = BTreeMap::new();
        for device in &mut self.devices {
            let id = device.device_id().to_owned();
            let snapshot = device.snapshot().map_err(|source| Error::Migratable {
                id: id.clone(),
                doing: "saved",
                source,
            })?;
            devices.insert(id, snapshot);
        }
        Ok(VmState {
            version: VERSION,
            accel,
            pci_address: self.root.address(),
            devices,
        })
    }

    /// Takes saved state over, before the VM has run; it starts as a whole or not at all from then on.
    ///
    /// # Errors
    /// [`Error`]; the VM is of no use then.
    pub fn restore(&self, state: &VmState) -> Result<(), Error> {
        if state.version != VERSION {
            return Err(Error::State(format!(
                "version {}, not {VERSION}",
                state.version
            )));
        }
        if state.devices.len() != self.devices.len() {
            let (saved, here) = (state.devices.len(), self.devices.len());
            return Err(Error::State(format!("it has {saved} VFs, here are {here}")));
        }
        *self.start() = Start::Loaded;
        // Interrupt controllers first: arming MSI-X may deliver an interrupt into them at once.
        self.accelerator.restore(&state.accel)?;
        self.root.set_address(state.pci_address);
        for device in &self.devices {
            let id = device.device_id();
            let snapshot = state
                .devices
                .get(id)
                .ok_or_else(|| Error::State(format!("it has no VF {id}")))?;
            device
                .restore(snapshot)
                .map_err(|source| Error::Migratable {
                    id: id.to_owned(),
                    doing: "restored",
                    source,
                })?;
        }
        Ok(())
    }
}

impl VmState {
    /// The saved VFs.
    #[must_use]
    pub fn devices(&self) -> &BTreeMap<String, Snapshot> {
        &self.devices
    }

    /// The accelerator that can take it.
    #[must_use]
    pub fn accel(&self) -> Kind {
        self.accel.kind()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Err(error) = self.accelerator.pause() {
            tracing::error!(%error, "the vCPU does not park; guest RAM stays mapped until the process ends");
            // The vCPU's thread is left behind and goes on to use it.
            std::mem::forget(self.ram.clone());
        }
        for device in &self.devices {
            device.passthrough().vf().unplug();
        }
        // The bus holds its root, which holds the VFs, which hold the bus.
        self.root.unplug_all();
    }
}
