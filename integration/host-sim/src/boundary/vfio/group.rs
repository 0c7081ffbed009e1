// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `/dev/vfio/<group>` (drivers/vfio/group.c). A group has one VF.

use std::ffi::c_int;
use std::sync::Arc;

use super::{Answer, container, vfio};
use crate::boundary::hosts::Attached;
use crate::boundary::ioas::Domain;
use crate::boundary::object::{self, Object, Record, Via};
use crate::boundary::{sys, user};
use crate::vf::{Errno, Op};

const GET_STATUS: u32 = vfio(3);
const SET_CONTAINER: u32 = vfio(4);
const UNSET_CONTAINER: u32 = vfio(5);
const GET_DEVICE_FD: u32 = vfio(6);

/// Opens the group of VF `index`: one file at a time, and none while the device is in use.
pub fn open(host: &Arc<Attached>, index: u16, flags: c_int) -> Answer {
    let vf = host.vf(index)?;
    vf.check(Op::OpenGroup)?;
    let _vf = vf.lock.lock()?;
    let groups = object::living(host, &format!("group-{index}-"))?;
    if !groups.is_empty() || object::device_is_open(host, index)? {
        return Err(Errno::EBUSY);
    }
    Object::create(
        host,
        Record::Group {
            vf: index,
            container: None,
        },
        flags,
    )
    .map(|(fd, _)| fd)
}

pub fn ioctl(object: &Arc<Object>, index: u16, request: u32, arg: usize) -> Answer {
    match request {
        GET_STATUS => get_status(object, arg),
        SET_CONTAINER => set_container(object, index, arg),
        UNSET_CONTAINER => unset_container(object, index),
        GET_DEVICE_FD => get_device_fd(object, index, arg),
        _ => Err(Errno::ENOTTY),
    }
}

fn container_name(object: &Object) -> Option<String> {
    match object.fresh_record() {
        Record::Group { container, .. } => container,
        _ => None,
    }
}

fn get_status(object: &Object, arg: usize) -> Answer {
    const VIABLE: u32 = 1;
    const CONTAINER_SET: u32 = 2;
    if user::get::<u32>(arg)? < 8 {
        return Err(Errno::EINVAL);
    }
    let set = if container_name(object).is_some() {
        CONTAINER_SET
    } else {
        0
    };
    user::put(arg + 4, VIABLE | set)?;
    Ok(0)
}

fn set_container(object: &Object, index: u16, arg: usize) -> Answer {
    let fd = user::get::<i32>(arg)?;
    sys::fstat(fd).map_err(|_| Errno::EBADF)?;
    if container_name(object).is_some() {
        return Err(Errno::EINVAL);
    }
    let container = object::lookup(fd).ok_or(Errno::EINVAL)?;
    if !matches!(container.record(), Record::Container { .. }) {
        return Err(Errno::EINVAL);
    }
    object.host.vf(index)?.check(Op::Attach)?;
    let name = container.name.clone();
    // The group keeps the container, whoever closes its fd.
    *object.keeps.lock() = Some(container);
    object.update(move |record| {
        *record = Record::Group {
            vf: index,
            container: Some(name),
        };
        Ok(0)
    })
}

fn unset_container(object: &Object, index: u16) -> Answer {
    if container_name(object).is_none() {
        return Err(Errno::EINVAL);
    }
    if object::device_is_open(&object.host, index)? {
        return Err(Errno::EBUSY);
    }
    let old = object.keeps.lock().take();
    object.update(|record| {
        *record = Record::Group {
            vf: index,
            container: None,
        };
        Ok(0)
    })?;
    drop(old);
    Ok(0)
}

fn get_device_fd(object: &Arc<Object>, index: u16, arg: usize) -> Answer {
    let name = user::get_string(arg)?;
    let host = &object.host;
    let vf = host.vf(index)?;
    // A driver may take more after a space ("<bdf> vf_token=<uuid>").
    if name.split(' ').next() != Some(vf.vf.bdf().as_str()) {
        return Err(Errno::ENODEV);
    }
    let container = container_name(object).ok_or(Errno::EINVAL)?;
    let known = object
        .keeps
        .lock()
        .clone()
        .or_else(|| object::by_name(&container));
    if let Some(container) = &known
        && !matches!(container.fresh_record(), Record::Container { iommu: 1.. })
    {
        return Err(Errno::EINVAL);
    }
    vf.check(Op::GetDeviceFd)?;
    let _vf = vf.lock.lock()?;
    let first = !object::device_is_open(host, index)?;
    if first {
        vf.vf.device_opened(sys::pid())?;
        vf.config.reset();
    }
    let record = Record::Device {
        vf: index,
        via: Via::Group,
        bound: None,
        attached: None,
    };
    let made = Object::create(host, record, libc::O_RDWR | libc::O_CLOEXEC);
    if made.is_err() && first {
        vf.vf.device_closed();
    }
    let (fd, device) = made?;
    // The device keeps group and container, as the kernel's does.
    *device.keeps.lock() = Some(Arc::clone(object));
    if let Some(container) = known
        && vf.domain.lock().is_none()
    {
        vf.attach_domain(Some(Domain::plain(container.space(container::SPACE), 0)));
    }
    Ok(fd)
}
