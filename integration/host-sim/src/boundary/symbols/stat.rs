// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Functions that tell about files: device nodes are character devices, our fds are what the kernel's would be.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};

use libc::ssize_t;

use crate::boundary::lock::c_path;
use crate::boundary::object::{self, Object, Record, Via};
use crate::boundary::paths::{self, Node, Place};
use crate::boundary::{hosts, next, sys, sysfs};
use crate::vf::Errno;

/// (mode, major and minor of the device) that stat says of an fd.
fn of_object(object: &Object) -> (u32, (u32, u32)) {
    const NODE: u32 = libc::S_IFCHR | 0o600;
    let number =
        |vf: u16, of: fn(&crate::vf::Vf) -> u32| object.host.vf(vf).map_or(0, |v| of(&v.vf));
    match object.record() {
        Record::Container { .. } => (NODE, (sysfs::MISC_MAJOR, sysfs::CONTAINER_MINOR)),
        Record::Iommufd { .. } => (NODE, (sysfs::MISC_MAJOR, sysfs::IOMMU_MINOR)),
        Record::Group { vf, .. } => (
            NODE,
            (sysfs::GROUP_MAJOR, number(vf, crate::vf::Vf::group_id)),
        ),
        Record::Device {
            vf, via: Via::Cdev, ..
        } => (
            NODE,
            (sysfs::CDEV_MAJOR, number(vf, crate::vf::Vf::cdev_index)),
        ),
        // Anonymous inodes have no type.
        Record::Device { .. } | Record::Data { .. } | Record::KvmVfio => (0o600, (0, 0)),
    }
}

fn fill(buf: *mut libc::stat, mode: u32, number: (u32, u32)) {
    // SAFETY: the kernel, or `stat_node` below, has accepted the caller's buffer.
    unsafe {
        (*buf).st_mode = mode;
        (*buf).st_rdev = libc::makedev(number.0, number.1);
        (*buf).st_size = 0;
        (*buf).st_blocks = 0;
    }
}

fn fill_statx(buf: *mut libc::statx, mode: u32, number: (u32, u32)) {
    // SAFETY: as in `fill`.
    unsafe {
        (*buf).stx_mode = mode as u16;
        (*buf).stx_rdev_major = number.0;
        (*buf).stx_rdev_minor = number.1;
        (*buf).stx_size = 0;
        (*buf).stx_blocks = 0;
    }
}

fn kernel_fstatat(dir: c_int, path: *const c_char, buf: *mut libc::stat, flags: c_int) -> c_int {
    sys::call!(libc::SYS_newfstatat, dir, path, buf, flags).map_or(-1, |_| 0)
}

/// The file that stands for a node in its host's tree.
fn placeholder(node: &Node) -> Option<CString> {
    let common = || hosts::all().find(|h| sys::exists(&c_path(&h.dir.join("dev"))));
    let (host, name) = match node {
        Node::Container => (common()?, "dev/vfio/vfio".to_owned()),
        Node::Iommufd => (common()?, "dev/iommu".to_owned()),
        Node::Group(host, vf) => (
            host,
            format!("dev/vfio/{}", host.vf(*vf).ok()?.vf.group_id()),
        ),
        Node::Cdev(host, vf) => (
            host,
            format!(
                "dev/vfio/devices/vfio{}",
                host.vf(*vf).ok()?.vf.cdev_index()
            ),
        ),
    };
    CString::new(format!("{}/{name}", host.dir.display())).ok()
}

fn is_empty(path: *const c_char) -> bool {
    // SAFETY: a path that is not null is a string.
    path.is_null() || unsafe { *path } == 0
}

fn stat_at(dir: c_int, path: *const c_char, buf: *mut libc::stat, flags: c_int) -> c_int {
    if flags & libc::AT_EMPTY_PATH != 0 && is_empty(path) {
        let answer = kernel_fstatat(dir, path, buf, flags);
        return with_fd(dir, buf, answer);
    }
    match paths::place(path) {
        Place::Elsewhere => kernel_fstatat(dir, path, buf, flags),
        Place::File(file) => kernel_fstatat(dir, file.as_ptr(), buf, flags),
        Place::Node(node) => {
            let Some(file) = placeholder(&node) else {
                return sys::fail(Errno::ENOENT);
            };
            let answer = kernel_fstatat(libc::AT_FDCWD, file.as_ptr(), buf, 0);
            if answer == 0 {
                fill(buf, libc::S_IFCHR | 0o600, node.number());
            }
            answer
        }
    }
}

fn with_fd(fd: c_int, buf: *mut libc::stat, answer: c_int) -> c_int {
    if answer == 0
        && let Some(object) = object::lookup(fd)
    {
        let (mode, number) = of_object(&object);
        fill(buf, mode, number);
    }
    answer
}

fn stat_fd(fd: c_int, buf: *mut libc::stat) -> c_int {
    let answer = sys::call!(libc::SYS_fstat, fd, buf).map_or(-1, |_| 0);
    with_fd(fd, buf, answer)
}

macro_rules! stat {
    ($($fstat:ident $stat:ident $lstat:ident $fstatat:ident $fxstat:ident $xstat:ident $lxstat:ident $fxstatat:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $fstat(fd: c_int, buf: *mut libc::stat) -> c_int {
            stat_fd(fd, buf)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $stat(path: *const c_char, buf: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, buf, 0)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $lstat(path: *const c_char, buf: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, buf, libc::AT_SYMLINK_NOFOLLOW)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $fstatat(dir: c_int, path: *const c_char, buf: *mut libc::stat, flags: c_int) -> c_int {
            stat_at(dir, path, buf, flags)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $fxstat(_version: c_int, fd: c_int, buf: *mut libc::stat) -> c_int {
            stat_fd(fd, buf)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $xstat(_version: c_int, path: *const c_char, buf: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, buf, 0)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $lxstat(_version: c_int, path: *const c_char, buf: *mut libc::stat) -> c_int {
            stat_at(libc::AT_FDCWD, path, buf, libc::AT_SYMLINK_NOFOLLOW)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $fxstatat(_version: c_int, dir: c_int, path: *const c_char, buf: *mut libc::stat, flags: c_int) -> c_int {
            stat_at(dir, path, buf, flags)
        }
    )* };
}

stat! {
    fstat stat lstat fstatat __fxstat __xstat __lxstat __fxstatat
    fstat64 stat64 lstat64 fstatat64 __fxstat64 __xstat64 __lxstat64 __fxstatat64
}

#[unsafe(no_mangle)]
pub extern "C" fn statx(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    buf: *mut libc::statx,
) -> c_int {
    let kernel = |dir: c_int, path: *const c_char, flags: c_int| {
        sys::call!(libc::SYS_statx, dir, path, flags, mask, buf).map_or(-1, |_| 0)
    };
    if flags & libc::AT_EMPTY_PATH != 0 && is_empty(path) {
        let answer = kernel(dir, path, flags);
        if answer == 0
            && let Some(object) = object::lookup(dir)
        {
            let (mode, number) = of_object(&object);
            fill_statx(buf, mode, number);
        }
        return answer;
    }
    match paths::place(path) {
        Place::Elsewhere => kernel(dir, path, flags),
        Place::File(file) => kernel(dir, file.as_ptr(), flags),
        Place::Node(node) => {
            let Some(file) = placeholder(&node) else {
                return sys::fail(Errno::ENOENT);
            };
            let answer = kernel(libc::AT_FDCWD, file.as_ptr(), 0);
            if answer == 0 {
                fill_statx(buf, libc::S_IFCHR | 0o600, node.number());
            }
            answer
        }
    }
}

/// A path that only has to be somewhere else; a node becomes the file that stands for it.
fn redirect(path: *const c_char, call: impl FnOnce(*const c_char) -> c_int) -> c_int {
    match paths::place(path) {
        Place::Elsewhere => call(path),
        Place::File(file) => call(file.as_ptr()),
        Place::Node(node) => match placeholder(&node) {
            Some(file) => call(file.as_ptr()),
            None => sys::fail(Errno::ENOENT),
        },
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    redirect(path, |path| next::access(path, mode))
}

#[unsafe(no_mangle)]
pub extern "C" fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
    redirect(path, |path| {
        let answer = if flags == 0 {
            sys::call!(libc::SYS_faccessat, dir, path, mode)
        } else {
            sys::call!(libc::SYS_faccessat2, dir, path, mode, flags)
        };
        answer.map_or(-1, |_| 0)
    })
}

fn read_link(dir: c_int, path: *const c_char, buf: *mut c_char, room: usize) -> ssize_t {
    // The call that the program would have made: its seccomp filter need not know the other.
    let kernel = |path: *const c_char| match dir {
        libc::AT_FDCWD => next::readlink(path, buf, room),
        _ => sys::call!(libc::SYS_readlinkat, dir, path, buf, room).map_or(-1, |n| n as ssize_t),
    };
    match paths::place(path) {
        Place::Elsewhere => link_to_fd(path, buf, room).unwrap_or_else(|| kernel(path)),
        Place::File(file) => kernel(file.as_ptr()),
        Place::Node(_) => sys::fail(Errno::EINVAL) as ssize_t,
    }
}

/// A link of /proc/self/fd to one of our fds says what the kernel's would.
fn link_to_fd(path: *const c_char, buf: *mut c_char, room: usize) -> Option<ssize_t> {
    if is_empty(path) || !hosts::any() {
        return None;
    }
    // SAFETY: a path that is not null is a string.
    let path = unsafe { CStr::from_ptr(path) }.to_str().ok()?;
    let fd: c_int = path.strip_prefix("/proc/self/fd/")?.parse().ok()?;
    let object = object::lookup(fd)?;
    let vf = |vf: u16| object.host.vf(vf).ok();
    let text = match object.record() {
        Record::Container { .. } => "/dev/vfio/vfio".to_owned(),
        Record::Iommufd { .. } => "/dev/iommu".to_owned(),
        Record::Group { vf: index, .. } => format!("/dev/vfio/{}", vf(index)?.vf.group_id()),
        Record::Device {
            vf: index,
            via: Via::Cdev,
            ..
        } => format!("/dev/vfio/devices/vfio{}", vf(index)?.vf.cdev_index()),
        Record::Device { .. } => "anon_inode:[vfio-device]".to_owned(),
        Record::Data { .. } => "anon_inode:vfio-xe-migration".to_owned(),
        Record::KvmVfio => "anon_inode:kvm-vfio".to_owned(),
    };
    let len = text.len().min(room);
    // SAFETY: the caller's buffer has `room` bytes.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buf, len) };
    Some(len as ssize_t)
}

#[unsafe(no_mangle)]
pub extern "C" fn readlink(path: *const c_char, buf: *mut c_char, room: usize) -> ssize_t {
    read_link(libc::AT_FDCWD, path, buf, room)
}

#[unsafe(no_mangle)]
pub extern "C" fn readlinkat(
    dir: c_int,
    path: *const c_char,
    buf: *mut c_char,
    room: usize,
) -> ssize_t {
    read_link(dir, path, buf, room)
}

#[unsafe(no_mangle)]
pub extern "C" fn __readlink_chk(
    path: *const c_char,
    buf: *mut c_char,
    len: usize,
    room: usize,
) -> ssize_t {
    read_link(libc::AT_FDCWD, path, buf, len.min(room))
}

super::table! {
    fstat, stat, lstat, fstatat, __fxstat, __xstat, __lxstat, __fxstatat, fstat64, stat64, lstat64, fstatat64, __fxstat64,
    __xstat64, __lxstat64, __fxstatat64, statx, access, faccessat, readlink, readlinkat, __readlink_chk,
}
