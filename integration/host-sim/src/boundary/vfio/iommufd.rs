// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `/dev/iommu` (drivers/iommu/iommufd). Ids live in the fd's record, mappings in the process that made them.

use std::ffi::c_int;
use std::sync::Arc;

use super::Answer;
use super::container::pin;
use crate::boundary::hosts::{self, Attached, VfLocal};
use crate::boundary::ioas::{self, Ioas, Mapping, PAGE, RANGES};
use crate::boundary::object::{Item, Object, Record};
use crate::boundary::{sys, user, worker};
use crate::vf::{Errno, Op};

const E2BIG: Errno = Errno(libc::E2BIG);
const EMSGSIZE: Errno = Errno(libc::EMSGSIZE);

/// IOMMU_IOAS_MAP_FIXED_IOVA, _WRITEABLE, _READABLE.
const FIXED: u32 = 1;
const WRITEABLE: u32 = 2;
const READABLE: u32 = 4;

/// (least, known) bytes of each request's structure.
fn sizes(request: u32) -> Option<(usize, usize)> {
    match request {
        0x3b80 => Some((8, 8)),
        0x3b81 | 0x3b88 => Some((12, 12)),
        0x3b82 | 0x3b86 | 0x3b87 => Some((24, 24)),
        0x3b83 | 0x3b85 | 0x3b8f => Some((40, 40)),
        0x3b84 => Some((32, 32)),
        0x3b89 => Some((24, 48)),
        0x3b8a => Some((32, 40)),
        _ => None,
    }
}

/// A request's structure: fields of the caller's, zero where it is shorter than ours.
struct Request {
    arg: usize,
    len: usize,
    bytes: [u8; 48],
}

impl Request {
    fn read(arg: usize, least: usize, known: usize) -> Result<Self, Errno> {
        let size = user::get::<u32>(arg)? as usize;
        if size < least {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 48];
        let len = size.min(known);
        user::get_bytes(arg, &mut bytes[..len])?;
        for at in known..size.min(known + 4096) {
            if user::get::<u8>(arg + at)? != 0 {
                return Err(E2BIG);
            }
        }
        Ok(Self { arg, len, bytes })
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    fn put<T: user::Plain>(&self, at: usize, value: T) -> Result<(), Errno> {
        if at + size_of::<T>() <= self.len {
            user::put(self.arg + at, value)
        } else {
            Ok(())
        }
    }
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

fn find(record: &Record, id: u32) -> Option<Item> {
    match record {
        Record::Iommufd { items, .. } => {
            items.iter().find(|(i, _)| *i == id).map(|&(_, item)| item)
        }
        _ => None,
    }
}

/// The IOAS and page table that attaching to `id` means; an IOAS gets its automatic page table.
pub fn page_table(record: &mut Record, id: u32) -> Result<(u32, u32), Errno> {
    match find(record, id) {
        Some(Item::Hwpt { ioas }) => Ok((ioas, id)),
        Some(Item::Ioas {
            auto_hwpt: Some(hwpt),
        }) => Ok((id, hwpt)),
        Some(Item::Ioas { auto_hwpt: None }) => {
            let hwpt = add(record, Item::Hwpt { ioas: id })?;
            if let Record::Iommufd { items, .. } = record {
                for (_, item) in items.iter_mut().filter(|(i, _)| *i == id) {
                    *item = Item::Ioas {
                        auto_hwpt: Some(hwpt),
                    };
                }
            }
            Ok((id, hwpt))
        }
        Some(Item::Device { .. }) => Err(Errno::EINVAL),
        None => Err(Errno::ENOENT),
    }
}

pub fn ioctl(object: &Arc<Object>, request: u32, arg: usize) -> Answer {
    let (least, known) = sizes(request).ok_or(Errno::ENOTTY)?;
    let r = Request::read(arg, least, known)?;
    match request {
        0x3b80 => destroy(object, r.u32(4)),
        0x3b81 => {
            unsupported(r.u32(4) != 0)?;
            let id = object.update(|record| add(record, Item::Ioas { auto_hwpt: None }))?;
            r.put(8, id)?;
            Ok(0)
        }
        0x3b82 => allow_iovas(object, &r),
        0x3b83 => copy(object, &r),
        0x3b84 => iova_ranges(object, &r),
        0x3b85 => {
            let address = r.u64(16);
            map(object, &r, |len| {
                if worker::run(|| ioas::is_mapped(address, len)) {
                    Ok(address)
                } else {
                    Err(Errno::EFAULT)
                }
            })
        }
        0x3b86 => unmap(object, &r),
        0x3b87 => option(object, &r),
        0x3b88 => vfio_ioas(object, &r),
        0x3b89 => hwpt_alloc(object, &r),
        0x3b8a => hw_info(object, &r),
        0x3b8f => map_file(object, &r),
        _ => Err(Errno::ENOTTY),
    }
}

fn unsupported(is: bool) -> Result<(), Errno> {
    if is { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

fn is_ioas(object: &Object, id: u32) -> Result<(), Errno> {
    match find(&object.fresh_record(), id) {
        Some(Item::Ioas { .. }) => Ok(()),
        _ => Err(Errno::ENOENT),
    }
}

fn destroy(object: &Object, id: u32) -> Answer {
    let spaces_in_use = |ioas: u32| object.space(ioas).is_attached();
    let item = object.update(|record| {
        let item = find(record, id).ok_or(Errno::ENOENT)?;
        let Record::Iommufd { items, .. } = record else {
            return Err(Errno::EINVAL);
        };
        let mut auto = None;
        match item {
            // Bound as long as the cdev is open.
            Item::Device { .. } => return Err(Errno::EBUSY),
            Item::Hwpt { ioas } if spaces_in_use(ioas) => return Err(Errno::EBUSY),
            Item::Ioas { .. } if spaces_in_use(id) => return Err(Errno::EBUSY),
            Item::Ioas { auto_hwpt } => {
                auto = auto_hwpt;
                // A page table that was asked for keeps its address space.
                if items
                    .iter()
                    .any(|(i, other)| *other == (Item::Hwpt { ioas: id }) && Some(*i) != auto)
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
    if matches!(item, Item::Ioas { .. }) {
        object.remove_space(id);
    }
    Ok(0)
}

fn iova_ranges(object: &Object, r: &Request) -> Answer {
    unsupported(r.u32(12) != 0)?;
    let id = r.u32(4);
    is_ioas(object, id)?;
    // Without a device nothing narrows the space.
    let ranges = if object.space(id).is_attached() {
        RANGES.to_vec()
    } else {
        vec![(0, u64::MAX)]
    };
    let room = r.u32(8) as usize;
    r.put(8, ranges.len() as u32)?;
    r.put(24, PAGE)?;
    for (i, (first, last)) in ranges.iter().take(room).enumerate() {
        let at = r.u64(16) as usize + 16 * i;
        user::put(at, *first)?;
        user::put(at + 8, *last)?;
    }
    if room < ranges.len() {
        Err(EMSGSIZE)
    } else {
        Ok(0)
    }
}

fn allow_iovas(object: &Object, r: &Request) -> Answer {
    unsupported(r.u32(12) != 0)?;
    is_ioas(object, r.u32(4))?;
    for i in 0..r.u32(8) as usize {
        let at = r.u64(16) as usize + 16 * i;
        let (first, last) = (user::get::<u64>(at)?, user::get::<u64>(at + 8)?);
        if first >= last || !ioas::in_ranges(first, last - first + 1) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(0)
}

/// The VFs that use an address space.
fn users(space: &Arc<Ioas>) -> impl Iterator<Item = (&'static Arc<Attached>, &'static VfLocal)> {
    hosts::all()
        .flat_map(|h| h.vfs.iter().map(move |v| (h, v)))
        .filter(|(_, v)| {
            v.ioas
                .lock()
                .as_ref()
                .is_some_and(|i| Arc::ptr_eq(i, space))
        })
}

/// Asks the faults of the VFs that use the address space.
fn check(space: &Arc<Ioas>, op: Op) -> Result<(), Errno> {
    users(space).try_for_each(|(_, vf)| vf.check(op))
}

fn map(object: &Object, r: &Request, source: impl FnOnce(u64) -> Result<u64, Errno>) -> Answer {
    let (flags, id) = (r.u32(4), r.u32(8));
    unsupported(flags & !(FIXED | WRITEABLE | READABLE) != 0)?;
    let (len, iova) = (r.u64(24), r.u64(32));
    is_ioas(object, id)?;
    if flags & (WRITEABLE | READABLE) == 0 || len == 0 || !(len | r.u64(16)).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    check(&object.space(id), Op::MapDma)?;
    let address = source(len)?;
    if address.checked_add(len).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let iova = place(object, id, flags, iova, len)?;
    let space = object.space(id);
    if let Some((host, _)) = users(&space).next() {
        pin(host, len);
    }
    space.map(
        iova,
        Mapping {
            len,
            address,
            read: flags & READABLE != 0,
            write: flags & WRITEABLE != 0,
        },
    )?;
    r.put(32, iova)?;
    Ok(0)
}

/// Where a mapping goes.
fn place(object: &Object, id: u32, flags: u32, iova: u64, len: u64) -> Result<u64, Errno> {
    let space = object.space(id);
    if flags & FIXED == 0 {
        return space.allocate(len).ok_or(Errno::ENOSPC);
    }
    if iova.checked_add(len - 1).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    if !iova.is_multiple_of(PAGE) || (space.is_attached() && !ioas::in_ranges(iova, len)) {
        return Err(Errno::EINVAL);
    }
    if space.overlaps(iova, len).is_empty() {
        Ok(iova)
    } else {
        Err(Errno::EEXIST)
    }
}

/// IOMMU_IOAS_MAP_FILE: the file is mapped here for as long as the process lives, as the kernel pins its pages.
fn map_file(object: &Object, r: &Request) -> Answer {
    // {fd, start} take the place of {__reserved, user_va}.
    let (fd, start) = (r.u32(12) as c_int, r.u64(16));
    map(object, r, |len| {
        worker::run(|| sys::map_shared(fd, len, start))
            .map(|a| a as u64)
            .map_err(|_| Errno::EINVAL)
    })
}

fn copy(object: &Object, r: &Request) -> Answer {
    let (flags, to, from) = (r.u32(4), r.u32(8), r.u32(12));
    unsupported(flags & !(FIXED | WRITEABLE | READABLE) != 0)?;
    is_ioas(object, to)?;
    is_ioas(object, from)?;
    let (len, to_iova, from_iova) = (r.u64(16), r.u64(24), r.u64(32));
    if len == 0 || flags & (WRITEABLE | READABLE) == 0 {
        return Err(Errno::EINVAL);
    }
    let source = object
        .space(from)
        .find(from_iova, len)
        .ok_or(Errno::ENOENT)?;
    if flags & WRITEABLE != 0 && !source.write {
        return Err(Errno::EPERM);
    }
    let iova = place(object, to, flags, to_iova, len)?;
    let mapping = Mapping {
        read: flags & READABLE != 0,
        write: flags & WRITEABLE != 0,
        ..source
    };
    object.space(to).map(iova, mapping)?;
    r.put(24, iova)?;
    Ok(0)
}

fn unmap(object: &Object, r: &Request) -> Answer {
    let (id, iova, len) = (r.u32(4), r.u64(8), r.u64(16));
    is_ioas(object, id)?;
    let space = object.space(id);
    check(&space, Op::UnmapDma)?;
    let bytes = if iova == 0 && len == u64::MAX {
        space.unmap_all()
    } else {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        if iova.checked_add(len - 1).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        match space.unmap(iova, len) {
            Ok(0) | Err(_) => return Err(Errno::ENOENT),
            Ok(bytes) => bytes,
        }
    };
    r.put(16, bytes)?;
    Ok(0)
}

fn option(object: &Object, r: &Request) -> Answer {
    const SET: u16 = 0;
    let (option, id, value) = (r.u32(4), r.u32(12), r.u64(16));
    let op = r.u32(8) as u16;
    unsupported(r.u32(8) >> 16 != 0 || op > 1)?;
    match option {
        // RLIMIT_MODE, of the whole iommufd.
        0 if id != 0 => return Err(Errno::EOPNOTSUPP),
        0 if op == SET && value > 1 => return Err(Errno::EINVAL),
        0 if op != SET => r.put(16, 0u64)?,
        // HUGE_PAGES, of an IOAS.
        1 => {
            is_ioas(object, id)?;
            if op == SET && value > 1 {
                return Err(Errno::EINVAL);
            }
            if op != SET {
                r.put(16, 1u64)?;
            }
        }
        0 => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(0)
}

fn vfio_ioas(object: &Object, r: &Request) -> Answer {
    let id = r.u32(4);
    let op = r.u32(8) as u16;
    unsupported(r.u32(8) >> 16 != 0)?;
    let got = object.update(|record| {
        let exists = matches!(find(record, id), Some(Item::Ioas { .. }));
        let Record::Iommufd { compat, .. } = record else {
            return Err(Errno::EINVAL);
        };
        match op {
            0 => return compat.map(Some).ok_or(Errno::ENODEV),
            1 if !exists => return Err(Errno::ENOENT),
            1 => *compat = Some(id),
            2 => *compat = None,
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(None)
    })?;
    if let Some(id) = got {
        r.put(4, id)?;
    }
    Ok(0)
}

fn hwpt_alloc(object: &Object, r: &Request) -> Answer {
    // No nesting, no dirty tracking: this IOMMU has neither.
    unsupported(r.u32(4) != 0 || r.u32(20) != 0 || r.u32(24) != 0)?;
    let (device, pt) = (r.u32(8), r.u32(12));
    let id = object.update(|record| {
        if !matches!(find(record, device), Some(Item::Device { .. })) {
            return Err(Errno::ENOENT);
        }
        match find(record, pt) {
            Some(Item::Ioas { .. }) => add(record, Item::Hwpt { ioas: pt }),
            Some(_) => Err(Errno::EINVAL),
            None => Err(Errno::ENOENT),
        }
    })?;
    r.put(16, id)?;
    Ok(0)
}

fn hw_info(object: &Object, r: &Request) -> Answer {
    unsupported(r.u32(4) != 0 || r.u32(28) != 0)?;
    if !matches!(
        find(&object.fresh_record(), r.u32(8)),
        Some(Item::Device { .. })
    ) {
        return Err(Errno::ENOENT);
    }
    let room = (r.u32(12) as usize).min(4096);
    user::put_bytes(r.u64(16) as usize, &vec![0; room])?;
    // IOMMU_HW_INFO_TYPE_NONE, no capabilities.
    r.put(12, 0u32)?;
    r.put(24, 0u32)?;
    r.put(32, 0u64)?;
    Ok(0)
}

/// The device of `vf` is closed: its id is free. Called for the iommufd it was bound to.
pub fn forget_device(iommufd: &Object, vf: u16) {
    let _ = iommufd.update(|record| {
        if let Record::Iommufd { items, .. } = record {
            items.retain(|(_, item)| *item != Item::Device { vf });
        }
        Ok(())
    });
}
