// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The objects of an iommufd: ids in its record, the same for every process that has it.

use std::sync::Arc;

use super::Answer;
use crate::boundary::hosts::{self, Attached, VfLocal};
use crate::boundary::ioas::Ioas;
use crate::boundary::object::{Item, Object, Record};
use crate::vf::{Errno, Op};

/// A page table to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTableId {
    /// Its IOAS.
    pub ioas: u32,
    /// Itself.
    pub hwpt: u32,
    /// It has dirty bits.
    pub dirty: bool,
}

/// Adds an object and answers its id.
pub fn add(record: &mut Record, item: Item) -> Result<u32, Errno> {
    let Record::Iommufd { next_id, items, .. } = record else {
        return Err(Errno::EINVAL);
    };
    let id = *next_id;
    *next_id += 1;
    items.push((id, item));
    Ok(id)
}

pub fn find(record: &Record, id: u32) -> Option<Item> {
    match record {
        Record::Iommufd { items, .. } => {
            items.iter().find(|(i, _)| *i == id).map(|&(_, item)| item)
        }
        _ => None,
    }
}

/// The page table that attaching to `id` means; an IOAS gets its automatic one.
///
/// # Errors
/// `ENOENT` when there is no such object, `EINVAL` when it is neither.
pub fn page_table(record: &mut Record, id: u32) -> Result<PageTableId, Errno> {
    let of = |ioas, hwpt, dirty| Ok(PageTableId { ioas, hwpt, dirty });
    match find(record, id) {
        Some(Item::Hwpt { ioas, dirty }) => of(ioas, id, dirty),
        Some(Item::Ioas {
            auto_hwpt: Some(hwpt),
        }) => of(id, hwpt, false),
        Some(Item::Ioas { auto_hwpt: None }) => {
            let table = Item::Hwpt {
                ioas: id,
                dirty: false,
            };
            let hwpt = add(record, table)?;
            if let Record::Iommufd { items, .. } = record {
                for (_, item) in items.iter_mut().filter(|(i, _)| *i == id) {
                    *item = Item::Ioas {
                        auto_hwpt: Some(hwpt),
                    };
                }
            }
            of(id, hwpt, false)
        }
        Some(Item::Device { .. }) => Err(Errno::EINVAL),
        None => Err(Errno::ENOENT),
    }
}

/// Whether `id` is an IOAS.
///
/// # Errors
/// `ENOENT` when it is not.
pub fn is_ioas(object: &Object, id: u32) -> Result<(), Errno> {
    match find(&object.fresh_record(), id) {
        Some(Item::Ioas { .. }) => Ok(()),
        _ => Err(Errno::ENOENT),
    }
}

/// The VF that is bound as device `id`.
///
/// # Errors
/// `ENOENT` when that is no device.
pub fn device(record: &Record, id: u32) -> Result<&'static VfLocal, Errno> {
    let Some(Item::Device { group }) = find(record, id) else {
        return Err(Errno::ENOENT);
    };
    hosts::all()
        .flat_map(|h| &h.vfs)
        .find(|v| v.vf.group_id() == group)
        .ok_or(Errno::ENOENT)
}

/// The VFs that use an address space.
pub fn users(
    space: &Arc<Ioas>,
) -> impl Iterator<Item = (&'static Arc<Attached>, &'static VfLocal)> {
    hosts::all()
        .flat_map(|h| h.vfs.iter().map(move |v| (h, v)))
        .filter(|(_, v)| {
            v.domain
                .lock()
                .as_ref()
                .is_some_and(|d| Arc::ptr_eq(&d.space, space))
        })
}

/// Asks the faults of the VFs that use the address space.
pub fn check(space: &Arc<Ioas>, op: Op) -> Result<(), Errno> {
    users(space).try_for_each(|(_, vf)| vf.check(op))
}

/// Whether a VF is attached to page table `hwpt` of the address space.
fn is_attached(space: &Arc<Ioas>, hwpt: u32) -> bool {
    users(space).any(|(_, v)| v.domain.lock().as_ref().is_some_and(|d| d.id == hwpt))
}

/// IOMMU_DESTROY.
pub fn destroy(object: &Object, id: u32) -> Answer {
    let item = object.update(|record| {
        let item = find(record, id).ok_or(Errno::ENOENT)?;
        let Record::Iommufd { items, .. } = record else {
            return Err(Errno::EINVAL);
        };
        let mut auto = None;
        match item {
            // Bound as long as the cdev is open.
            Item::Device { .. } => return Err(Errno::EBUSY),
            Item::Hwpt { ioas, .. } if is_attached(&object.space(ioas), id) => {
                return Err(Errno::EBUSY);
            }
            Item::Ioas { .. } if object.space(id).is_attached() => return Err(Errno::EBUSY),
            Item::Ioas { auto_hwpt } => {
                auto = auto_hwpt;
                // A page table that was asked for keeps its address space.
                let kept = |other: &Item| matches!(other, Item::Hwpt { ioas, .. } if *ioas == id);
                if items
                    .iter()
                    .any(|(i, other)| kept(other) && Some(*i) != auto)
                {
                    return Err(Errno::EBUSY);
                }
            }
            Item::Hwpt { .. } => {}
        }
        items.retain(|(i, _)| *i != id && Some(*i) != auto);
        for (_, other) in items.iter_mut() {
            if *other
                == (Item::Ioas {
                    auto_hwpt: Some(id),
                })
            {
                *other = Item::Ioas { auto_hwpt: None };
            }
        }
        Ok(item)
    })?;
    match item {
        Item::Ioas { .. } => object.remove_space(id),
        Item::Hwpt { .. } => object.remove_table(id),
        Item::Device { .. } => {}
    }
    Ok(0)
}

/// The device of group `group` is closed: its id is free. Called for the iommufd it was bound to.
pub fn forget_device(iommufd: &Object, group: u32) {
    let _ = iommufd.update(|record| {
        if let Record::Iommufd { items, .. } = record {
            items.retain(|(_, item)| *item != Item::Device { group });
        }
        Ok(())
    });
}
