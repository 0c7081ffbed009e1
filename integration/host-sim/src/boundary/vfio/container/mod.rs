// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `/dev/vfio/vfio` with a type1 IOMMU (drivers/vfio/container.c, vfio_iommu_type1.c).

mod dirty;

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, vfio};
use crate::boundary::ioas::{self, Ioas, MAPPING_LIMIT, Mapping, PAGE, RANGES};
use crate::boundary::object::{self, Object, Record};
use crate::boundary::{hosts, sys, user, worker};
use crate::vf::{Errno, Op};

const GET_API_VERSION: u32 = vfio(0);
const CHECK_EXTENSION: u32 = vfio(1);
const SET_IOMMU: u32 = vfio(2);
const IOMMU_GET_INFO: u32 = vfio(12);
const MAP_DMA: u32 = vfio(13);
const UNMAP_DMA: u32 = vfio(14);
const DIRTY_PAGES: u32 = vfio(17);

/// VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU.
const TYPES: [usize; 2] = [1, 3];
/// The types, VFIO_DMA_CC_IOMMU and VFIO_UNMAP_ALL.
const EXTENSIONS: [usize; 4] = [1, 3, 4, 9];
/// Space of a container in [`Object::space`].
pub const SPACE: u32 = 0;
/// VFIO_TYPE1v2_IOMMU.
const VERSION_2: u32 = 3;

pub fn ioctl(object: &Arc<Object>, request: u32, arg: usize) -> Answer {
    match request {
        GET_API_VERSION => return Ok(0),
        CHECK_EXTENSION => return Ok(i32::from(EXTENSIONS.contains(&arg))),
        SET_IOMMU => return set_iommu(object, arg),
        _ => {}
    }
    let Record::Container { iommu: kind @ 1.. } = object.record() else {
        return Err(Errno::EINVAL);
    };
    let space = object.space(SPACE);
    match request {
        IOMMU_GET_INFO => get_info(&space, arg),
        MAP_DMA => map(object, &space, arg),
        UNMAP_DMA => unmap(object, &space, kind == VERSION_2, arg),
        DIRTY_PAGES => dirty::ioctl(object, &space, kind == VERSION_2, arg),
        _ => Err(Errno::ENOTTY),
    }
}

/// VFs whose groups are in the container, as (host, number).
fn members(object: &Object) -> Vec<(&'static Arc<hosts::Attached>, u16)> {
    let mut members = Vec::new();
    for host in hosts::all() {
        // A host that was taken down has nothing open.
        for (_, record) in object::living(host, "group-").unwrap_or_default() {
            if let Record::Group {
                vf,
                container: Some(name),
            } = record
                && name == object.name
            {
                members.push((host, vf));
            }
        }
    }
    members
}

fn set_iommu(object: &Object, kind: usize) -> Answer {
    if members(object).is_empty() || matches!(object.record(), Record::Container { iommu: 1.. }) {
        return Err(Errno::EINVAL);
    }
    if !TYPES.contains(&kind) {
        return Err(Errno::ENODEV);
    }
    object.update(|record| {
        *record = Record::Container { iommu: kind as u32 };
        Ok(0)
    })
}

/// Faults of the VFs in the container.
fn check(object: &Object, op: Op) -> Result<(), Errno> {
    members(object)
        .into_iter()
        .try_for_each(|(host, vf)| host.vf(vf)?.check(op))
}

/// Waits as long as pinning `bytes` takes.
pub fn pin(host: &hosts::Attached, bytes: u64) {
    let micros = (u128::from(host.host.config().pin_us_per_gib) * u128::from(bytes)) >> 30;
    sys::sleep(Duration::from_micros(micros as u64));
}

fn get_info(space: &Ioas, arg: usize) -> Answer {
    // struct vfio_iommu_type1_info, then capabilities: IOVA ranges, migration, DMA entries left.
    const SIZE: usize = 24;
    let argsz = user::get::<u32>(arg)? as usize;
    if argsz < 16 {
        return Err(Errno::EINVAL);
    }
    let mut caps: Vec<u8> = Vec::new();
    let mut cap = |id: u16, body: &[u8]| {
        let next = SIZE + caps.len() + 8 + body.len();
        caps.extend(id.to_le_bytes());
        caps.extend(1u16.to_le_bytes());
        caps.extend(if id == 3 { 0 } else { next as u32 }.to_le_bytes());
        caps.extend(body);
    };
    let mut ranges = [(RANGES.len() as u32).to_le_bytes(), [0; 4]].concat();
    for (first, last) in RANGES {
        ranges.extend(first.to_le_bytes());
        ranges.extend(last.to_le_bytes());
    }
    cap(1, &ranges);
    // flags and padding, page sizes of bitmaps, most bytes of a bitmap
    cap(
        2,
        &[0u64, PAGE, dirty::MOST_BYTES]
            .map(u64::to_le_bytes)
            .concat(),
    );
    let left = (MAPPING_LIMIT - space.len()) as u64;
    cap(3, &left.to_le_bytes());
    // The second word of the last capability is padding that keeps the chain a multiple of 8.
    let whole = SIZE + caps.len();
    let fits = argsz >= whole;
    user::put(arg + 4, 3u32)?;
    user::put(arg + 8, !(PAGE - 1))?;
    if argsz >= 20 {
        user::put(arg + 16, if fits { SIZE as u32 } else { 0 })?;
    }
    if fits {
        user::put_bytes(arg + SIZE, &caps)?;
    } else {
        user::put(arg, whole as u32)?;
    }
    Ok(0)
}

fn map(object: &Object, space: &Ioas, arg: usize) -> Answer {
    let (argsz, flags) = (user::get::<u32>(arg)?, user::get::<u32>(arg + 4)?);
    if argsz < 32 || flags & !3 != 0 || flags & 3 == 0 {
        return Err(Errno::EINVAL);
    }
    let [address, iova, len] = [
        user::get::<u64>(arg + 8)?,
        user::get(arg + 16)?,
        user::get(arg + 24)?,
    ];
    if len == 0
        || !(len | iova | address).is_multiple_of(PAGE)
        || address.checked_add(len - 1).is_none()
    {
        return Err(Errno::EINVAL);
    }
    if !space.overlaps(iova, len).is_empty() {
        return Err(Errno::EEXIST);
    }
    if !ioas::in_ranges(iova, len) {
        return Err(Errno::EINVAL);
    }
    check(object, Op::MapDma)?;
    if !worker::run(|| ioas::is_mapped(address, len)) {
        return Err(Errno::EFAULT);
    }
    if let Some((host, _)) = members(object).first() {
        pin(host, len);
    }
    space.map(
        iova,
        Mapping {
            len,
            address,
            read: flags & 1 != 0,
            write: flags & 2 != 0,
        },
    )?;
    Ok(0)
}

fn unmap(object: &Object, space: &Ioas, version_2: bool, arg: usize) -> Answer {
    const GET_DIRTY_BITMAP: u32 = 1;
    const ALL: u32 = 2;
    let (argsz, flags) = (user::get::<u32>(arg)?, user::get::<u32>(arg + 4)?);
    let [iova, len] = [user::get::<u64>(arg + 8)?, user::get(arg + 16)?];
    if argsz < 24 || flags & !(GET_DIRTY_BITMAP | ALL) != 0 || flags == GET_DIRTY_BITMAP | ALL {
        return Err(Errno::EINVAL);
    }
    if flags == ALL {
        if iova != 0 || len != 0 {
            return Err(Errno::EINVAL);
        }
        check(object, Op::UnmapDma)?;
        user::put(arg + 16, space.unmap_all())?;
        return Ok(0);
    }
    if len == 0 || !(iova | len).is_multiple_of(PAGE) || iova.checked_add(len - 1).is_none() {
        return Err(Errno::EINVAL);
    }
    check(object, Op::UnmapDma)?;
    if flags == GET_DIRTY_BITMAP {
        if argsz < 48 || !dirty::is_tracking(object) {
            return Err(Errno::EINVAL);
        }
        dirty::fill(space, iova, len, arg + 24)?;
    }
    let bytes = if version_2 {
        space.unmap(iova, len)?
    } else {
        space.unmap_v1(iova, len)
    };
    user::put(arg + 16, bytes)?;
    Ok(0)
}
