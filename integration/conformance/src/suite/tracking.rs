// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking by the IOMMU in front of a VF (drivers/iommu/iommufd/hw_pagetable.c, io_pagetable.c): of one that can, and of
//! one that cannot.

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, skipped, works};
use crate::iommufd::{Bound, DIRTY_TRACKING, PAGE};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["tracking":
        capability_says_that_it_can,
        without_the_capability_there_is_no_page_table_for_it,
        page_table_for_it_can_be_attached,
        unknown_flags_are_not_supported,
        ids_of_nothing_are_not_there,
        switching_can_be_repeated,
        page_table_made_without_it_has_no_bits,
        bitmap_clears_no_bit,
        bitmap_past_the_mappings_is_refused,
        bitmap_off_the_page_size_is_refused,
        bitmap_past_the_end_of_addresses_overflows,
        attached_page_table_stays,
    ]
}

const IOVA: u64 = 16 << 20;
const WHOLE: [u64; 3] = [IOVA, 64 * PAGE, PAGE];

fn open(world: &World) -> Outcome<Bound> {
    world.tracking.as_deref().map_or_else(
        || skipped("needs a VF behind an IOMMU with dirty tracking (--tracking)"),
        Bound::open,
    )
}

/// With 64 pages mapped and a page table that tracks, attached.
fn tracked(world: &World) -> Outcome<(Bound, u32)> {
    let bound = open(world)?;
    works("IOAS_MAP", bound.map(IOVA, 64))?;
    let hwpt = bound.alloc(DIRTY_TRACKING, bound.device, bound.ioas);
    let hwpt = works("HWPT_ALLOC", hwpt)?;
    works("ATTACH", bound.attach(hwpt))?;
    Ok((bound, hwpt))
}

fn capability_says_that_it_can(world: &World) -> Outcome {
    let bound = open(world)?;
    let can = works("GET_HW_INFO", bound.capabilities(bound.device))?;
    same("IOMMU_HW_CAP_DIRTY_TRACKING", &(can & 1), &1)
}

fn without_the_capability_there_is_no_page_table_for_it(world: &World) -> Outcome {
    let Some(path) = &world.untracked else {
        return skipped("needs a VF behind an IOMMU without dirty tracking (--untracked)");
    };
    let bound = Bound::open(path)?;
    let can = works("GET_HW_INFO", bound.capabilities(bound.device))?;
    same("IOMMU_HW_CAP_DIRTY_TRACKING", &(can & 1), &0)?;
    let hwpt = bound.alloc(DIRTY_TRACKING, bound.device, bound.ioas);
    refuses("HWPT_ALLOC", hwpt, libc::EOPNOTSUPP)?;
    let plain = works("plain", bound.alloc(0, bound.device, bound.ioas))?;
    refuses("SET", bound.set_tracking(plain, 1), libc::EOPNOTSUPP)
}

fn page_table_for_it_can_be_attached(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    same("again", &works("ATTACH", bound.attach(hwpt))?, &hwpt)
}

fn unknown_flags_are_not_supported(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    let alloc = bound.alloc(1 << 20, bound.device, bound.ioas);
    refuses("HWPT_ALLOC", alloc, libc::EOPNOTSUPP)?;
    refuses("SET", bound.set_tracking(hwpt, 2), libc::EOPNOTSUPP)?;
    refuses("GET", bound.bitmap(hwpt, 2, WHOLE, 0), libc::EOPNOTSUPP)
}

fn ids_of_nothing_are_not_there(world: &World) -> Outcome {
    let (bound, _) = tracked(world)?;
    for id in [bound.ioas, bound.device, 9999] {
        refuses("SET", bound.set_tracking(id, 1), libc::ENOENT)?;
        refuses("GET", bound.bitmap(id, 0, WHOLE, 0), libc::ENOENT)?;
    }
    let device = bound.alloc(0, bound.ioas, bound.ioas);
    refuses("HWPT_ALLOC for no device", device, libc::ENOENT)?;
    for pt in [9999, bound.device] {
        let alloc = bound.alloc(0, bound.device, pt);
        refuses("HWPT_ALLOC of no IOAS", alloc, libc::EINVAL)?;
    }
    Ok(())
}

fn switching_can_be_repeated(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    for flags in [0, 1, 1, 0, 0, 1] {
        works("SET", bound.set_tracking(hwpt, flags))?;
    }
    works("GET", bound.bitmap(hwpt, 0, WHOLE, 0)).map(drop)
}

fn page_table_made_without_it_has_no_bits(world: &World) -> Outcome {
    let bound = open(world)?;
    works("IOAS_MAP", bound.map(IOVA, 64))?;
    let asked = works("HWPT_ALLOC", bound.alloc(0, bound.device, bound.ioas))?;
    let automatic = works("ATTACH", bound.attach(bound.ioas))?;
    for hwpt in [asked, automatic] {
        refuses("SET", bound.set_tracking(hwpt, 1), libc::EOPNOTSUPP)?;
        refuses("GET", bound.bitmap(hwpt, 0, WHOLE, 0), libc::EOPNOTSUPP)?;
    }
    Ok(())
}

fn bitmap_clears_no_bit(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    works("SET", bound.set_tracking(hwpt, 1))?;
    let before = 0x8000_0000_0000_0005;
    for flags in [0, 1] {
        let after = works("GET", bound.bitmap(hwpt, flags, WHOLE, before))?;
        same("bits of the caller's", &(after & before), &before)?;
    }
    Ok(())
}

fn bitmap_past_the_mappings_is_refused(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    works("SET", bound.set_tracking(hwpt, 1))?;
    for (iova, pages) in [(IOVA, 65), (IOVA - PAGE, 2), (0, 1)] {
        let answer = bound.bitmap(hwpt, 0, [iova, pages * PAGE, PAGE], 0);
        refuses(&format!("{pages} from {iova:#x}"), answer, libc::EINVAL)?;
    }
    works("IOAS_UNMAP", bound.unmap(IOVA, 64))?;
    refuses("after unmap", bound.bitmap(hwpt, 0, WHOLE, 0), libc::EINVAL)
}

fn bitmap_off_the_page_size_is_refused(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    works("SET", bound.set_tracking(hwpt, 1))?;
    for range in [
        [IOVA + 2048, PAGE, PAGE],
        [IOVA, PAGE + 2048, PAGE],
        [IOVA, PAGE, 0],
        [IOVA, 3 * PAGE, 2 * PAGE],
    ] {
        let answer = bound.bitmap(hwpt, 0, range, 0);
        refuses(&format!("{range:x?}"), answer, libc::EINVAL)?;
    }
    works(
        "by 8 KiB",
        bound.bitmap(hwpt, 0, [IOVA, 64 * PAGE, 2 * PAGE], 0),
    )
    .map(drop)
}

fn bitmap_past_the_end_of_addresses_overflows(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    let answer = bound.bitmap(hwpt, 0, [!(PAGE - 1), 2 * PAGE, PAGE], 0);
    refuses("GET", answer, libc::EOVERFLOW)
}

fn attached_page_table_stays(world: &World) -> Outcome {
    let (bound, hwpt) = tracked(world)?;
    let other = bound.alloc(DIRTY_TRACKING, bound.device, bound.ioas);
    let other = works("HWPT_ALLOC", other)?;
    refuses("DESTROY", bound.destroy(hwpt), libc::EBUSY)?;
    works("ATTACH", bound.attach(other))?;
    works("DESTROY", bound.destroy(hwpt))?;
    refuses("SET", bound.set_tracking(hwpt, 1), libc::ENOENT)?;
    refuses("DESTROY", bound.destroy(other), libc::EBUSY)
}
