// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What KVM must not see, or cannot do here.
//!
//! KVM's VFIO device is given our fds, which it would refuse: they are kept from it. Where the processor has no nested
//! virtualization KVM_GET_NESTED_STATE answers EINVAL, and an empty state is as true.

use std::ffi::{c_int, c_long};

use super::object::{self, Record};
use super::{next, sys, user, vfio};
use crate::vf::Errno;

const CREATE_DEVICE: u32 = 0xc00c_aee0;
const SET_DEVICE_ATTR: u32 = 0x4018_aee1;
const HAS_DEVICE_ATTR: u32 = 0x4018_aee3;
const GET_NESTED_STATE: u32 = 0xc080_aebe;
const SET_NESTED_STATE: u32 = 0x4080_aebf;

/// KVM_DEV_TYPE_VFIO.
const DEVICE_VFIO: u32 = 4;
/// KVM_DEV_VFIO_FILE, which was KVM_DEV_VFIO_GROUP.
const GROUP_FILE: u32 = 1;
/// Bytes of `struct kvm_nested_state` without data.
const NESTED_HEADER: u32 = 128;

/// Whether `request` is one that this module looks at.
pub fn is_ours(request: u32) -> bool {
    matches!(
        request,
        CREATE_DEVICE | SET_DEVICE_ATTR | HAS_DEVICE_ATTR | GET_NESTED_STATE | SET_NESTED_STATE
    )
}

/// An ioctl on a KVM fd.
pub fn ioctl(fd: c_int, request: u32, raw: c_long, arg: usize) -> c_int {
    match request {
        SET_DEVICE_ATTR if names_ours(arg) => 0,
        CREATE_DEVICE => create_device(fd, raw, arg),
        GET_NESTED_STATE => empty_on_einval(fd, raw, arg, |arg| {
            if user::get::<u32>(arg + 4)? < NESTED_HEADER {
                return Err(Errno(libc::E2BIG));
            }
            user::put_bytes(arg, &[0; NESTED_HEADER as usize])?;
            user::put(arg + 4, NESTED_HEADER)
        }),
        // Only the empty state that was answered above is taken back.
        SET_NESTED_STATE => empty_on_einval(fd, raw, arg, |arg| {
            if user::get::<u32>(arg + 4)? <= NESTED_HEADER && user::get::<u16>(arg)? == 0 {
                Ok(())
            } else {
                Err(Errno::EINVAL)
            }
        }),
        _ => next::ioctl(fd, raw, arg),
    }
}

/// An ioctl on the fd that stands in for KVM's VFIO device.
pub fn stand_in_ioctl(request: u32, arg: usize) -> Result<c_int, Errno> {
    match request {
        SET_DEVICE_ATTR if names_ours(arg) => Ok(0),
        HAS_DEVICE_ATTR if user::get::<u32>(arg + 4)? == GROUP_FILE => Ok(0),
        SET_DEVICE_ATTR | HAS_DEVICE_ATTR => Err(Errno::ENXIO),
        _ => Err(Errno::ENOTTY),
    }
}

/// Whether `struct kvm_device_attr` at `arg` adds or removes one of our fds.
fn names_ours(arg: usize) -> bool {
    let named = || -> Result<bool, Errno> {
        let (flags, group, attr) = (
            user::get::<u32>(arg)?,
            user::get::<u32>(arg + 4)?,
            user::get::<u64>(arg + 8)?,
        );
        if flags != 0 || group != GROUP_FILE || !matches!(attr, 1 | 2) {
            return Ok(false);
        }
        let fd = user::get::<i32>(user::get::<u64>(arg + 16)? as usize)?;
        Ok(object::lookup(fd)
            .is_some_and(|o| matches!(o.record(), Record::Group { .. } | Record::Device { .. })))
    };
    named().unwrap_or(false)
}

fn create_device(fd: c_int, raw: c_long, arg: usize) -> c_int {
    const TEST: u32 = 1;
    let answer = next::ioctl(fd, raw, arg);
    let refused =
        answer < 0 && !matches!(Errno::last(), Errno::EBADF | Errno::EFAULT | Errno::EMFILE);
    if !refused || user::get::<u32>(arg) != Ok(DEVICE_VFIO) {
        return answer;
    }
    let made = || -> Result<c_int, Errno> {
        if user::get::<u32>(arg + 8)? & TEST != 0 {
            return Ok(0);
        }
        let (device, _) = vfio::anywhere(&Record::KvmVfio, libc::O_RDWR | libc::O_CLOEXEC)?;
        user::put(arg + 4, device)?;
        Ok(0)
    };
    made().unwrap_or_else(sys::fail)
}

fn empty_on_einval(
    fd: c_int,
    raw: c_long,
    arg: usize,
    answer: impl FnOnce(usize) -> Result<(), Errno>,
) -> c_int {
    let kernel = next::ioctl(fd, raw, arg);
    if kernel >= 0 || Errno::last() != Errno::EINVAL {
        return kernel;
    }
    answer(arg).map_or_else(sys::fail, |()| 0)
}
