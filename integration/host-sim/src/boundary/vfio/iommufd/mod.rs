// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `/dev/iommu` (drivers/iommu/iommufd). Ids live in the fd's record (`items`), mappings and dirty bits in the process that made
//! them (`spaces`, `hwpt`).

mod hwpt;
mod items;
mod request;
mod spaces;

use std::sync::Arc;

use super::Answer;
use crate::boundary::object::{Item, Object, Record};
use crate::vf::Errno;

pub use hwpt::tracks;
pub use items::{add, forget_device, page_table};
use items::{find, is_ioas};
use request::Request;

pub fn ioctl(object: &Arc<Object>, request: u32, arg: usize) -> Answer {
    let r = Request::read(request, arg)?;
    match request {
        0x3b80 => items::destroy(object, r.u32(4)),
        0x3b81 => {
            unsupported(r.u32(4) != 0)?;
            let id = object.update(|record| add(record, Item::Ioas { auto_hwpt: None }))?;
            r.put(8, id)?;
            Ok(0)
        }
        0x3b82 => spaces::allow_iovas(object, &r),
        0x3b83 => spaces::copy(object, &r),
        0x3b84 => spaces::iova_ranges(object, &r),
        0x3b85 => spaces::map(object, &r),
        0x3b86 => spaces::unmap(object, &r),
        0x3b87 => option(object, &r),
        0x3b88 => vfio_ioas(object, &r),
        0x3b89 => hwpt::alloc(object, &r),
        0x3b8a => hwpt::hw_info(object, &r),
        0x3b8b => hwpt::set_dirty_tracking(object, &r),
        0x3b8c => hwpt::get_dirty_bitmap(object, &r),
        0x3b8f => spaces::map_file(object, &r),
        _ => Err(Errno::ENOTTY),
    }
}

fn unsupported(is: bool) -> Result<(), Errno> {
    if is { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
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
            let space = object.space(id);
            match (op, value) {
                (SET, 0 | 1) => space.set_small_pages(value == 0)?,
                (SET, _) => return Err(Errno::EINVAL),
                _ => r.put(16, u64::from(!space.has_small_pages()))?,
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
