// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM: interrupt controllers in the kernel, one vCPU, memory slots with a dirty log, MSI by irqfd.
//!
//! Slots are mapped without dirty logging and changed to log when a precopy starts, so that a guest that does not
//! migrate pays nothing for it.
#![allow(unsafe_code)] // Memory slots hand raw addresses to KVM.

mod cpu;
pub mod state;
mod vcpu;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    CpuId, KVM_IRQ_ROUTING_MSI, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, KvmIrqRouting,
    kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_irq_routing_entry,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm as KvmSystem, VmFd};
use vfio_ioctls::VfioDeviceFd;
use vm_migration::protocol::MemoryRangeTable;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use self::vcpu::KvmVcpu;
use super::runner::Runner;
use super::{Accelerator, Error, FIRST_MSI_GSI, Kind, MsiMessage, Slot, SlotId, State};
use crate::boot::Entry;
use crate::bus::Bus;
use crate::memory::PAGE_SIZE;

/// Three pages that Intel's real-mode emulation needs, in a place that is neither RAM nor a BAR.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A KVM virtual machine.
pub struct Kvm {
    // The vCPU first: it must be gone before the VM is.
    runner: Runner<KvmVcpu>,
    vm: Arc<VmFd>,
    vfio_device: Option<Arc<VfioDeviceFd>>,
    slots: Mutex<BTreeMap<SlotId, MappedSlot>>,
    routes: Mutex<BTreeMap<u32, MsiMessage>>,
}

#[derive(Clone, Copy)]
struct MappedSlot {
    slot: Slot,
    dirty_tracked: bool,
}

fn kvm(call: &'static str) -> impl Fn(errno::Error) -> Error {
    move |source| Error::Kvm { call, source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kvm {
    /// Creates the VM with its interrupt controllers and vCPU.
    ///
    /// # Errors
    /// The call that failed; without /dev/kvm it is the first one.
    pub fn new(bus: Arc<Bus>) -> Result<Self, Error> {
        let system = KvmSystem::new().map_err(kvm("open of /dev/kvm"))?;
        for (capability, name) in [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            if !system.check_extension(capability) {
                return Err(Error::Kvm {
                    call: name,
                    source: errno::Error::new(libc::ENOTSUP),
                });
            }
        }
        let vm = system.create_vm().map_err(kvm("KVM_CREATE_VM"))?;
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(kvm("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(kvm("KVM_CREATE_IRQCHIP"))?;
        let fd = vm.create_vcpu(0).map_err(kvm("KVM_CREATE_VCPU"))?;
        let offered = system
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm("KVM_GET_SUPPORTED_CPUID"))?;
        let cpuid = cpu::without_nesting(&offered);
        fd.set_cpuid2(&cpuid).map_err(kvm("KVM_SET_CPUID2"))?;
        let msrs = system
            .get_msr_index_list()
            .map_err(kvm("KVM_GET_MSR_INDEX_LIST"))?;
        let vm = Arc::new(vm);
        let vfio_device = vfio_device(&vm);
        let vcpu = KvmVcpu::new(fd, bus, msrs.as_slice().to_vec());
        vcpu::install_kick_handler()?;
        Ok(Self {
            runner: Runner::new(vcpu, ())?,
            vm,
            vfio_device,
            slots: Mutex::default(),
            routes: Mutex::default(),
        })
    }

    fn set_slot(&self, id: SlotId, slot: &Slot, size: u64, logged: bool) -> Result<(), Error> {
        let region = kvm_userspace_memory_region {
            slot: id.0,
            flags: if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: slot.gpa,
            memory_size: size,
            userspace_addr: slot.host as u64,
        };
        // SAFETY: whoever mapped the slot keeps its memory mapped until `unmap`, as `Slot` demands.
        unsafe { self.vm.set_user_memory_region(region) }.map_err(kvm("KVM_SET_USER_MEMORY_REGION"))
    }

    /// KVM waits for the vCPU to leave the guest before a slot changes, and a guest whose instructions KVM emulates may not
    /// leave it for seconds: it is parked for the moment that this takes.
    fn set_logging(&self, logged: bool) -> Result<(), Error> {
        self.runner.while_parked(|| {
            for (id, mapped) in lock(&self.slots).iter().filter(|(_, m)| m.dirty_tracked) {
                self.set_slot(*id, &mapped.slot, mapped.slot.size, logged)?;
            }
            Ok(())
        })
    }

    /// KVM takes the whole table at once.
    fn set_routes(&self, routes: &BTreeMap<u32, MsiMessage>) -> Result<(), Error> {
        let entries: Vec<_> = routes
            .iter()
            .map(|(gsi, message)| route(*gsi, *message))
            .collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| kvm("KVM_SET_GSI_ROUTING")(errno::Error::new(libc::E2BIG)))?;
        self.vm
            .set_gsi_routing(&table)
            .map_err(kvm("KVM_SET_GSI_ROUTING"))
    }
}

/// Tells KVM about assigned devices; it works without, only without the coherency handling that some need.
fn vfio_device(vm: &VmFd) -> Option<Arc<VfioDeviceFd>> {
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
        fd: 0,
        flags: 0,
    };
    match vm.create_device(&mut device) {
        Ok(fd) => Some(Arc::new(VfioDeviceFd::new_from_kvm(fd))),
        Err(e) => {
            tracing::info!(error = %e, "KVM has no VFIO device");
            None
        }
    }
}

fn route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    #[allow(clippy::cast_possible_truncation)] // split into halves
    {
        entry.u.msi.address_lo = message.address as u32;
        entry.u.msi.address_hi = (message.address >> 32) as u32;
    }
    entry.u.msi.data = message.data;
    entry
}

impl Accelerator for Kvm {
    fn kind(&self) -> Kind {
        Kind::Kvm
    }

    fn vfio_device(&self) -> Option<Arc<VfioDeviceFd>> {
        self.vfio_device.clone()
    }

    fn map(&self, slot: Slot, dirty_tracked: bool) -> Result<SlotId, Error> {
        let mut slots = lock(&self.slots);
        let id = (0..)
            .map(SlotId)
            .find(|id| !slots.contains_key(id))
            .expect("2^32 slots");
        self.set_slot(id, &slot, slot.size, false)?;
        slots.insert(
            id,
            MappedSlot {
                slot,
                dirty_tracked,
            },
        );
        Ok(id)
    }

    fn unmap(&self, id: SlotId) -> Result<(), Error> {
        let mut slots = lock(&self.slots);
        if let Some(mapped) = slots.get(&id) {
            self.set_slot(id, &mapped.slot, 0, false)?;
            slots.remove(&id);
        }
        Ok(())
    }

    fn connect_msi(&self, gsi: u32, event: &EventFd, message: MsiMessage) -> Result<(), Error> {
        debug_assert!(gsi >= FIRST_MSI_GSI);
        let mut routes = lock(&self.routes);
        let mut wanted = routes.clone();
        let before = wanted.insert(gsi, message);
        self.set_routes(&wanted)?;
        if before.is_none() {
            // KVM polls the eventfd as it takes it: a signal from before is delivered now.
            if let Err(e) = self.vm.register_irqfd(event, gsi) {
                if let Err(error) = self.set_routes(&routes) {
                    tracing::warn!(gsi, %error, "a route that leads nowhere stays until the next change");
                }
                return Err(kvm("KVM_IRQFD")(e));
            }
        }
        *routes = wanted;
        Ok(())
    }

    fn disconnect_msi(&self, gsi: u32, event: &EventFd) -> Result<(), Error> {
        let mut routes = lock(&self.routes);
        if routes.contains_key(&gsi) {
            self.vm
                .unregister_irqfd(event, gsi)
                .map_err(kvm("KVM_IRQFD (deassign)"))?;
            routes.remove(&gsi);
            // Without its irqfd nothing takes the route any more.
            if let Err(error) = self.set_routes(&routes) {
                tracing::warn!(gsi, %error, "a route that leads nowhere stays until the next change");
            }
        }
        Ok(())
    }

    fn boot(&self, entry: Entry) -> Result<(), Error> {
        cpu::set_entry(self.runner.parked().fd(), entry)
    }

    fn run(&self) {
        self.runner.run();
    }

    fn pause(&self) -> Result<(), Error> {
        self.runner.park()
    }

    fn ended(&self) -> Option<String> {
        self.runner.ended()
    }

    fn save(&self) -> Result<State, Error> {
        let mut vcpu = self.runner.parked();
        // Between two instructions: an access that left the guest is completed before its registers are read.
        vcpu.complete_access();
        state::KvmState::read(&self.vm, vcpu.fd(), vcpu.msrs())
            .map(Box::new)
            .map(State::Kvm)
    }

    fn restore(&self, state: &State) -> Result<(), Error> {
        let State::Kvm(state) = state else {
            return Err(Error::State(format!(
                "it is of {}, this is kvm",
                state.kind()
            )));
        };
        state.write(&self.vm, self.runner.parked().fd())
    }

    fn start_dirty_log(&self) -> Result<(), Error> {
        self.set_logging(true)
    }

    fn dirty_log(&self) -> Result<MemoryRangeTable, Error> {
        let mut dirty = MemoryRangeTable::default();
        for (id, mapped) in lock(&self.slots).iter().filter(|(_, m)| m.dirty_tracked) {
            let size = usize::try_from(mapped.slot.size)
                .map_err(|_| kvm("KVM_GET_DIRTY_LOG")(errno::Error::new(libc::E2BIG)))?;
            let bitmap = self
                .vm
                .get_dirty_log(id.0, size)
                .map_err(kvm("KVM_GET_DIRTY_LOG"))?;
            dirty.extend(MemoryRangeTable::from_dirty_bitmap(
                bitmap,
                mapped.slot.gpa,
                PAGE_SIZE,
            ));
        }
        Ok(dirty)
    }

    fn stop_dirty_log(&self) -> Result<(), Error> {
        self.set_logging(false)
    }
}

/// CPUID as it is saved: plain entries.
fn cpuid_entries(cpuid: &CpuId) -> Vec<kvm_bindings::kvm_cpuid_entry2> {
    cpuid.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn a_vector_that_could_not_be_connected_can_be_connected_later() {
        let kvm = match Kvm::new(Arc::new(Bus::default())) {
            Ok(kvm) => kvm,
            Err(e) => {
                let test = std::thread::current().name().unwrap_or_default().to_owned();
                println!("skipped: {test}: {}", crate::describe(&e));
                return;
            }
        };
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x40,
        };
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (taken, free) = (event(), event());
        kvm.connect_msi(24, &taken, message).unwrap();
        // KVM takes an eventfd once.
        kvm.connect_msi(25, &taken, message).unwrap_err();
        kvm.connect_msi(25, &free, message).unwrap();
        let again = kvm.connect_msi(26, &free, message);
        assert!(
            again.is_err(),
            "the eventfd is KVM's since it was connected"
        );
        kvm.disconnect_msi(25, &free).unwrap();
        kvm.connect_msi(26, &free, message).unwrap();
    }
}
