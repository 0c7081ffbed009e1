// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a KVM vCPU and of its VM's interrupt controllers and clock, as data.
//!
//! Order matters on the way back: CPUID decides what the other calls accept, the local APIC needs its base MSR's
//! enable bit from the special registers, and pending events come last so that nothing replaces them.

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data,
    kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::errno;

use super::{Error, kvm};

/// Most MSRs and CPUID entries that a peer may send.
const MAX_ENTRIES: usize = 1024;
const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

/// Everything KVM knows about the guest but its memory.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvmState {
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Option<kvm_xsave>,
    xcrs: Option<kvm_xcrs>,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    tsc_khz: Option<u32>,
    irqchips: Vec<kvm_irqchip>,
    clock: kvm_clock_data,
}

impl KvmState {
    /// Reads it from a parked vCPU.
    pub fn read(vm: &VmFd, fd: &VcpuFd, msr_indices: &[u32]) -> Result<Self, Error> {
        let cpuid = fd
            .get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm("KVM_GET_CPUID2"))?;
        Ok(Self {
            cpuid: super::cpuid_entries(&cpuid),
            mp_state: fd.get_mp_state().map_err(kvm("KVM_GET_MP_STATE"))?,
            regs: fd.get_regs().map_err(kvm("KVM_GET_REGS"))?,
            sregs: fd.get_sregs().map_err(kvm("KVM_GET_SREGS"))?,
            xsave: optional("KVM_GET_XSAVE", fd.get_xsave())?,
            xcrs: optional("KVM_GET_XCRS", fd.get_xcrs())?,
            debug_regs: fd.get_debug_regs().map_err(kvm("KVM_GET_DEBUGREGS"))?,
            lapic: fd.get_lapic().map_err(kvm("KVM_GET_LAPIC"))?,
            msrs: read_msrs(fd, msr_indices)?,
            events: fd.get_vcpu_events().map_err(kvm("KVM_GET_VCPU_EVENTS"))?,
            tsc_khz: optional("KVM_GET_TSC_KHZ", fd.get_tsc_khz())?,
            irqchips: read_irqchips(vm)?,
            clock: vm.get_clock().map_err(kvm("KVM_GET_CLOCK"))?,
        })
    }

    /// Gives it to a parked vCPU of a fresh VM.
    pub fn write(&self, vm: &VmFd, fd: &VcpuFd) -> Result<(), Error> {
        self.check()?;
        let cpuid =
            CpuId::from_entries(&self.cpuid).map_err(|e| Error::State(format!("CPUID: {e:?}")))?;
        fd.set_cpuid2(&cpuid).map_err(kvm("KVM_SET_CPUID2"))?;
        if let Some(khz) = self.tsc_khz
            && fd.get_tsc_khz().is_ok_and(|here| here != khz)
            && let Err(e) = fd.set_tsc_khz(khz)
        {
            tracing::warn!(khz, error = %e, "the guest's TSC will run at another rate");
        }
        fd.set_mp_state(self.mp_state)
            .map_err(kvm("KVM_SET_MP_STATE"))?;
        fd.set_regs(&self.regs).map_err(kvm("KVM_SET_REGS"))?;
        fd.set_sregs(&self.sregs).map_err(kvm("KVM_SET_SREGS"))?;
        if let Some(xsave) = &self.xsave {
            // SAFETY: 4 KiB of plain data as KVM wrote them; dynamic features, which would need more, are never enabled.
            unsafe { fd.set_xsave(xsave) }.map_err(kvm("KVM_SET_XSAVE"))?;
        }
        if let Some(xcrs) = &self.xcrs {
            fd.set_xcrs(xcrs).map_err(kvm("KVM_SET_XCRS"))?;
        }
        fd.set_debug_regs(&self.debug_regs)
            .map_err(kvm("KVM_SET_DEBUGREGS"))?;
        for chip in &self.irqchips {
            vm.set_irqchip(chip).map_err(kvm("KVM_SET_IRQCHIP"))?;
        }
        fd.set_lapic(&self.lapic).map_err(kvm("KVM_SET_LAPIC"))?;
        write_msrs(fd, &self.msrs)?;
        fd.set_vcpu_events(&self.events)
            .map_err(kvm("KVM_SET_VCPU_EVENTS"))?;
        // Only the time is set: its flags describe how KVM measured it.
        let clock = kvm_clock_data {
            clock: self.clock.clock,
            ..Default::default()
        };
        vm.set_clock(&clock).map_err(kvm("KVM_SET_CLOCK"))
    }

    fn check(&self) -> Result<(), Error> {
        let chips: Vec<u32> = self.irqchips.iter().map(|c| c.chip_id).collect();
        if chips
            != [
                KVM_IRQCHIP_PIC_MASTER,
                KVM_IRQCHIP_PIC_SLAVE,
                KVM_IRQCHIP_IOAPIC,
            ]
        {
            return Err(Error::State(format!("interrupt controllers {chips:?}")));
        }
        if self.cpuid.len() > MAX_ENTRIES || self.msrs.len() > MAX_ENTRIES {
            return Err(Error::State("too many CPUID entries or MSRs".into()));
        }
        Ok(())
    }
}

/// A part that not every host has: EINVAL and ENOTTY mean that there is nothing to save.
fn optional<T>(call: &'static str, read: Result<T, errno::Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.errno(), libc::EINVAL | libc::ENOTTY | libc::EIO) => {
            tracing::debug!(call, error = %e, "not saved");
            Ok(None)
        }
        Err(e) => Err(kvm(call)(e)),
    }
}

fn read_irqchips(vm: &VmFd) -> Result<Vec<kvm_irqchip>, Error> {
    [
        KVM_IRQCHIP_PIC_MASTER,
        KVM_IRQCHIP_PIC_SLAVE,
        KVM_IRQCHIP_IOAPIC,
    ]
    .into_iter()
    .map(|chip_id| {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        vm.get_irqchip(&mut chip).map_err(kvm("KVM_GET_IRQCHIP"))?;
        Ok(chip)
    })
    .collect()
}

/// KVM stops at the first MSR that it cannot read; that one is left out and the rest tried again.
fn read_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, Error> {
    let mut read = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let wanted: Vec<_> = rest
            .iter()
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut msrs =
            Msrs::from_entries(&wanted).map_err(|e| Error::State(format!("MSR list: {e:?}")))?;
        let count = fd.get_msrs(&mut msrs).map_err(kvm("KVM_GET_MSRS"))?;
        read.extend_from_slice(&msrs.as_slice()[..count]);
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    Ok(read)
}

/// In the order of writing: KVM arms the deadline timer against the TSC of that moment, so the TSC comes before everything
/// and the deadline after everything.
fn in_order(entries: &[kvm_msr_entry]) -> Vec<kvm_msr_entry> {
    let mut ordered = entries.to_vec();
    ordered.sort_by_key(|entry| match entry.index {
        MSR_IA32_TSC => 0,
        MSR_IA32_TSC_DEADLINE => 2,
        _ => 1,
    });
    ordered
}

/// An MSR that this host will not take is left as it is and named in the log.
fn write_msrs(fd: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), Error> {
    let entries = in_order(entries);
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let msrs =
            Msrs::from_entries(rest).map_err(|e| Error::State(format!("MSR list: {e:?}")))?;
        let count = fd.set_msrs(&msrs).map_err(kvm("KVM_SET_MSRS"))?;
        if let Some(refused) = rest.get(count) {
            let msr = format!("{:#x}", refused.index);
            // Some can only be read; the guest misses nothing where the value is the same.
            if read_msr(fd, refused.index) == Some(refused.data) {
                tracing::debug!(msr, "MSR cannot be written and has its value already");
            } else {
                tracing::warn!(msr, value = refused.data, "MSR refused by this host");
            }
        }
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    Ok(())
}

fn read_msr(fd: &VcpuFd, index: u32) -> Option<u64> {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    (fd.get_msrs(&mut msrs).ok()? == 1).then(|| msrs.as_slice()[0].data)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::{MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE, in_order, kvm_msr_entry};
    use crate::accel::kvm::Kvm;
    use crate::accel::{Accelerator, Slot};
    use crate::boot::Entry;
    use crate::bus::Bus;
    use crate::memory::{GuestRam, RAM_MIN};

    const CODE: u64 = 0x1000;
    const COUNTER: u64 = 0x2000;
    /// `inc dword [0x2000]` and back.
    const COUNT_FOR_EVER: [u8; 8] = [0xff, 0x05, 0x00, 0x20, 0x00, 0x00, 0xeb, 0xf8];

    fn machine() -> Option<(Kvm, Arc<GuestRam>)> {
        let kvm = match Kvm::new(Arc::new(Bus::default())) {
            Ok(kvm) => kvm,
            Err(e) => {
                let test = std::thread::current().name().unwrap_or_default().to_owned();
                println!("skipped: {test}: {}", crate::describe(&e));
                return None;
            }
        };
        let ram = Arc::new(GuestRam::new(RAM_MIN).unwrap());
        kvm.map(
            Slot {
                gpa: 0,
                size: RAM_MIN,
                host: ram.host_address(0).unwrap(),
            },
            true,
        )
        .unwrap();
        ram.write(CODE, &COUNT_FOR_EVER).unwrap();
        Some((kvm, ram))
    }

    fn counter(ram: &GuestRam) -> u32 {
        let mut bytes = [0; 4];
        ram.read(COUNTER, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[track_caller]
    fn wait_past(ram: &GuestRam, value: u32) {
        let end = Instant::now() + Duration::from_secs(20);
        while counter(ram) <= value {
            assert!(Instant::now() < end, "the guest does not count");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_tsc_is_written_before_and_the_deadline_after_all_other_msrs() {
        let entry = |index| kvm_msr_entry {
            index,
            ..Default::default()
        };
        let sent = [MSR_IA32_TSC_DEADLINE, 0x174, 0x1b, MSR_IA32_TSC].map(entry);
        let order: Vec<_> = in_order(&sent).iter().map(|e| e.index).collect();
        assert_eq!(order, [MSR_IA32_TSC, 0x174, 0x1b, MSR_IA32_TSC_DEADLINE]);
    }

    #[test]
    fn a_vcpu_goes_on_in_another_vm_where_it_was_stopped() {
        let Some((here, ram)) = machine() else { return };
        #[allow(clippy::cast_possible_truncation)] // a small constant
        here.boot(Entry {
            eip: CODE as u32,
            ebx: 0,
        })
        .unwrap();
        here.run();
        wait_past(&ram, 10);
        here.pause().unwrap();
        let stopped_at = counter(&ram);
        let text = serde_json::to_string(&here.save().unwrap()).unwrap();
        assert_eq!(counter(&ram), stopped_at, "saving runs no instruction");

        let (there, other) = machine().unwrap();
        other.write(COUNTER, &stopped_at.to_le_bytes()).unwrap();
        there
            .restore(&serde_json::from_str(&text).unwrap())
            .unwrap();
        there.run();
        wait_past(&other, stopped_at);
        assert_eq!(counter(&ram), stopped_at, "the first one stands still");
    }

    #[test]
    fn the_dirty_log_names_the_page_that_is_written() {
        let Some((kvm, ram)) = machine() else { return };
        #[allow(clippy::cast_possible_truncation)] // a small constant
        kvm.boot(Entry {
            eip: CODE as u32,
            ebx: 0,
        })
        .unwrap();
        kvm.start_dirty_log().unwrap();
        kvm.run();
        wait_past(&ram, 10);
        kvm.pause().unwrap();
        let log = kvm.dirty_log().unwrap();
        assert!(
            log.regions()
                .iter()
                .any(|r| (r.gpa..r.gpa + r.length).contains(&COUNTER)),
            "{log:?}"
        );
        assert!(kvm.dirty_log().unwrap().is_empty());
    }
}
