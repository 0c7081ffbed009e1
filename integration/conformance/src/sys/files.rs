// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls that are meant for files of a file system.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libc::c_int;

use super::{Answer, Errno, done, owned, size};

/// fallocate(2) of the first page.
pub fn fallocate(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: integers.
    done(unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, 4096) }).map(drop)
}

/// fchmod(2) to 0600.
pub fn fchmod(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: integers.
    done(unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) }).map(drop)
}

/// fchown(2) to nobody else.
pub fn fchown(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: integers.
    done(unsafe { libc::fchown(fd.as_raw_fd(), 0, 0) }).map(drop)
}

/// flock(2), never waiting.
pub fn flock(fd: BorrowedFd<'_>, operation: c_int) -> Answer<()> {
    // SAFETY: integers.
    done(unsafe { libc::flock(fd.as_raw_fd(), operation | libc::LOCK_NB) }).map(drop)
}

/// F_SETLK of the first byte.
pub fn record_lock(fd: BorrowedFd<'_>, kind: c_int) -> Answer<()> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the structure that the command takes.
    done(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLK, &raw mut lock) }).map(drop)
}

/// sync_file_range(2) of everything.
pub fn sync_file_range(fd: BorrowedFd<'_>) -> Answer<()> {
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: integers.
    done(unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, flags) }).map(drop)
}

/// posix_fadvise(2) with POSIX_FADV_DONTNEED.
pub fn fadvise(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: integers.
    match unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(Errno(errno)),
    }
}

/// readahead(2) of the first page.
pub fn readahead(fd: BorrowedFd<'_>) -> Answer<usize> {
    // SAFETY: integers.
    size(unsafe { libc::readahead(fd.as_raw_fd(), 0, 4096) })
}

/// preadv2(2) into one buffer.
pub fn preadv2(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: i64, flags: c_int) -> Answer<usize> {
    let part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: one live buffer.
    size(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, offset, flags) })
}

/// pwritev2(2) of one buffer.
pub fn pwritev2(fd: BorrowedFd<'_>, buffer: &[u8], offset: i64, flags: c_int) -> Answer<usize> {
    let part = libc::iovec {
        iov_base: buffer.as_ptr().cast_mut().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: one live buffer, which is only read.
    size(unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const part, 1, offset, flags) })
}

/// tee(2) of one byte.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Answer<usize> {
    // SAFETY: integers.
    size(unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), 1, 0) })
}

/// vmsplice(2) of a byte.
pub fn vmsplice(fd: BorrowedFd<'_>) -> Answer<usize> {
    let byte = [0u8; 1];
    let part = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: one live buffer, which is only read.
    size(unsafe { libc::vmsplice(fd.as_raw_fd(), &raw const part, 1, 0) })
}

/// FIONREAD.
pub fn bytes_to_read(fd: BorrowedFd<'_>) -> Answer<c_int> {
    let mut bytes = 0;
    // SAFETY: the request writes one int.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(bytes)
}

/// fsetxattr(2) of an attribute that any user may have.
pub fn set_attribute(fd: BorrowedFd<'_>) -> Answer<()> {
    let name = c"user.conformance".as_ptr();
    // SAFETY: a string and no value.
    done(unsafe { libc::fsetxattr(fd.as_raw_fd(), name, ptr::null(), 0, 0) }).map(drop)
}

/// Opens what an fd is once more, by its link in /proc.
pub fn reopen(fd: BorrowedFd<'_>, flags: c_int) -> Answer<OwnedFd> {
    let link = format!("/proc/self/fd/{}\0", fd.as_raw_fd());
    // SAFETY: ends in a NUL byte.
    owned(unsafe { libc::open(link.as_ptr().cast(), flags | libc::O_CLOEXEC) })
}
