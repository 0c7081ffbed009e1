// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls that the boundary makes for itself, past every symbol of the process.

// Unsafe: raw system calls.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString, c_int};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::vf::Errno;

/// Makes a system call with up to six integer arguments.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {
        // SAFETY: each use passes descriptors by value and pointers to live, large enough buffers.
        crate::boundary::sys::result(unsafe {
            libc::syscall($number $(, crate::boundary::sys::Argument::widen($arg))*)
        })
    };
}
pub(crate) use call;

/// An argument of a system call, as wide as a register: the kernel looks at all of it.
pub trait Argument {
    /// The register's content.
    fn widen(self) -> i64;
}

macro_rules! argument {
    ($($t:ty),*) => { $(
        impl Argument for $t {
            fn widen(self) -> i64 {
                self as i64
            }
        }
    )* };
}

argument!(i32, u32, i64, u64, usize);

impl<T> Argument for *const T {
    fn widen(self) -> i64 {
        self as i64
    }
}

impl<T> Argument for *mut T {
    fn widen(self) -> i64 {
        self as i64
    }
}

/// Turns the C library's answer into a result.
pub fn result(answer: i64) -> Result<i64, Errno> {
    if answer == -1 {
        Err(Errno::last())
    } else {
        Ok(answer)
    }
}

/// Sets errno and answers -1, as a failed system call does.
pub fn fail(errno: Errno) -> c_int {
    // SAFETY: the C library's errno of this thread is always there.
    unsafe { *libc::__errno_location() = errno.0 };
    -1
}

pub fn open(path: &CStr, flags: c_int, mode: u32) -> Result<c_int, Errno> {
    call!(
        libc::SYS_openat,
        libc::AT_FDCWD,
        path.as_ptr(),
        flags | libc::O_CLOEXEC,
        mode
    )
    .map(|fd| fd as c_int)
}

/// As [`open`], with the flags as they are.
pub fn open_exactly(path: &CStr, flags: c_int) -> Result<c_int, Errno> {
    call!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0).map(|fd| fd as c_int)
}

pub fn close(fd: c_int) {
    let _ = call!(libc::SYS_close, fd);
}

pub fn fstat(fd: c_int) -> Result<libc::stat, Errno> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    call!(libc::SYS_fstat, fd, stat.as_mut_ptr())?;
    // SAFETY: zeroed, then filled by the kernel; every bit pattern of it is valid.
    Ok(unsafe { stat.assume_init() })
}

pub fn stat_path(path: &CStr) -> Result<libc::stat, Errno> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    call!(
        libc::SYS_newfstatat,
        libc::AT_FDCWD,
        path.as_ptr(),
        stat.as_mut_ptr(),
        0
    )?;
    // SAFETY: as in `fstat`.
    Ok(unsafe { stat.assume_init() })
}

/// Whether anything is at `path`, a dangling link included.
pub fn exists(path: &CStr) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    call!(
        libc::SYS_newfstatat,
        libc::AT_FDCWD,
        path.as_ptr(),
        stat.as_mut_ptr(),
        libc::AT_SYMLINK_NOFOLLOW
    )
    .is_ok()
}

pub fn pread(fd: c_int, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    call!(libc::SYS_pread64, fd, buf.as_mut_ptr(), buf.len(), offset).map(|n| n as usize)
}

pub fn pwrite(fd: c_int, buf: &[u8], offset: u64) -> Result<usize, Errno> {
    call!(libc::SYS_pwrite64, fd, buf.as_ptr(), buf.len(), offset).map(|n| n as usize)
}

pub fn ftruncate(fd: c_int, size: u64) -> Result<(), Errno> {
    call!(libc::SYS_ftruncate, fd, size).map(drop)
}

/// Where the file behind `fd` is.
pub fn path_of(fd: c_int) -> Option<PathBuf> {
    let link = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    let mut path = vec![0; libc::PATH_MAX as usize];
    let len = call!(
        libc::SYS_readlinkat,
        libc::AT_FDCWD,
        link.as_ptr(),
        path.as_mut_ptr(),
        path.len()
    )
    .ok()?;
    path.truncate(len as usize);
    Some(OsString::from_vec(path).into())
}

/// flock, again after every signal.
pub fn flock(fd: c_int, operation: c_int) -> Result<(), Errno> {
    loop {
        match call!(libc::SYS_flock, fd, operation) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

pub fn rename(from: &CStr, to: &CStr) -> Result<(), Errno> {
    call!(
        libc::SYS_renameat,
        libc::AT_FDCWD,
        from.as_ptr(),
        libc::AT_FDCWD,
        to.as_ptr()
    )
    .map(drop)
}

pub fn unlink(path: &CStr) {
    let _ = call!(libc::SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), 0);
}

/// A second descriptor for what `fd` is, numbered high, so that it stays out of the program's way.
pub fn duplicate_high(fd: c_int) -> Result<c_int, Errno> {
    call!(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 512)
        .or_else(|_| call!(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 3))
        .map(|fd| fd as c_int)
}

pub fn write_eventfd(fd: c_int) {
    let one = 1u64;
    let _ = call!(libc::SYS_write, fd, &raw const one, 8);
}

/// Maps `len` bytes of `fd` from `offset`, shared, somewhere.
pub fn map_shared(fd: c_int, len: u64, offset: u64) -> Result<usize, Errno> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    call!(
        libc::SYS_mmap,
        0usize,
        len,
        protection,
        libc::MAP_SHARED,
        fd,
        offset
    )
    .map(|a| a as usize)
}

/// Sleeps in a futex, the one wait that every seccomp filter lets through.
pub fn sleep(time: Duration) {
    let end = Instant::now() + time;
    // Somebody's late wake of what was here before can end a wait early.
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        futex_wait(&AtomicU32::new(0), 0, Some(left));
    }
}

/// Waits while `word` is `value`, at most for `time`.
pub fn futex_wait(word: &AtomicU32, value: u32, time: Option<Duration>) {
    let time = time.map(|t| libc::timespec {
        tv_sec: t.as_secs() as i64,
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let _ = call!(
        libc::SYS_futex,
        word.as_ptr(),
        libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
        value,
        time
    );
}

/// Wakes everybody who waits on `word`.
pub fn futex_wake(word: &AtomicU32) {
    let _ = call!(
        libc::SYS_futex,
        word.as_ptr(),
        libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
        i32::MAX
    );
}

static PID: AtomicU32 = AtomicU32::new(0);

/// This process, without a system call.
pub fn pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => refresh_pid(),
        pid => pid,
    }
}

/// To be called in a forked child.
pub fn refresh_pid() -> u32 {
    let pid = std::process::id();
    PID.store(pid, Ordering::Relaxed);
    pid
}
