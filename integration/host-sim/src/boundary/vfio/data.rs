// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The migration data fd: a stream in one direction, and a fixed errno for everything else.

use std::ffi::c_int;

use crate::boundary::object::{self, Object};
use crate::boundary::user;
use crate::vf::Errno;

/// read() into `len` bytes at `buf`.
pub fn read(object: &Object, buf: usize, len: usize) -> Result<usize, Errno> {
    let (vf, session, save) = object::session(&object.record()).ok_or(Errno::EINVAL)?;
    if !save {
        return Err(Errno::EBADF);
    }
    object
        .host
        .vf(vf)?
        .vf
        .data_read(session, user::slice_mut(buf, clamp(len))?)
}

/// write() of `len` bytes at `buf`.
pub fn write(object: &Object, buf: usize, len: usize) -> Result<usize, Errno> {
    let (vf, session, save) = object::session(&object.record()).ok_or(Errno::EINVAL)?;
    if save {
        return Err(Errno::EBADF);
    }
    object
        .host
        .vf(vf)?
        .vf
        .data_write(session, user::slice(buf, clamp(len))?)
}

/// Most bytes of one read or write (MAX_RW_COUNT).
fn clamp(len: usize) -> usize {
    len.min(0x7fff_f000)
}

/// readv() and writev(): one call of `each` per element, until one moves less than was asked for.
pub fn vectored(
    iov: usize,
    count: c_int,
    mut each: impl FnMut(usize, usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count > 1024 {
        return Err(Errno::EINVAL);
    }
    let mut total = 0;
    for i in 0..count {
        let (base, len) = (
            user::get::<u64>(iov + 16 * i)?,
            user::get::<u64>(iov + 16 * i + 8)?,
        );
        match each(base as usize, len as usize) {
            Ok(moved) => {
                total += moved;
                if moved < len as usize {
                    break;
                }
            }
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}
