// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The functions that this crate stands in front of, as the next object in the process has them.
//!
//! Resolved on first use with `dlsym(RTLD_NEXT)`; every argument is passed on as it came.

// Unsafe: calls C functions by the address that dlsym answers.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{mode_t, msghdr, off_t, size_t, ssize_t};

fn resolve(slot: &AtomicPtr<c_void>, name: &'static str) -> *mut c_void {
    let known = slot.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: `name` ends in a NUL byte.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast()) };
    if found.is_null() {
        // SAFETY: ends the process; going on without the function is not possible.
        unsafe { libc::abort() };
    }
    slot.store(found, Ordering::Relaxed);
    found
}

macro_rules! next {
    ($($name:ident ( $($arg:ident : $type:ty),* ) -> $ret:ty;)*) => { $(
        pub fn $name($($arg: $type),*) -> $ret {
            static SLOT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
            let found = resolve(&SLOT, concat!(stringify!($name), "\0"));
            // SAFETY: the C library's function of this name has this signature (the variadic ones take their third
            // argument in the same register), and whoever called our symbol answers for the arguments.
            unsafe {
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $ret>(found)($($arg),*)
            }
        }
    )* };
}

next! {
    open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    close(fd: c_int) -> c_int;
    ioctl(fd: c_int, request: c_long, arg: usize) -> c_int;
    read(fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t;
    write(fd: c_int, buf: *const c_void, count: size_t) -> ssize_t;
    readv(fd: c_int, iov: *const libc::iovec, count: c_int) -> ssize_t;
    writev(fd: c_int, iov: *const libc::iovec, count: c_int) -> ssize_t;
    pread(fd: c_int, buf: *mut c_void, count: size_t, offset: off_t) -> ssize_t;
    pwrite(fd: c_int, buf: *const c_void, count: size_t, offset: off_t) -> ssize_t;
    preadv(fd: c_int, iov: *const libc::iovec, count: c_int, offset: off_t) -> ssize_t;
    pwritev(fd: c_int, iov: *const libc::iovec, count: c_int, offset: off_t) -> ssize_t;
    __read_chk(fd: c_int, buf: *mut c_void, count: size_t, room: size_t) -> ssize_t;
    __pread_chk(fd: c_int, buf: *mut c_void, count: size_t, offset: off_t, room: size_t) -> ssize_t;
    fcntl(fd: c_int, command: c_int, arg: usize) -> c_int;
    dup(fd: c_int) -> c_int;
    dup2(old: c_int, new: c_int) -> c_int;
    dup3(old: c_int, new: c_int, flags: c_int) -> c_int;
    lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t;
    fsync(fd: c_int) -> c_int;
    fdatasync(fd: c_int) -> c_int;
    ftruncate(fd: c_int, size: off_t) -> c_int;
    fallocate(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int;
    posix_fallocate(fd: c_int, offset: off_t, len: off_t) -> c_int;
    fchmod(fd: c_int, mode: mode_t) -> c_int;
    fchown(fd: c_int, user: libc::uid_t, group: libc::gid_t) -> c_int;
    fsetxattr(fd: c_int, name: *const c_char, value: *const c_void, size: size_t, flags: c_int) -> c_int;
    flock(fd: c_int, operation: c_int) -> c_int;
    sync_file_range(fd: c_int, offset: off_t, len: off_t, flags: c_uint) -> c_int;
    readahead(fd: c_int, offset: off_t, count: size_t) -> ssize_t;
    preadv2(fd: c_int, iov: *const libc::iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t;
    pwritev2(fd: c_int, iov: *const libc::iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t;
    splice(from: c_int, from_off: *mut off_t, to: c_int, to_off: *mut off_t, len: size_t, flags: c_uint) -> ssize_t;
    sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t;
    copy_file_range(from: c_int, from_off: *mut off_t, to: c_int, to_off: *mut off_t, len: size_t, flags: c_uint) -> ssize_t;
    epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut libc::epoll_event) -> c_int;
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    recvmmsg(fd: c_int, messages: *mut libc::mmsghdr, count: c_uint, flags: c_int, timeout: *mut libc::timespec) -> c_int;
    access(path: *const c_char, mode: c_int) -> c_int;
    readlink(path: *const c_char, buf: *mut c_char, room: size_t) -> ssize_t;
    fopen(path: *const c_char, mode: *const c_char) -> *mut c_void;
    opendir(path: *const c_char) -> *mut c_void;
    scandir(path: *const c_char, list: *mut c_void, filter: *mut c_void, order: *mut c_void) -> c_int;
    realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char;
}
