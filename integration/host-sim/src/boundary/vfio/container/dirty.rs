// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_IOMMU_DIRTY_PAGES of a type1 container: it logs nothing. A device that pins no pages through vfio may have written
//! everything that is mapped, so everything is dirty, always (vfio_iommu_type1.c, update_user_bitmap).

use crate::boundary::ioas::{Ioas, Mapping, PAGE};
use crate::boundary::object::Object;
use crate::boundary::user;
use crate::boundary::vfio::Answer;
use crate::vf::Errno;

/// Whether tracking is on is kept as a second space that only exists then.
const TRACKING: u32 = 1;
/// Most bytes of a bitmap (DIRTY_BITMAP_SIZE_MAX).
pub const MOST_BYTES: u64 = 256 << 20;

/// Whether tracking is on.
pub fn is_tracking(object: &Object) -> bool {
    object.has_space(TRACKING)
}

/// The ioctl.
pub fn ioctl(object: &Object, space: &Ioas, version_2: bool, arg: usize) -> Answer {
    const START: u32 = 1;
    const STOP: u32 = 2;
    const GET_BITMAP: u32 = 4;
    if !version_2 {
        return Err(Errno::EACCES);
    }
    let (argsz, flags) = (user::get::<u32>(arg)?, user::get::<u32>(arg + 4)?);
    if argsz < 8 {
        return Err(Errno::EINVAL);
    }
    match flags {
        START => drop(object.space(TRACKING)),
        STOP => object.remove_space(TRACKING),
        GET_BITMAP => {
            if argsz < 48 {
                return Err(Errno::EINVAL);
            }
            let [iova, len] = [user::get::<u64>(arg + 8)?, user::get(arg + 16)?];
            let aligned = len != 0
                && (iova | len).is_multiple_of(PAGE)
                && iova.checked_add(len - 1).is_some();
            if !is_tracking(object) || !aligned {
                return Err(Errno::EINVAL);
            }
            fill(space, iova, len, arg + 24)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Marks every mapped page of the range in the `struct vfio_bitmap` at `arg`.
///
/// # Errors
/// `EINVAL` for another page size than the IOMMU's, a bitmap of a wrong size, or a range that cuts a mapping.
pub fn fill(space: &Ioas, iova: u64, len: u64, arg: usize) -> Result<(), Errno> {
    let [page, size, data] = [
        user::get::<u64>(arg)?,
        user::get(arg + 8)?,
        user::get(arg + 16)?,
    ];
    let needed = (len / PAGE).div_ceil(64) * 8;
    if page != PAGE || size < needed || size > MOST_BYTES {
        return Err(Errno::EINVAL);
    }
    let last = iova + (len - 1);
    let hit = space.overlaps(iova, len);
    if hit
        .iter()
        .any(|(start, m)| *start < iova || start + (m.len - 1) > last)
    {
        return Err(Errno::EINVAL);
    }
    hit.iter()
        .try_for_each(|(start, mapping)| mark(data, (start - iova) / PAGE, mapping))
}

/// Marks a mapping whose first page has bit `first`. Whole words are written: what the caller had in one that the mapping
/// begins in the middle of stays, all of it, what he had in the others is lost. Words of no mapping stay as they are.
fn mark(data: u64, first: u64, mapping: &Mapping) -> Result<(), Errno> {
    let end = first + mapping.len / PAGE;
    for word in first / 64..end.div_ceil(64) {
        let low = first.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        let mut bits = (u64::MAX << low) & (u64::MAX >> (64 - high));
        let at = (data + word * 8) as usize;
        if low != 0 {
            bits |= user::get::<u64>(at)?;
        }
        user::put(at, bits)?;
    }
    Ok(())
}
