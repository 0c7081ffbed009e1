// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests of an iommufd.

use crate::common::ioctl;

/// A request's structure: its words, sized by their number.
pub fn call(fd: i32, number: u32, words: &mut [u32]) -> Result<(), i32> {
    words[0] = (words.len() * 4) as u32;
    ioctl(fd, number, &mut words[0]).map(drop)
}

/// IOAS_ALLOC; the id.
pub fn alloc(iommufd: i32) -> u32 {
    let mut words = [0, 0, 0];
    call(iommufd, 0x3b81, &mut words).expect("IOAS_ALLOC");
    words[2]
}

/// The words of a double word.
pub fn split(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// IOAS_MAP; the IOVA.
pub fn map(
    iommufd: i32,
    flags: u32,
    ioas: u32,
    address: u64,
    len: u64,
    iova: u64,
) -> Result<u64, i32> {
    let mut words = [
        [0, flags],
        [ioas, 0],
        split(address),
        split(len),
        split(iova),
    ]
    .concat();
    call(iommufd, 0x3b85, &mut words)?;
    Ok(u64::from(words[8]) | u64::from(words[9]) << 32)
}

/// IOAS_UNMAP; bytes unmapped.
pub fn unmap(iommufd: i32, ioas: u32, iova: u64, len: u64) -> Result<u64, i32> {
    let mut words = [[0, ioas], split(iova), split(len)].concat();
    call(iommufd, 0x3b86, &mut words)?;
    Ok(u64::from(words[4]) | u64::from(words[5]) << 32)
}
