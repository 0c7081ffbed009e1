// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Functions that take a path and open something.

use std::ffi::{CStr, c_char, c_int, c_void};

use libc::mode_t;

use crate::boundary::paths::{self, Place};
use crate::boundary::{hosts, next, object, sys, table, vfio};
use crate::vf::Errno;

/// Opens `path` by `real`, which is given the path to use.
fn open_at(path: *const c_char, flags: c_int, real: impl FnOnce(*const c_char) -> c_int) -> c_int {
    match paths::place(path) {
        Place::Elsewhere => {
            if let Some(own) = own_fd(path)
                && object::lookup(own).is_some_and(|o| super::files::is_anonymous(&o))
            {
                return sys::fail(Errno::ENXIO);
            }
            let fd = real(path);
            // A link of /proc/self/fd leads to whatever it leads to.
            if fd >= 0 && is_link_to_fd(path) {
                table::suspect(fd);
            }
            fd
        }
        Place::File(file) => real(file.as_ptr()),
        Place::Node(node) => {
            if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL {
                return sys::fail(Errno::EEXIST);
            }
            if flags & libc::O_DIRECTORY != 0 {
                return sys::fail(Errno(libc::ENOTDIR));
            }
            vfio::open(&node, flags).unwrap_or_else(sys::fail)
        }
    }
}

/// The descriptor of this process that `path` is a link to.
fn own_fd(path: *const c_char) -> Option<c_int> {
    if path.is_null() || !hosts::any() {
        return None;
    }
    // SAFETY: the caller of the system call passed a string.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let number = ["/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"]
        .iter()
        .find_map(|links| path.strip_prefix(links.as_bytes()))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn is_link_to_fd(path: *const c_char) -> bool {
    // SAFETY: a path that has just been opened is a string.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    path.starts_with(b"/proc/") || path.starts_with(b"/dev/fd/")
}

macro_rules! open {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            open_at(path, flags, |path| next::open(path, flags | LARGE, mode))
        }
    )* };
}

macro_rules! openat {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            open_at(path, flags, |path| next::openat(dir, path, flags | LARGE, mode))
        }
    )* };
}

/// All files are large here.
const LARGE: c_int = libc::O_LARGEFILE;

open! { open open64 }
openat! { openat openat64 }

macro_rules! open_2 {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(path: *const c_char, flags: c_int) -> c_int {
            open_at(path, flags, |path| next::open(path, flags | LARGE, 0))
        }
    )* };
}

macro_rules! openat_2 {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
            open_at(path, flags, |path| next::openat(dir, path, flags | LARGE, 0))
        }
    )* };
}

open_2! { __open_2 __open64_2 }
openat_2! { __openat_2 __openat64_2 }

/// Does `real` with the path where the file is; `None` for a device node.
fn elsewhere<R>(path: *const c_char, real: impl FnOnce(*const c_char) -> R) -> Option<R> {
    match paths::place(path) {
        Place::Elsewhere => Some(real(path)),
        Place::File(file) => Some(real(file.as_ptr())),
        Place::Node(_) => None,
    }
}

macro_rules! fopen {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(path: *const c_char, mode: *const c_char) -> *mut c_void {
            elsewhere(path, |path| next::fopen(path, mode)).unwrap_or_else(|| refuse(Errno::ENXIO))
        }
    )* };
}

fopen! { fopen fopen64 }

fn refuse(errno: Errno) -> *mut c_void {
    sys::fail(errno);
    std::ptr::null_mut()
}

#[unsafe(no_mangle)]
pub extern "C" fn opendir(path: *const c_char) -> *mut c_void {
    elsewhere(path, next::opendir).unwrap_or_else(|| refuse(Errno(libc::ENOTDIR)))
}

macro_rules! scandir {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(path: *const c_char, list: *mut c_void, filter: *mut c_void, order: *mut c_void) -> c_int {
            elsewhere(path, |path| next::scandir(path, list, filter, order))
                .unwrap_or_else(|| sys::fail(Errno(libc::ENOTDIR)))
        }
    )* };
}

scandir! { scandir scandir64 }

#[unsafe(no_mangle)]
pub extern "C" fn realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char {
    let target = match paths::place(path) {
        Place::File(file) => file,
        // A device node is no link.
        Place::Node(_) => match path_copy(path) {
            Some(path) => return answer(&path, resolved),
            None => return next::realpath(path, resolved),
        },
        Place::Elsewhere => return next::realpath(path, resolved),
    };
    let mut buffer = [0; libc::PATH_MAX as usize];
    let found = next::realpath(target.as_ptr(), buffer.as_mut_ptr());
    if found.is_null() {
        return found;
    }
    // SAFETY: realpath has put a string there.
    let real = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_bytes();
    answer(
        &paths::visible(real).unwrap_or_else(|| real.to_vec()),
        resolved,
    )
}

fn path_copy(path: *const c_char) -> Option<Vec<u8>> {
    // SAFETY: a path that was looked at is a string.
    (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) }.to_bytes().to_vec())
}

/// Puts `path` where the caller of realpath wants it.
fn answer(path: &[u8], resolved: *mut c_char) -> *mut c_char {
    let size = path.len() + 1;
    // SAFETY: the caller's buffer has PATH_MAX bytes, or there is none and one is allocated that the caller frees.
    unsafe {
        let to = if resolved.is_null() {
            libc::malloc(size).cast::<c_char>()
        } else {
            resolved
        };
        if !to.is_null() {
            std::ptr::copy_nonoverlapping(path.as_ptr().cast(), to, path.len());
            *to.add(path.len()) = 0;
        }
        to
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn __realpath_chk(
    path: *const c_char,
    resolved: *mut c_char,
    _room: usize,
) -> *mut c_char {
    realpath(path, resolved)
}

super::table! {
    open, open64, openat, openat64, __open_2, __open64_2, __openat_2, __openat64_2, fopen, fopen64, opendir, scandir,
    scandir64, realpath, __realpath_chk,
}
