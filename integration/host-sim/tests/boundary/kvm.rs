// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What KVM is not asked, and what is answered in its place.

use crate::common::*;

/// A VM of this machine's KVM; `None`, and said so, without one.
fn vm(test: &str) -> Option<i32> {
    let Ok(kvm) = open("/dev/kvm", libc::O_RDWR | libc::O_CLOEXEC) else {
        eprintln!("skipped: {test}: /dev/kvm cannot be opened");
        return None;
    };
    let vm = ioctl_value(kvm, 0xae01, 0);
    close(kvm);
    if vm.is_err() {
        eprintln!("skipped: {test}: KVM makes no VM here");
    }
    vm.ok()
}

#[test]
fn kvms_vfio_device_takes_a_group_and_a_device_and_refuses_others() {
    let host = TestHost::new();
    let Some(vm) = vm("kvms_vfio_device_takes_a_group_and_a_device_and_refuses_others") else {
        return;
    };
    let mut create = [4u32, 0, 0];
    ioctl(vm, 0xc00c_aee0, &mut create).expect("KVM_CREATE_DEVICE");
    let device = create[1] as i32;
    let attr = |attr: u64, fd: i32| {
        let mut arg = [1u64 << 32, attr, &raw const fd as u64];
        ioctl(device, 0x4018_aee1, &mut arg)
    };
    let group = open(&host.group(1), libc::O_RDWR).expect("open");
    let cdev = open(&host.cdev(2), libc::O_RDWR).expect("open");
    for fd in [group, cdev] {
        assert_eq!(attr(1, fd), Ok(0), "add");
        assert_eq!(attr(2, fd), Ok(0), "remove");
    }
    let null = open("/dev/null", libc::O_RDWR).expect("open");
    assert!(attr(1, null).is_err());
    for fd in [null, cdev, group, device, vm] {
        close(fd);
    }
}

#[test]
fn a_vcpu_without_nested_state_has_an_empty_one() {
    let _host = TestHost::new();
    let Some(vm) = vm("a_vcpu_without_nested_state_has_an_empty_one") else {
        return;
    };
    let vcpu = ioctl_value(vm, 0xae41, 0).expect("KVM_CREATE_VCPU");
    let mut state = [0u32; 4096];
    state[1] = 4 * 4096;
    ioctl(vcpu, 0xc080_aebe, &mut state).expect("KVM_GET_NESTED_STATE");
    assert!(state[1] >= 128, "a size: {}", state[1]);
    ioctl(vcpu, 0x4080_aebf, &mut state).expect("KVM_SET_NESTED_STATE");
    close(vcpu);
    close(vm);
}
