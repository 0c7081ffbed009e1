// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mappings of an IOAS (drivers/iommu/iommufd/ioas.c).

use std::ffi::c_int;

use super::items::{check, is_ioas, users};
use super::{Answer, Request, unsupported};
use crate::boundary::ioas::{self, Mapping, PAGE, RANGES};
use crate::boundary::object::Object;
use crate::boundary::vfio::container::pin;
use crate::boundary::{sys, user, worker};
use crate::vf::{Errno, Op};

/// IOMMU_IOAS_MAP_FIXED_IOVA, _WRITEABLE, _READABLE.
const FIXED: u32 = 1;
const WRITEABLE: u32 = 2;
const READABLE: u32 = 4;

/// IOMMU_IOAS_IOVA_RANGES.
pub fn iova_ranges(object: &Object, r: &Request) -> Answer {
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
        Err(Errno::EMSGSIZE)
    } else {
        Ok(0)
    }
}

/// IOMMU_IOAS_ALLOW_IOVAS.
pub fn allow_iovas(object: &Object, r: &Request) -> Answer {
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

/// IOMMU_IOAS_MAP.
pub fn map(object: &Object, r: &Request) -> Answer {
    let address = r.u64(16);
    map_from(object, r, |len| {
        if worker::run(|| ioas::is_mapped(address, len)) {
            Ok(address)
        } else {
            Err(Errno::EFAULT)
        }
    })
}

fn map_from(
    object: &Object,
    r: &Request,
    source: impl FnOnce(u64) -> Result<u64, Errno>,
) -> Answer {
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
pub fn map_file(object: &Object, r: &Request) -> Answer {
    // {fd, start} take the place of {__reserved, user_va}.
    let (fd, start) = (r.u32(12) as c_int, r.u64(16));
    map_from(object, r, |len| {
        worker::run(|| sys::map_shared(fd, len, start))
            .map(|a| a as u64)
            .map_err(|_| Errno::EINVAL)
    })
}

/// IOMMU_IOAS_COPY.
pub fn copy(object: &Object, r: &Request) -> Answer {
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

/// IOMMU_IOAS_UNMAP.
pub fn unmap(object: &Object, r: &Request) -> Answer {
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
