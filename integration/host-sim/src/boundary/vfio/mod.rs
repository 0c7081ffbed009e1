// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO and iommufd as the kernel answers them, per kind of fd.
//!
//! Structures are read and written field by field at the offsets of include/uapi/linux/vfio.h and iommufd.h.

pub mod container;
pub mod data;
pub mod device;
pub mod feature;
pub mod group;
pub mod iommufd;
mod logging;
pub mod regions;

use std::ffi::c_int;
use std::sync::Arc;

use super::hosts;
use super::object::{Object, Record, Via};
use super::paths::Node;
use crate::vf::{Errno, Op};

/// Answer of an ioctl: what it returns, or the errno.
pub type Answer = Result<c_int, Errno>;

/// `_IO(';', 100 + n)`, as all of VFIO's requests are.
pub const fn vfio(n: u32) -> u32 {
    0x3b64 + n
}

/// Opens a device node.
///
/// # Errors
/// As the kernel's open.
pub fn open(node: &Node, flags: c_int) -> Answer {
    let made = match node {
        Node::Container => anywhere(&Record::Container { iommu: 0 }, flags),
        Node::Iommufd => anywhere(
            &Record::Iommufd {
                next_id: 1,
                items: Vec::new(),
                compat: None,
            },
            flags,
        ),
        Node::Group(host, vf) => return group::open(host, *vf, flags),
        Node::Cdev(host, vf) => {
            host.vf(*vf)?.check(Op::OpenCdev)?;
            let record = Record::Device {
                vf: *vf,
                via: Via::Cdev,
                bound: None,
                attached: None,
            };
            Object::create(host, record, flags)
        }
    };
    made.map(|(fd, _)| fd)
}

/// Makes an object that belongs to no host, in the directory of the first one that has not been taken down.
pub fn anywhere(record: &Record, flags: c_int) -> Result<(c_int, Arc<Object>), Errno> {
    let mut answer = Err(Errno::ENODEV);
    for host in hosts::all() {
        answer = Object::create(host, record.clone(), flags);
        if !matches!(answer, Err(Errno::ENOENT)) {
            break;
        }
    }
    answer
}

/// ioctl on one of our fds.
///
/// # Errors
/// As the kernel's.
pub fn ioctl(object: &Arc<Object>, request: u32, arg: usize) -> Answer {
    match object.record() {
        Record::Container { .. } => container::ioctl(object, request, arg),
        Record::Group { vf, .. } => group::ioctl(object, vf, request, arg),
        Record::Device { vf, .. } => device::ioctl(object, vf, request, arg),
        Record::Iommufd { .. } => iommufd::ioctl(object, request, arg),
        Record::Data { .. } | Record::KvmVfio => Err(Errno::ENOTTY),
    }
}
