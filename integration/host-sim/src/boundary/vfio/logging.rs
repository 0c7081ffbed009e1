// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA_LOGGING_START and REPORT: the core's part (drivers/vfio/vfio_main.c) in front of the device's log.

use crate::boundary::bitmap::Bitmap;
use crate::boundary::user;
use crate::host::LOG_MOST_RANGES;
use crate::vf::{Errno, Vf};

/// Bytes of `struct vfio_device_feature_dma_logging_control` and `_report`.
pub const CONTROL: u32 = 24;
pub const REPORT: u32 = 32;

/// Offset of `page_size` in the control.
const PAGE_SIZE: usize = 0;

/// DMA_LOGGING_START with the control structure at `arg`; the granularity that the device takes is written back there.
pub fn start(vf: &Vf, arg: usize) -> Result<(), Errno> {
    let page = user::get::<u64>(arg + PAGE_SIZE)?;
    let count = user::get::<u32>(arg + 8)?;
    let list = user::get::<u64>(arg + 16)? as usize;
    match count {
        0 => return Err(Errno::EINVAL),
        // They have to fit into a page of the kernel's.
        n if n > LOG_MOST_RANGES => return Err(Errno::E2BIG),
        _ => {}
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for at in (0..count as usize).map(|i| list.wrapping_add(16 * i)) {
        let (iova, len) = (user::get::<u64>(at)?, user::get::<u64>(at + 8)?);
        if (iova | len) & page.wrapping_sub(1) != 0 {
            return Err(Errno::EINVAL);
        }
        if iova.checked_add(len).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        let last = match len {
            0 => return Err(Errno::EINVAL),
            len => iova + (len - 1),
        };
        let place = ranges.partition_point(|r| r.1 < iova);
        if ranges.get(place).is_some_and(|r| r.0 <= last) {
            return Err(Errno::EINVAL);
        }
        ranges.insert(place, (iova, last));
    }
    let taken = vf.dma_log_start(page, ranges)?;
    user::put(arg + PAGE_SIZE, taken)
}

/// DMA_LOGGING_REPORT with the report structure at `arg`: bits are set in the caller's bitmap, none is cleared.
pub fn report(vf: &Vf, arg: usize) -> Result<(), Errno> {
    let [iova, len, page, data] = [
        user::get::<u64>(arg)?,
        user::get(arg + 8)?,
        user::get(arg + 16)?,
        user::get(arg + 24)?,
    ];
    if page < 4096 || !page.is_power_of_two() {
        return Err(Errno::EINVAL);
    }
    if iova.checked_add(len).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    // The kernel takes it for the whole address space and finds no such bitmap.
    if len == 0 {
        return Err(Errno::EFAULT);
    }
    let last = iova + (len - 1);
    let bitmap = Bitmap::new(data, iova, last, page.ilog2())?;
    let mut result = Ok(());
    vf.dma_log_take(iova, last, |(first, last)| {
        if result.is_ok() {
            result = bitmap.set(first, last);
        }
    })?;
    result
}
