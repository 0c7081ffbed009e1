// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Functions for files of a file system: what is ours is none, so they never reach the file that stands for it.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use libc::{gid_t, iovec, mode_t, off_t, size_t, ssize_t, uid_t};

use super::io::on;
use crate::boundary::object::{Object, Record, Via};
use crate::boundary::{next, sys};
use crate::vf::Errno;

/// Whether `object` has no device node.
pub fn is_anonymous(object: &Object) -> bool {
    matches!(
        object.record(),
        Record::Data { .. }
            | Record::KvmVfio
            | Record::Device {
                via: Via::Group,
                ..
            }
    )
}

/// Whether `fd` is open for one of `modes`.
fn is_open_for(fd: c_int, modes: [c_int; 2]) -> bool {
    sys::call!(libc::SYS_fcntl, fd, libc::F_GETFL, 0)
        .is_ok_and(|flags| modes.contains(&(flags as c_int & libc::O_ACCMODE)))
}

const WRITABLE: [c_int; 2] = [libc::O_WRONLY, libc::O_RDWR];
const READABLE: [c_int; 2] = [libc::O_RDONLY, libc::O_RDWR];

macro_rules! ftruncate {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, size: off_t) -> c_int {
            on(fd, || next::ftruncate(fd, size), |_| sys::fail(Errno::EINVAL))
        }
    )* };
}

ftruncate! { ftruncate ftruncate64 }

/// As vfs_fallocate: the arguments, the access mode, then what kind of file it is.
fn refuse_fallocate(fd: c_int, offset: off_t, len: off_t) -> Errno {
    if offset < 0 || len <= 0 {
        Errno::EINVAL
    } else if is_open_for(fd, WRITABLE) {
        Errno::ENODEV
    } else {
        Errno::EBADF
    }
}

macro_rules! fallocate {
    ($($name:ident $posix:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int {
            let ours = |_| sys::fail(refuse_fallocate(fd, offset, len));
            on(fd, || next::fallocate(fd, mode, offset, len), ours)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $posix(fd: c_int, offset: off_t, len: off_t) -> c_int {
            let ours = |_| refuse_fallocate(fd, offset, len).0;
            on(fd, || next::posix_fallocate(fd, offset, len), ours)
        }
    )* };
}

fallocate! { fallocate posix_fallocate fallocate64 posix_fallocate64 }

/// An inode without a name has no attributes to change; those of a node are none of a VMM's business.
fn unchanged(object: &Object) -> c_int {
    if is_anonymous(object) {
        sys::fail(Errno::EOPNOTSUPP)
    } else {
        0
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn fchmod(fd: c_int, mode: mode_t) -> c_int {
    on(fd, || next::fchmod(fd, mode), |o| unchanged(&o))
}

#[unsafe(no_mangle)]
pub extern "C" fn fchown(fd: c_int, user: uid_t, group: gid_t) -> c_int {
    on(fd, || next::fchown(fd, user, group), |o| unchanged(&o))
}

#[unsafe(no_mangle)]
pub extern "C" fn fsetxattr(
    fd: c_int,
    name: *const c_char,
    value: *const c_void,
    size: size_t,
    flags: c_int,
) -> c_int {
    let ours = |_| {
        if name.is_null() {
            return sys::fail(Errno::EFAULT);
        }
        // SAFETY: the caller passed a string.
        let users = unsafe { CStr::from_ptr(name) }
            .to_bytes()
            .starts_with(b"user.");
        sys::fail(if users {
            Errno::EPERM
        } else {
            Errno::EOPNOTSUPP
        })
    };
    on(fd, || next::fsetxattr(fd, name, value, size, flags), ours)
}

/// The lock of the file tells who is alive, so the program's own locks stay away from it. Nobody else could have locked what
/// the fd is, as far as one program can tell.
#[unsafe(no_mangle)]
pub extern "C" fn flock(fd: c_int, operation: c_int) -> c_int {
    let ours = |_| match operation & !libc::LOCK_NB {
        libc::LOCK_SH | libc::LOCK_EX | libc::LOCK_UN => 0,
        _ => sys::fail(Errno::EINVAL),
    };
    on(fd, || next::flock(fd, operation), ours)
}

#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, offset: off_t, len: off_t, flags: c_uint) -> c_int {
    let ours = |_| sys::fail(Errno::ESPIPE);
    on(fd, || next::sync_file_range(fd, offset, len, flags), ours)
}

#[unsafe(no_mangle)]
pub extern "C" fn readahead(fd: c_int, offset: off_t, count: size_t) -> ssize_t {
    let ours = |_| {
        let readable = is_open_for(fd, READABLE);
        sys::fail(if readable {
            Errno::EINVAL
        } else {
            Errno::EBADF
        }) as ssize_t
    };
    on(fd, || next::readahead(fd, offset, count), ours)
}

/// The flags that a driver without read_iter and write_iter can do without knowing them.
const HARMLESS: c_int = libc::RWF_HIPRI;

macro_rules! vectored2 {
    ($($name:ident $next:ident $plain:ident $positioned:ident $modes:ident;)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
            on(fd, || next::$next(fd, iov, count, offset, flags), |o| {
                if offset != -1 && matches!(o.record(), Record::Data { .. }) {
                    return sys::fail(Errno::ESPIPE) as ssize_t;
                }
                if !is_open_for(fd, $modes) {
                    return sys::fail(Errno::EBADF) as ssize_t;
                }
                match (flags & !HARMLESS, offset) {
                    (0, -1) => super::io::$plain(fd, iov, count),
                    (0, _) => super::io::$positioned(fd, iov, count, offset),
                    _ => sys::fail(Errno::EOPNOTSUPP) as ssize_t,
                }
            })
        }
    )* };
}

vectored2! {
    preadv2 preadv2 readv preadv READABLE;
    preadv64v2 preadv2 readv preadv READABLE;
    pwritev2 pwritev2 writev pwritev WRITABLE;
    pwritev64v2 pwritev2 writev pwritev WRITABLE;
}

super::table! {
    ftruncate, ftruncate64, fallocate, fallocate64, posix_fallocate, posix_fallocate64, fchmod, fchown, fsetxattr, flock,
    sync_file_range, readahead, preadv2, preadv64v2, pwritev2, pwritev64v2,
}
