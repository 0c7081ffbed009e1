// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF in the guest's hands.
//!
//! Opening one takes five steps, each a module beside this one: the device joins the VM's address space ([`container`]),
//! its BARs and MSI-X capability are looked up ([`probe`]), the BARs are placed and mapped ([`bar`], [`mapping`]) and shown
//! when the guest enables them ([`shown`]), and its vectors get eventfds ([`interrupts`]). From then on this type answers what the guest does in configuration space and in
//! the pages that are not mapped, and [`passthrough`](super::passthrough) is what the migration crate asks of it.
//!
//! [`container`]: super::container
//! [`probe`]: super::probe
//! [`bar`]: super::bar
//! [`mapping`]: super::mapping
//! [`shown`]: super::shown
//! [`interrupts`]: super::interrupts

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vfio_bindings::bindings::vfio::VFIO_PCI_BAR0_REGION_INDEX;
use vfio_ioctls::VfioDevice;
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use xe_vfio_device::dirty::PageTable;

use super::Function;
use super::bar::{Bar, Placer};
use super::config::{self, Effect, Registers};
use super::container::{self, Container, Opened};
use super::interrupts::{self, Vectors};
use super::mapping::map_bar;
use super::msix::Table;
use super::probe::{self, MsixCapability};
use super::shown::{self, ShownBar};
use super::state::{self, Device, PciState, Restored};
use crate::accel::{Accelerator, FIRST_MSI_GSI};
use crate::bus::Bus;

/// Why a VF cannot be passed through.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Opening it.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// BARs do not fit the address windows.
    #[error("The BARs of {0} do not fit below the interrupt controllers")]
    NoSpace(PathBuf),
    /// Without MSI-X there is nothing to interrupt the guest with.
    #[error("{0} has no MSI-X capability")]
    NoMsix(PathBuf),
    /// mmap of a BAR.
    #[error("BAR{index} of {path} could not be mapped")]
    Map {
        /// Of the BAR.
        index: u8,
        /// The device.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Its interrupts.
    #[error(transparent)]
    Interrupts(#[from] interrupts::Error),
    /// A restored BAR that the guest would not find.
    #[error(transparent)]
    Shown(#[from] shown::Error),
    /// A restored command register that the device does not have.
    #[error("The command register of {path} reads {reads:#06x} after {wrote:#06x} was written")]
    Command {
        /// The device.
        path: PathBuf,
        /// The saved value.
        wrote: u16,
        /// The device's.
        reads: u16,
    },
    /// Saved state that does not fit.
    #[error("The saved PCI state does not fit {path}")]
    State {
        /// The device.
        path: PathBuf,
        /// What does not.
        #[source]
        source: state::Error,
    },
}

/// Addresses and interrupt numbers, dealt out to one VF after the other.
pub struct Resources {
    placer: Placer,
    next_gsi: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            placer: Placer::default(),
            next_gsi: FIRST_MSI_GSI,
        }
    }
}

/// A VF that is passed through.
pub struct VfioPci {
    id: String,
    path: PathBuf,
    // Before `device`: what the guest sees goes before what it is made of.
    inner: Mutex<Inner>,
    device: Arc<VfioDevice>,
    accelerator: Arc<dyn Accelerator>,
    bus: Arc<Bus>,
    msix_at: MsixCapability,
    me: Weak<Self>,
    dirty_bits: Result<Arc<PageTable>, String>,
    // Last: the address space outlives its devices.
    container: Arc<Container>,
}

struct Inner {
    registers: Registers,
    table: Table,
    vectors: Vectors,
    bars: Vec<ShownBar>,
}

impl VfioPci {
    /// Opens the VF at a sysfs path for the guest. Nothing of it is visible before the guest enables memory decoding.
    ///
    /// # Errors
    /// [`Error`]; the device is closed again.
    pub fn open(
        id: &str,
        path: &Path,
        container: &Arc<Container>,
        accelerator: &Arc<dyn Accelerator>,
        bus: &Arc<Bus>,
        resources: &mut Resources,
    ) -> Result<Arc<Self>, Error> {
        let Opened { device, dirty_bits } = container.open(path)?;
        let device = Arc::new(device);
        let msix_at = MsixCapability::find(&device).ok_or_else(|| Error::NoMsix(path.into()))?;
        let layout = probe::bars(&device, &mut resources.placer)
            .ok_or_else(|| Error::NoSpace(path.into()))?;
        let bars = layout
            .iter()
            .map(|bar| open_bar(&device, bar, &msix_at, path))
            .collect::<Result<Vec<_>, _>>()?;
        let first_gsi = resources.next_gsi;
        let vectors = Vectors::new(
            device.clone(),
            accelerator.clone(),
            first_gsi,
            msix_at.vectors,
        )?;
        resources.next_gsi += u32::try_from(msix_at.vectors).unwrap_or(0);
        tracing::info!(id, path = %path.display(), vectors = msix_at.vectors, ?layout, "VF opened");
        let inner = Inner {
            registers: Registers::new(layout, Some(msix_at.at)),
            table: Table::new(msix_at.vectors),
            vectors,
            bars,
        };
        Ok(Arc::new_cyclic(|me| Self {
            id: id.into(),
            path: path.into(),
            inner: Mutex::new(inner),
            device,
            accelerator: accelerator.clone(),
            bus: bus.clone(),
            msix_at,
            me: me.clone(),
            dirty_bits,
            container: container.clone(),
        }))
    }

    /// Its name in the VM.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its directory in sysfs.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open device.
    #[must_use]
    pub fn device(&self) -> &Arc<VfioDevice> {
        &self.device
    }

    /// The address space that its DMA goes through.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// The page table with dirty bits that its DMA goes through, or why there is none.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn dirty_bits(&self) -> Result<&Arc<PageTable>, &str> {
        self.dirty_bits.as_ref().map_err(String::as_str)
    }

    /// What the VMM knows of the device, as data. The vCPU is parked.
    #[must_use]
    pub fn save(&self) -> PciState {
        let inner = self.lock();
        PciState::new(
            inner.registers.command(),
            &inner.registers.bars(),
            inner.table.save(),
            inner.vectors.pending(),
        )
    }

    /// Takes over saved state: checks it, tells the device what it has to know, shows the BARs and arms MSI-X.
    ///
    /// # Errors
    /// [`Error::State`] before anything has changed. After the others the device is of no use to the guest:
    /// [`Error::Command`], [`Error::Shown`] when a BAR is not where the guest left it, [`Error::Interrupts`] when MSI-X
    /// cannot be armed.
    pub fn restore(&self, state: &PciState) -> Result<(), Error> {
        let mut inner = self.lock();
        let here = Device {
            bars: inner.registers.bars(),
            vectors: self.msix_at.vectors,
        };
        let restored = Restored::try_from((state, &here)).map_err(|source| Error::State {
            path: self.path.clone(),
            source,
        })?;
        for (index, address) in restored.addresses {
            inner.registers.set_bar(index, address);
        }
        inner.registers.set_command(restored.command);
        inner.table = restored.msix;
        self.write_command(&inner);
        self.check_command(&inner)?;
        self.show_bars(&mut inner)?;
        let Inner { vectors, table, .. } = &mut *inner;
        vectors.follow(table)?;
        vectors.signal(&restored.pending);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory decoding and bus mastering are real: the device gets them too.
    fn write_command(&self, inner: &Inner) {
        let command = inner.registers.command().to_le_bytes();
        probe::write_config(&self.device, config::COMMAND, &command);
    }

    /// Writes to configuration space answer nothing, so what came of this one is read back.
    fn check_command(&self, inner: &Inner) -> Result<(), Error> {
        // Interrupt disable means nothing to a VF, which may leave it zero.
        const REAL: u16 = config::COMMAND_MEMORY | config::COMMAND_MASTER;
        let wrote = inner.registers.command();
        // What a read that fails leaves behind is not what was written.
        let mut reads = (!wrote).to_le_bytes();
        probe::read_config(&self.device, config::COMMAND, &mut reads);
        let reads = u16::from_le_bytes(reads);
        if (reads ^ wrote) & REAL == 0 {
            Ok(())
        } else {
            Err(Error::Command {
                path: self.path.clone(),
                wrote,
                reads,
            })
        }
    }

    /// Brings what the guest sees in line with its BARs and its command register; answers the first failure, after having
    /// shown the rest.
    fn show_bars(&self, inner: &mut Inner) -> Result<(), shown::Error> {
        let decoding = inner.registers.command() & config::COMMAND_MEMORY != 0;
        let mut result = Ok(());
        for bar in inner.registers.bars() {
            let wanted = (decoding && bar.is_placed()).then_some(bar.address);
            if let Some(shown) = inner.bars.iter_mut().find(|s| s.index() == bar.index) {
                let trap = |offset| {
                    let vf = self.me.clone();
                    let bar = bar.index;
                    Arc::new(TrappedPiece { vf, bar, offset }) as Arc<dyn DeviceMmio + Send + Sync>
                };
                result = result.and(shown.move_to(wanted, &*self.accelerator, &self.bus, &trap));
            }
        }
        result
    }

    /// As the guest wishes it. Where it has put a BAR over something else, it sees that and not the BAR.
    fn show_bars_to_guest(&self, inner: &mut Inner) {
        if let Err(error) = self.show_bars(inner) {
            let error = crate::describe(&error);
            tracing::warn!(id = self.id, error, "BAR not shown");
        }
    }

    /// Takes everything of the device out of the guest's sight. The vCPU is parked and will not run again.
    pub fn unplug(&self) {
        let mut inner = self.lock();
        for bar in &mut inner.bars {
            bar.hide(&*self.accelerator, &self.bus);
        }
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if let Some(at) = self.in_table(bar, offset) {
            self.lock().table.read(at, data);
        } else if self
            .msix_at
            .pba_range(bar)
            .is_some_and(|r| r.contains(&offset))
        {
            // Signals wait in eventfds, where the guest cannot see them.
            data.fill(0);
        } else {
            let region = VFIO_PCI_BAR0_REGION_INDEX + u32::from(bar);
            self.device.region_read(region, data, offset);
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        if let Some(at) = self.in_table(bar, offset) {
            let mut inner = self.lock();
            inner.table.write(at, data);
            self.follow_table(&mut inner);
        } else if self
            .msix_at
            .pba_range(bar)
            .is_none_or(|r| !r.contains(&offset))
        {
            let region = VFIO_PCI_BAR0_REGION_INDEX + u32::from(bar);
            self.device.region_write(region, data, offset);
        }
    }

    fn in_table(&self, bar: u8, offset: u64) -> Option<u64> {
        let range = self.msix_at.table_range(bar)?;
        range.contains(&offset).then(|| offset - range.start)
    }

    fn follow_table(&self, inner: &mut Inner) {
        let Inner { vectors, table, .. } = inner;
        if let Err(e) = vectors.follow(table) {
            tracing::error!(
                id = self.id,
                error = crate::describe(&e),
                "MSI-X does not follow"
            );
        }
    }
}

impl Drop for VfioPci {
    fn drop(&mut self) {
        self.unplug();
    }
}

fn open_bar(
    device: &VfioDevice,
    bar: &Bar,
    msix: &MsixCapability,
    path: &Path,
) -> Result<ShownBar, Error> {
    let trapped: Vec<_> = [msix.table_range(bar.index), msix.pba_range(bar.index)]
        .into_iter()
        .flatten()
        .collect();
    let pieces = map_bar(device, bar, &trapped).map_err(|source| Error::Map {
        index: bar.index,
        path: path.into(),
        source,
    })?;
    Ok(ShownBar::new(bar.index, pieces))
}

impl Function for VfioPci {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        probe::read_config(&self.device, offset, data);
        let inner = self.lock();
        let control = inner.table.control();
        for (at, byte) in (offset..=u8::MAX).zip(data) {
            if let Some(own) = inner.registers.read(at, control) {
                *byte = own;
            }
        }
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        let mut inner = self.lock();
        match inner.registers.write(offset, data) {
            Effect::PassThrough => probe::write_config(&self.device, offset, data),
            Effect::Command => {
                self.write_command(&inner);
                self.show_bars_to_guest(&mut inner);
            }
            Effect::Bars => self.show_bars_to_guest(&mut inner),
            Effect::MsixControl(control) => {
                inner.table.set_control(control);
                self.follow_table(&mut inner);
            }
            Effect::None => {}
        }
    }
}

/// A piece of a BAR on the MMIO bus, which does not keep the device alive.
struct TrappedPiece {
    vf: Weak<VfioPci>,
    bar: u8,
    offset: u64,
}

impl DeviceMmio for TrappedPiece {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        match self.vf.upgrade() {
            Some(vf) => vf.read_bar(self.bar, self.offset + offset, data),
            None => data.fill(0xff),
        }
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        if let Some(vf) = self.vf.upgrade() {
            vf.write_bar(self.bar, self.offset + offset, data);
        }
    }
}
