// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Functions that move bytes, map, or control.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::Arc;

use libc::{iovec, off_t, size_t, ssize_t};

use super::bytes;
use crate::boundary::object::{self, Object, Record};
use crate::boundary::vfio::{self, data, regions};
use crate::boundary::{kvm, next, sys};
use crate::vf::Errno;

fn is_data(object: &Object) -> bool {
    matches!(object.record(), Record::Data { .. })
}

/// Answers for an object, or does `real`.
pub(super) fn on<R>(fd: c_int, real: impl FnOnce() -> R, ours: impl FnOnce(Arc<Object>) -> R) -> R {
    match object::lookup(fd) {
        None => real(),
        Some(object) => ours(object),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn read(fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t {
    on(
        fd,
        || next::read(fd, buf, count),
        |o| bytes(data::read(&o, buf as usize, count)),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn write(fd: c_int, buf: *const c_void, count: size_t) -> ssize_t {
    on(
        fd,
        || next::write(fd, buf, count),
        |o| bytes(data::write(&o, buf as usize, count)),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    let ours = |o: Arc<Object>| {
        bytes(data::vectored(iov as usize, count, |base, len| {
            data::read(&o, base, len)
        }))
    };
    on(fd, || next::readv(fd, iov, count), ours)
}

#[unsafe(no_mangle)]
pub extern "C" fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    let ours = |o: Arc<Object>| {
        bytes(data::vectored(iov as usize, count, |base, len| {
            data::write(&o, base, len)
        }))
    };
    on(fd, || next::writev(fd, iov, count), ours)
}

#[unsafe(no_mangle)]
pub extern "C" fn __read_chk(fd: c_int, buf: *mut c_void, count: size_t, room: size_t) -> ssize_t {
    let ours = |o: Arc<Object>| bytes(data::read(&o, buf as usize, count.min(room)));
    on(fd, || next::__read_chk(fd, buf, count, room), ours)
}

fn pread_ours(object: &Object, buf: usize, count: usize, offset: off_t) -> Result<usize, Errno> {
    match object.record() {
        Record::Data { .. } => Err(Errno::ESPIPE),
        Record::Device { .. } => regions::pread(object, buf, count, offset),
        _ => Err(Errno::EINVAL),
    }
}

fn pwrite_ours(object: &Object, buf: usize, count: usize, offset: off_t) -> Result<usize, Errno> {
    match object.record() {
        Record::Data { .. } => Err(Errno::ESPIPE),
        Record::Device { .. } => regions::pwrite(object, buf, count, offset),
        _ => Err(Errno::EINVAL),
    }
}

macro_rules! positioned {
    ($($pread:ident $pwrite:ident $preadv:ident $pwritev:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $pread(fd: c_int, buf: *mut c_void, count: size_t, offset: off_t) -> ssize_t {
            let ours = |o: Arc<Object>| bytes(pread_ours(&o, buf as usize, count, offset));
            on(fd, || next::pread(fd, buf, count, offset), ours)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $pwrite(fd: c_int, buf: *const c_void, count: size_t, offset: off_t) -> ssize_t {
            let ours = |o: Arc<Object>| bytes(pwrite_ours(&o, buf as usize, count, offset));
            on(fd, || next::pwrite(fd, buf, count, offset), ours)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $preadv(fd: c_int, iov: *const iovec, count: c_int, offset: off_t) -> ssize_t {
            on(fd, || next::preadv(fd, iov, count, offset), |o| {
                let mut at = offset;
                bytes(data::vectored(iov as usize, count, |base, len| {
                    let moved = pread_ours(&o, base, len, at)?;
                    at += moved as off_t;
                    Ok(moved)
                }))
            })
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $pwritev(fd: c_int, iov: *const iovec, count: c_int, offset: off_t) -> ssize_t {
            on(fd, || next::pwritev(fd, iov, count, offset), |o| {
                let mut at = offset;
                bytes(data::vectored(iov as usize, count, |base, len| {
                    let moved = pwrite_ours(&o, base, len, at)?;
                    at += moved as off_t;
                    Ok(moved)
                }))
            })
        }
    )* };
}

positioned! {
    pread pwrite preadv pwritev
    pread64 pwrite64 preadv64 pwritev64
}

macro_rules! pread_chk {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, buf: *mut c_void, count: size_t, offset: off_t, room: size_t) -> ssize_t {
            let ours = |o: Arc<Object>| bytes(pread_ours(&o, buf as usize, count.min(room), offset));
            on(fd, || next::__pread_chk(fd, buf, count, offset, room), ours)
        }
    )* };
}

pread_chk! { __pread_chk __pread64_chk }

#[unsafe(no_mangle)]
pub extern "C" fn ioctl(fd: c_int, request: c_long, arg: usize) -> c_int {
    // FIONCLEX, FIOCLEX, FIONBIO, FIOASYNC, FIONREAD's kin are answered by the VFS for any fd.
    const VFS: [u32; 4] = [0x5450, 0x5451, 0x5421, 0x5452];
    let number = request as u32;
    let real = || {
        if kvm::is_ours(number) {
            kvm::ioctl(fd, number, request, arg)
        } else {
            next::ioctl(fd, request, arg)
        }
    };
    on(fd, real, |o| {
        if VFS.contains(&number) {
            return next::ioctl(fd, request, arg);
        }
        let answer = match o.record() {
            Record::KvmVfio => kvm::stand_in_ioctl(number, arg),
            _ => vfio::ioctl(&o, number, arg),
        };
        answer.unwrap_or_else(sys::fail)
    })
}

/// The access mode is looked at before the driver, which cannot map.
fn refuse_map(object: &Object, protection: c_int, flags: c_int) -> Errno {
    let shared = matches!(
        flags & libc::MAP_TYPE,
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE
    );
    match object.record() {
        Record::Data { save: false, .. } => Errno::EACCES,
        Record::Data { .. } if shared && protection & libc::PROT_WRITE != 0 => Errno::EACCES,
        _ => Errno::ENODEV,
    }
}

fn map(
    address: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let raw = |fd: c_int| {
        sys::call!(libc::SYS_mmap, address, len, protection, flags, fd, offset).map(|a| a as usize)
    };
    let answer = if fd < 0 || flags & libc::MAP_ANONYMOUS != 0 {
        raw(fd)
    } else {
        match object::lookup(fd) {
            None => raw(fd),
            Some(o) if matches!(o.record(), Record::Device { .. }) => {
                regions::mmap(&o, address as usize, len, protection, flags, offset)
            }
            Some(o) => Err(refuse_map(&o, protection, flags)),
        }
    };
    match answer {
        Ok(address) => address as *mut c_void,
        Err(errno) => {
            sys::fail(errno);
            libc::MAP_FAILED
        }
    }
}

// Straight to the kernel: an allocator may map before the dynamic linker can be asked for anything.
#[unsafe(no_mangle)]
pub extern "C" fn mmap(
    address: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    map(address, len, protection, flags, fd, offset)
}

#[unsafe(no_mangle)]
pub extern "C" fn mmap64(
    address: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    map(address, len, protection, flags, fd, offset)
}

macro_rules! lseek {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, offset: off_t, whence: c_int) -> off_t {
            on(fd, || next::lseek(fd, offset, whence), |_| off_t::from(sys::fail(Errno::ESPIPE)))
        }
    )* };
}

lseek! { lseek lseek64 }

#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    on(fd, || next::fsync(fd), |_| sys::fail(Errno::EINVAL))
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    on(fd, || next::fdatasync(fd), |_| sys::fail(Errno::EINVAL))
}

/// Whether one of two fds is ours: no copying inside the kernel then.
fn either(a: c_int, b: c_int) -> bool {
    object::lookup(a).is_some() || object::lookup(b).is_some()
}

#[unsafe(no_mangle)]
pub extern "C" fn splice(
    from: c_int,
    from_off: *mut off_t,
    to: c_int,
    to_off: *mut off_t,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    if either(from, to) {
        // An offset on a stream is refused first.
        let seeks = (!from_off.is_null() && object::lookup(from).is_some_and(|o| is_data(&o)))
            || (!to_off.is_null() && object::lookup(to).is_some_and(|o| is_data(&o)));
        return sys::fail(if seeks { Errno::ESPIPE } else { Errno::EINVAL }) as ssize_t;
    }
    next::splice(from, from_off, to, to_off, len, flags)
}

macro_rules! sendfile {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
            if either(out, input) {
                return sys::fail(Errno::EINVAL) as ssize_t;
            }
            next::sendfile(out, input, offset, count)
        }
    )* };
}

sendfile! { sendfile sendfile64 }

#[unsafe(no_mangle)]
pub extern "C" fn copy_file_range(
    from: c_int,
    from_off: *mut off_t,
    to: c_int,
    to_off: *mut off_t,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    if either(from, to) {
        return sys::fail(Errno::EINVAL) as ssize_t;
    }
    next::copy_file_range(from, from_off, to, to_off, len, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn epoll_ctl(
    epoll: c_int,
    op: c_int,
    fd: c_int,
    event: *mut libc::epoll_event,
) -> c_int {
    on(
        fd,
        || next::epoll_ctl(epoll, op, fd, event),
        |_| sys::fail(Errno::EPERM),
    )
}

super::table! {
    read, write, readv, writev, __read_chk, pread, pwrite, preadv, pwritev, pread64, pwrite64, preadv64, pwritev64,
    __pread_chk, __pread64_chk, ioctl, mmap, mmap64, lseek, lseek64, fsync, fdatasync, splice, sendfile, sendfile64,
    copy_file_range, epoll_ctl,
}
