// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page tables and their dirty bits (drivers/iommu/iommufd/hw_pagetable.c, io_pagetable.c), and what a device's IOMMU can.
//!
//! Dirty bits are of the process that mapped the memory, as mappings are here.

use super::items::{add, check, device, find};
use super::{Answer, unsupported};
use crate::boundary::bitmap::Bitmap;
use crate::boundary::hosts::VfLocal;
use crate::boundary::ioas::PAGE;
use crate::boundary::object::{Item, Object};
use crate::boundary::user;
use crate::boundary::vfio::iommufd::Request;
use crate::vf::{Errno, Op};

/// IOMMU_HWPT_ALLOC_DIRTY_TRACKING.
const ALLOC_DIRTY: u32 = 2;
/// IOMMU_HW_CAP_DIRTY_TRACKING.
const CAP_DIRTY: u64 = 1;

/// Whether the IOMMU in front of the VF has dirty bits.
pub fn tracks(vf: &VfLocal) -> bool {
    vf.vf.config().iommu_dirty_tracking.contains(vf.vf.index())
}

/// IOMMU_HWPT_ALLOC.
pub fn alloc(object: &Object, r: &Request) -> Answer {
    let (flags, device_id, pt) = (r.u32(4), r.u32(8), r.u32(12));
    unsupported(r.u32(20) != 0)?;
    let (data_type, data_len) = (r.u32(24), r.u32(28));
    if (data_type == 0) != (data_len == 0) {
        return Err(Errno::EINVAL);
    }
    let record = object.fresh_record();
    let vf = device(&record, device_id)?;
    match find(&record, pt) {
        Some(Item::Ioas { .. }) => {}
        // No nesting: this IOMMU has none.
        Some(Item::Hwpt { .. }) => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    let dirty = flags & ALLOC_DIRTY != 0;
    unsupported(flags & !ALLOC_DIRTY != 0 || data_type != 0 || (dirty && !tracks(vf)))?;
    vf.check(Op::HwptAlloc)?;
    let id = object.update(|record| match find(record, pt) {
        Some(Item::Ioas { .. }) => add(record, Item::Hwpt { ioas: pt, dirty }),
        _ => Err(Errno::EINVAL),
    })?;
    r.put(16, id)?;
    Ok(0)
}

/// The IOAS of a page table, and whether that has dirty bits.
fn page_table(object: &Object, id: u32) -> Result<(u32, bool), Errno> {
    match find(&object.fresh_record(), id) {
        Some(Item::Hwpt { ioas, dirty }) => Ok((ioas, dirty)),
        _ => Err(Errno::ENOENT),
    }
}

/// IOMMU_HWPT_SET_DIRTY_TRACKING.
pub fn set_dirty_tracking(object: &Object, r: &Request) -> Answer {
    const ENABLE: u32 = 1;
    let (flags, id) = (r.u32(4), r.u32(8));
    unsupported(flags & !ENABLE != 0)?;
    let (ioas, dirty) = page_table(object, id)?;
    unsupported(!dirty)?;
    let space = object.space(ioas);
    check(&space, Op::SetDirtyTracking)?;
    space.set_tracking(&object.table(id, ioas), flags & ENABLE != 0);
    Ok(0)
}

/// IOMMU_HWPT_GET_DIRTY_BITMAP: bits are set in the caller's bitmap, none is cleared.
pub fn get_dirty_bitmap(object: &Object, r: &Request) -> Answer {
    const NO_CLEAR: u32 = 1;
    let (id, flags) = (r.u32(4), r.u32(8));
    unsupported(flags & !NO_CLEAR != 0 || r.u32(12) != 0)?;
    let (ioas, dirty) = page_table(object, id)?;
    let (iova, len, page, data) = (r.u64(16), r.u64(24), r.u64(32), r.u64(40));
    let last = iova
        .checked_add(len.wrapping_sub(1))
        .ok_or(Errno::EOVERFLOW)?;
    let end = last.wrapping_add(1);
    let aligned = |unit: u64| (iova | end) & unit.wrapping_sub(1) == 0;
    if !aligned(PAGE) || page == 0 || !aligned(page) {
        return Err(Errno::EINVAL);
    }
    unsupported(!dirty)?;
    // No length: the last byte is before the first, where the kernel finds no mapping.
    if last < iova {
        return Err(Errno::EINVAL);
    }
    let space = object.space(ioas);
    check(&space, Op::GetDirtyBitmap)?;
    let bitmap = Bitmap::new(data, iova, last, page.trailing_zeros())?;
    let mut set = Ok(());
    let clear = flags & NO_CLEAR == 0;
    let table = object.table(id, ioas);
    space.read_dirty(&table, (iova, last), clear, |first, last| {
        if set.is_ok() {
            set = bitmap.set(first, last);
        }
    })?;
    set.map(|()| 0)
}

/// IOMMU_GET_HW_INFO: an IOMMU without data of its own.
pub fn hw_info(object: &Object, r: &Request) -> Answer {
    const INPUT_TYPE: u32 = 1;
    let flags = r.u32(4);
    unsupported(flags & !INPUT_TYPE != 0 || r.u32(28) >> 8 != 0)?;
    let vf = device(&object.fresh_record(), r.u32(8))?;
    unsupported(flags & INPUT_TYPE != 0 && r.u32(24) != 0)?;
    let room = (r.u32(12) as usize).min(4096);
    user::put_bytes(r.u64(16) as usize, &vec![0; room])?;
    // IOMMU_HW_INFO_TYPE_NONE.
    r.put(12, 0u32)?;
    r.put(24, 0u32)?;
    r.put(28, 0u8)?;
    r.put(32, if tracks(vf) { CAP_DIRTY } else { 0 })?;
    Ok(0)
}
