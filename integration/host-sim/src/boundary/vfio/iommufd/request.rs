// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The structure of a request, as iommufd's main.c copies it.

use crate::boundary::user;
use crate::vf::Errno;

/// Most bytes of a structure.
const MOST: usize = 48;

/// A request's structure: fields of the caller's, zero where it is shorter than ours.
pub struct Request {
    arg: usize,
    len: usize,
    bytes: [u8; MOST],
}

/// (least, known) bytes of each request's structure.
fn sizes(request: u32) -> Option<(usize, usize)> {
    match request {
        0x3b80 => Some((8, 8)),
        0x3b81 | 0x3b88 => Some((12, 12)),
        0x3b82 | 0x3b86 | 0x3b87 => Some((24, 24)),
        0x3b83 | 0x3b85 | 0x3b8f => Some((40, 40)),
        0x3b84 => Some((32, 32)),
        0x3b89 => Some((24, 48)),
        0x3b8a => Some((32, 40)),
        0x3b8b => Some((16, 16)),
        0x3b8c => Some((48, 48)),
        _ => None,
    }
}

impl Request {
    /// Copies the structure of request `number` at `arg`.
    ///
    /// # Errors
    /// `ENOTTY` for an unknown number, `EINVAL` for a structure that is too short, `E2BIG` for one that is longer than known
    /// and not zero there.
    pub fn read(number: u32, arg: usize) -> Result<Self, Errno> {
        let (least, known) = sizes(number).ok_or(Errno::ENOTTY)?;
        let size = user::get::<u32>(arg)? as usize;
        if size < least {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; MOST];
        let len = size.min(known);
        user::get_bytes(arg, &mut bytes[..len])?;
        for at in known..size.min(known + 4096) {
            if user::get::<u8>(arg + at)? != 0 {
                return Err(Errno::E2BIG);
            }
        }
        Ok(Self { arg, len, bytes })
    }

    /// The word at byte `at`.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    /// The double word at byte `at`.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Writes an answer at byte `at`, when the caller's structure reaches that far.
    pub fn put<T: user::Plain>(&self, at: usize, value: T) -> Result<(), Errno> {
        if at + size_of::<T>() <= self.len {
            user::put(self.arg + at, value)
        } else {
            Ok(())
        }
    }
}
