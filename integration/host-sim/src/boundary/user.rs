// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that the caller of a system call points to.
//!
//! As the kernel's copy_from_user and copy_to_user, but a bad pointer above the first page is the caller's crash, not
//! `EFAULT`.

// Unsafe: follows the addresses that system calls are given.
#![allow(unsafe_code)]

use crate::vf::Errno;

/// Plain data that the kernel's interfaces pass.
///
/// # Safety
/// Every bit pattern must be a valid value.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty),* $(,)?) => { $(
        // SAFETY: integers, or a C structure of integers.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8, u16, u32, u64, i32);

fn check(address: usize) -> Result<(), Errno> {
    if address < 4096 {
        Err(Errno::EFAULT)
    } else {
        Ok(())
    }
}

/// Reads a value at `address`.
pub fn get<T: Plain>(address: usize) -> Result<T, Errno> {
    check(address)?;
    // SAFETY: the caller of the system call vouches for the address; any bits are a valid `T`.
    Ok(unsafe { (address as *const T).read_unaligned() })
}

/// Writes a value at `address`.
pub fn put<T: Plain>(address: usize, value: T) -> Result<(), Errno> {
    check(address)?;
    // SAFETY: as in `get`.
    unsafe { (address as *mut T).write_unaligned(value) };
    Ok(())
}

/// Copies bytes from `address`.
pub fn get_bytes(address: usize, buf: &mut [u8]) -> Result<(), Errno> {
    if buf.is_empty() {
        return Ok(());
    }
    check(address)?;
    // SAFETY: as in `get`; `copy` because the caller may have pointed into anything.
    unsafe { std::ptr::copy(address as *const u8, buf.as_mut_ptr(), buf.len()) };
    Ok(())
}

/// Copies bytes to `address`.
pub fn put_bytes(address: usize, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    check(address)?;
    // SAFETY: as in `get_bytes`.
    unsafe { std::ptr::copy(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    Ok(())
}

/// The string at `address`, at most a page long.
pub fn get_string(address: usize) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    for i in 0..4096 {
        match get::<u8>(address + i)? {
            0 => return String::from_utf8(bytes).map_err(|_| Errno::EINVAL),
            byte => bytes.push(byte),
        }
    }
    Err(Errno::EINVAL)
}

/// The caller's buffer of `len` bytes at `address`, to be filled.
///
/// # Errors
/// `EFAULT` for an address in the first page.
pub fn slice_mut<'a>(address: usize, len: usize) -> Result<&'a mut [u8], Errno> {
    if len == 0 {
        return Ok(&mut []);
    }
    check(address)?;
    // SAFETY: the caller of read() has lent the buffer for the time of the call.
    Ok(unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) })
}

/// The caller's `len` bytes at `address`.
///
/// # Errors
/// `EFAULT` for an address in the first page.
pub fn slice<'a>(address: usize, len: usize) -> Result<&'a [u8], Errno> {
    if len == 0 {
        return Ok(&[]);
    }
    check(address)?;
    // SAFETY: the caller of write() has lent the buffer for the time of the call.
    Ok(unsafe { std::slice::from_raw_parts(address as *const u8, len) })
}
