// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ioctls of a device fd (drivers/vfio/vfio_main.c, device_cdev.c, pci/vfio_pci_core.c).

use std::sync::Arc;

use super::container::pin;
use super::{Answer, feature, regions, vfio};
use crate::boundary::hosts::VfLocal;
use crate::boundary::ioas::Domain;
use crate::boundary::irqs::Index;
use crate::boundary::object::{self, Item, Object, Record, Via};
use crate::boundary::{sys, user};
use crate::vf::{Errno, Op};

const GET_INFO: u32 = vfio(7);
const GET_REGION_INFO: u32 = vfio(8);
const GET_IRQ_INFO: u32 = vfio(9);
const SET_IRQS: u32 = vfio(10);
const RESET: u32 = vfio(11);
const GET_PCI_HOT_RESET_INFO: u32 = vfio(12);
const PCI_HOT_RESET: u32 = vfio(13);
const FEATURE: u32 = vfio(17);
const BIND_IOMMUFD: u32 = vfio(18);
const ATTACH_IOMMUFD_PT: u32 = vfio(19);
const DETACH_IOMMUFD_PT: u32 = vfio(20);

/// The VF behind a device fd, when it may be used: a cdev has to be bound first.
pub fn usable(object: &Object) -> Result<&VfLocal, Errno> {
    let (vf, ready) = match object.record() {
        Record::Device {
            vf,
            via: Via::Group,
            ..
        } => (vf, true),
        Record::Device { vf, bound, .. } => (vf, bound.is_some() || binding(object).is_some()),
        _ => return Err(Errno::EINVAL),
    };
    if ready {
        object.host.vf(vf)
    } else {
        Err(Errno::EINVAL)
    }
}

/// Name of the iommufd that a cdev is bound to, by this process or another.
fn binding(object: &Object) -> Option<String> {
    match object.fresh_record() {
        Record::Device { bound, .. } => bound,
        _ => None,
    }
}

pub fn ioctl(object: &Arc<Object>, index: u16, request: u32, arg: usize) -> Answer {
    if request == BIND_IOMMUFD {
        return bind(object, index, arg);
    }
    let vf = usable(object)?;
    match request {
        GET_INFO => get_info(arg),
        GET_REGION_INFO => regions::info(vf, arg),
        GET_IRQ_INFO => get_irq_info(arg),
        SET_IRQS => {
            vf.check(Op::SetIrqs)?;
            vf.irqs.lock().set(arg).map(|()| 0)
        }
        RESET => vf.vf.reset().map(|()| 0),
        // A VF shares its bus with functions that the caller does not own.
        GET_PCI_HOT_RESET_INFO | PCI_HOT_RESET => Err(Errno::ENODEV),
        FEATURE => feature::ioctl(object, vf, arg),
        ATTACH_IOMMUFD_PT => attach(object, vf, arg),
        DETACH_IOMMUFD_PT => detach(object, vf, arg),
        _ => Err(Errno::ENOTTY),
    }
}

fn get_info(arg: usize) -> Answer {
    const FLAG_RESET: u32 = 1;
    const FLAG_PCI: u32 = 2;
    const IRQS: u32 = 5;
    let argsz = user::get::<u32>(arg)?;
    if argsz < 16 {
        return Err(Errno::EINVAL);
    }
    user::put(arg + 4, FLAG_RESET | FLAG_PCI)?;
    user::put(arg + 8, regions::COUNT)?;
    user::put(arg + 12, IRQS)?;
    if argsz >= 20 {
        user::put(arg + 16, 0u32)?;
    }
    Ok(0)
}

fn get_irq_info(arg: usize) -> Answer {
    const EVENTFD: u32 = 1;
    const MASKABLE: u32 = 2;
    const AUTOMASKED: u32 = 4;
    const NORESIZE: u32 = 8;
    if user::get::<u32>(arg)? < 16 {
        return Err(Errno::EINVAL);
    }
    let index = Index::from_raw(user::get(arg + 8)?).ok_or(Errno::EINVAL)?;
    let kind = if index == Index::Intx {
        MASKABLE | AUTOMASKED
    } else {
        NORESIZE
    };
    user::put(arg + 4, EVENTFD | kind)?;
    user::put(arg + 12, index.count())?;
    Ok(0)
}

fn bind(object: &Arc<Object>, index: u16, arg: usize) -> Answer {
    let (argsz, flags, fd) = (
        user::get::<u32>(arg)?,
        user::get::<u32>(arg + 4)?,
        user::get::<i32>(arg + 8)?,
    );
    if argsz < 16 || flags != 0 || fd < 0 {
        return Err(Errno::EINVAL);
    }
    let Record::Device { via: Via::Cdev, .. } = object.record() else {
        return Err(Errno::EINVAL);
    };
    let host = &object.host;
    let vf = host.vf(index)?;
    let _vf = vf.lock.lock()?;
    if !object::living(host, &format!("group-{index}-"))?.is_empty() {
        return Err(Errno::EBUSY);
    }
    sys::fstat(fd).map_err(|_| Errno::EBADF)?;
    let iommufd = object::lookup(fd).ok_or(Errno::EBADFD)?;
    if !matches!(iommufd.record(), Record::Iommufd { .. }) {
        return Err(Errno::EBADFD);
    }
    // Also when it is this very file that was bound before.
    if object::device_is_open(host, index)? {
        return Err(Errno::EINVAL);
    }
    vf.check(Op::BindIommufd)?;
    vf.vf.device_opened(sys::pid())?;
    vf.config.reset();
    let id = iommufd.update(|record| {
        super::iommufd::add(
            record,
            Item::Device {
                group: vf.vf.group_id(),
            },
        )
    })?;
    let name = iommufd.name.clone();
    object.update(|record| {
        *record = Record::Device {
            vf: index,
            via: Via::Cdev,
            bound: Some(name),
            attached: None,
        };
        Ok(())
    })?;
    *object.keeps.lock() = Some(iommufd);
    user::put(arg + 12, id)?;
    Ok(0)
}

/// The iommufd of a bound cdev, when this process has it.
fn iommufd_of(object: &Object) -> Result<Arc<Object>, Errno> {
    let mut keeps = object.keeps.lock();
    if keeps.is_none() {
        *keeps = binding(object).and_then(|name| object::by_name(&name));
    }
    keeps.clone().ok_or(Errno::EINVAL)
}

fn attach(object: &Object, vf: &VfLocal, arg: usize) -> Answer {
    let (argsz, flags, pt) = (
        user::get::<u32>(arg)?,
        user::get::<u32>(arg + 4)?,
        user::get::<u32>(arg + 8)?,
    );
    if argsz < 12 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let Record::Device {
        vf: index,
        via: Via::Cdev,
        ..
    } = object.record()
    else {
        return Err(Errno::ENOTTY);
    };
    let iommufd = iommufd_of(object)?;
    vf.check(Op::Attach)?;
    let table = iommufd.update(|record| {
        let table = super::iommufd::page_table(record, pt)?;
        // The IOMMU's driver takes no page table whose dirty bits its hardware would not set.
        if table.dirty && !super::iommufd::tracks(vf) {
            return Err(Errno::EINVAL);
        }
        Ok(table)
    })?;
    object.update(|record| {
        if let Record::Device { attached, .. } = record {
            *attached = Some(table.ioas);
        }
        Ok(())
    })?;
    debug_assert_eq!(index, vf.vf.index());
    let space = iommufd.space(table.ioas);
    if !space.is_attached() {
        pin(&object.host, space.total());
    }
    let dirty = table.dirty.then(|| iommufd.table(table.hwpt, table.ioas));
    vf.attach_domain(Some(Domain {
        space,
        id: table.hwpt,
        table: dirty,
        leaf: vf.vf.config().iommu_leaf,
    }));
    user::put(arg + 8, table.hwpt)?;
    Ok(0)
}

fn detach(object: &Object, vf: &VfLocal, arg: usize) -> Answer {
    if user::get::<u32>(arg)? < 8 || user::get::<u32>(arg + 4)? != 0 {
        return Err(Errno::EINVAL);
    }
    let Record::Device { via: Via::Cdev, .. } = object.record() else {
        return Err(Errno::ENOTTY);
    };
    vf.attach_domain(None);
    object.update(|record| {
        if let Record::Device { attached, .. } = record {
            *attached = None;
        }
        Ok(0)
    })
}
