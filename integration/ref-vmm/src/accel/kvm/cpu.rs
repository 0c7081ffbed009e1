// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's CPU offers, and the registers it starts with.

use kvm_bindings::{CpuId, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::{Error, kvm};
use crate::boot::Entry;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
/// The bit of RFLAGS that is always set.
const RFLAGS_RESERVED: u64 = 2;
const CPUID_1_ECX_VMX: u32 = 1 << 5;
const CPUID_80000001_ECX_SVM: u32 = 1 << 2;

/// What the host offers, without virtualisation inside the guest.
///
/// A guest that cannot nest has no nested state, which some hosts cannot save: `KVM_GET_NESTED_STATE` is never needed.
pub fn without_nesting(offered: &CpuId) -> CpuId {
    let mut cpuid = offered.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => entry.ecx &= !CPUID_1_ECX_VMX,
            0x8000_0001 => entry.ecx &= !CPUID_80000001_ECX_SVM,
            _ => {}
        }
    }
    cpuid
}

/// PVH's entry state: protected mode, flat 4 GiB segments, paging and interrupts off.
pub fn set_entry(fd: &VcpuFd, entry: Entry) -> Result<(), Error> {
    let mut sregs = fd.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
    sregs.cs = flat(0x08, 0xb);
    let data = flat(0x10, 0x3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        selector: 0x18,
        limit: 0x67,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    fd.set_sregs(&sregs).map_err(kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: entry.eip.into(),
        rbx: entry.ebx.into(),
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    fd.set_regs(&regs).map_err(kvm("KVM_SET_REGS"))
}

fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
