// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one unsafe file: libc calls as they are, with an errno instead of -1.
//!
//! Deliberately no crate in between: what is under test is which errno a system call answers. Every call goes through libc's
//! symbol, so that a preloaded library can answer it.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_ulong, c_void};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

pub mod files;

/// An errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub c_int);

/// What the kernel calls "restart this system call"; user space is not meant to see it.
pub const ERESTARTSYS: Errno = Errno(512);

const NAMES: [(c_int, &str); 29] = [
    (libc::EPERM, "EPERM"),
    (libc::ENOENT, "ENOENT"),
    (libc::EINTR, "EINTR"),
    (libc::EIO, "EIO"),
    (libc::ENXIO, "ENXIO"),
    (libc::EBADF, "EBADF"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EACCES, "EACCES"),
    (libc::EFAULT, "EFAULT"),
    (libc::EBUSY, "EBUSY"),
    (libc::ENODEV, "ENODEV"),
    (libc::EINVAL, "EINVAL"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENOTTY, "ENOTTY"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ESPIPE, "ESPIPE"),
    (libc::EPIPE, "EPIPE"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
    (libc::EALREADY, "EALREADY"),
    (libc::ESTALE, "ESTALE"),
    (libc::EUCLEAN, "EUCLEAN"),
    (libc::ECANCELED, "ECANCELED"),
    (libc::EPROTO, "EPROTO"),
    (libc::E2BIG, "E2BIG"),
    (libc::EOVERFLOW, "EOVERFLOW"),
    (512, "ERESTARTSYS"),
];

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

/// What a system call answers.
pub type Answer<T> = Result<T, Errno>;

fn last() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn size(answer: isize) -> Answer<usize> {
    usize::try_from(answer).map_err(|_| last())
}

fn done(answer: c_int) -> Answer<c_int> {
    if answer < 0 { Err(last()) } else { Ok(answer) }
}

fn owned(answer: c_int) -> Answer<OwnedFd> {
    // SAFETY: the kernel has just made this fd for us and nobody else knows its number.
    done(answer).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// open(2), close-on-exec.
pub fn open(path: &Path, flags: c_int) -> Answer<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno(libc::EINVAL))?;
    // SAFETY: a string with a NUL.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })
}

/// Takes the fd whose number a kernel struct carried.
pub fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the caller has it from a struct that the kernel filled with a new fd for this process.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// ioctl(2) with an integer.
pub fn ioctl(fd: BorrowedFd<'_>, request: u64, argument: c_ulong) -> Answer<c_int> {
    // SAFETY: the requests used with this take an integer, a NUL-terminated string or an address that may well be bad.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
}

/// ioctl(2) with a struct that tells its own length where the kernel wants to know it.
pub fn ioctl_bytes(fd: BorrowedFd<'_>, request: u64, argument: &mut [u8]) -> Answer<c_int> {
    // SAFETY: VFIO reads and writes at most argsz bytes; the callers never state an argsz above the buffer's length.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_mut_ptr()) })
}

/// ioctl(2) with a name.
pub fn ioctl_str(fd: BorrowedFd<'_>, request: u64, argument: &str) -> Answer<c_int> {
    let argument = CString::new(argument).map_err(|_| Errno(libc::EINVAL))?;
    // SAFETY: a string with a NUL.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_ptr()) })
}

/// read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Answer<usize> {
    // SAFETY: a buffer and its length.
    size(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// write(2).
pub fn write(fd: BorrowedFd<'_>, buffer: &[u8]) -> Answer<usize> {
    // SAFETY: a buffer and its length.
    size(unsafe { libc::write(fd.as_raw_fd(), buffer.as_ptr().cast(), buffer.len()) })
}

/// read(2) into an address that is not mapped.
pub fn read_nowhere(fd: BorrowedFd<'_>, len: usize) -> Answer<usize> {
    // SAFETY: the kernel refuses to copy to the first page.
    size(unsafe {
        libc::read(
            fd.as_raw_fd(),
            ptr::without_provenance_mut::<c_void>(16),
            len,
        )
    })
}

/// write(2) from an address that is not mapped.
pub fn write_nowhere(fd: BorrowedFd<'_>, len: usize) -> Answer<usize> {
    // SAFETY: the kernel refuses to copy from the first page.
    size(unsafe { libc::write(fd.as_raw_fd(), ptr::without_provenance::<c_void>(16), len) })
}

/// pread(2) at 0.
pub fn pread(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Answer<usize> {
    // SAFETY: a buffer and its length.
    size(unsafe { libc::pread(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

/// pwrite(2) at 0.
pub fn pwrite(fd: BorrowedFd<'_>, buffer: &[u8]) -> Answer<usize> {
    // SAFETY: a buffer and its length.
    size(unsafe { libc::pwrite(fd.as_raw_fd(), buffer.as_ptr().cast(), buffer.len(), 0) })
}

/// lseek(2) to `offset` from the start.
pub fn lseek(fd: BorrowedFd<'_>, offset: i64) -> Answer<i64> {
    // SAFETY: plain integers.
    let answer = unsafe { libc::lseek(fd.as_raw_fd(), offset, libc::SEEK_SET) };
    if answer < 0 { Err(last()) } else { Ok(answer) }
}

/// readv(2) into two buffers.
pub fn readv(fd: BorrowedFd<'_>, first: &mut [u8], second: &mut [u8]) -> Answer<usize> {
    let parts = [first, second].map(|part| libc::iovec {
        iov_base: part.as_mut_ptr().cast(),
        iov_len: part.len(),
    });
    // SAFETY: two buffers and their lengths.
    size(unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), 2) })
}

/// writev(2) from two buffers.
pub fn writev(fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> Answer<usize> {
    let parts = [first, second].map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    });
    // SAFETY: two buffers and their lengths, only read from.
    size(unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr(), 2) })
}

/// splice(2) of a page.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Answer<usize> {
    // SAFETY: no buffers.
    size(unsafe {
        libc::splice(
            from.as_raw_fd(),
            ptr::null_mut(),
            to.as_raw_fd(),
            ptr::null_mut(),
            4096,
            0,
        )
    })
}

/// sendfile(2) of a page.
pub fn sendfile(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Answer<usize> {
    // SAFETY: no buffers.
    size(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), ptr::null_mut(), 4096) })
}

/// copy_file_range(2) of a page.
pub fn copy_file_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Answer<usize> {
    // SAFETY: no buffers.
    size(unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            ptr::null_mut(),
            to.as_raw_fd(),
            ptr::null_mut(),
            4096,
            0,
        )
    })
}

/// mmap(2) of a page, private, undone at once when it works.
pub fn mmap(fd: BorrowedFd<'_>, protection: c_int) -> Answer<()> {
    // SAFETY: the address is the kernel's choice, and what was mapped is unmapped untouched.
    unsafe {
        let address = libc::mmap(
            ptr::null_mut(),
            4096,
            protection,
            libc::MAP_PRIVATE,
            fd.as_raw_fd(),
            0,
        );
        if address == libc::MAP_FAILED {
            return Err(last());
        }
        libc::munmap(address, 4096);
    }
    Ok(())
}

/// poll(2) without waiting: the events that are there.
pub fn poll(fd: BorrowedFd<'_>) -> Answer<i16> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN | libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one pollfd.
    done(unsafe { libc::poll(&raw mut poll, 1, 0) }).map(|_| poll.revents)
}

/// epoll_ctl(2) ADD to a new epoll.
pub fn epoll_add(fd: BorrowedFd<'_>) -> Answer<()> {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 0,
    };
    // SAFETY: a new epoll fd, owned at once.
    let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: one event.
    done(unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            &raw mut event,
        )
    })
    .map(drop)
}

/// fsync(2).
pub fn fsync(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: an integer.
    done(unsafe { libc::fsync(fd.as_raw_fd()) }).map(drop)
}

/// fdatasync(2).
pub fn fdatasync(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: an integer.
    done(unsafe { libc::fdatasync(fd.as_raw_fd()) }).map(drop)
}

/// ftruncate(2) to nothing.
pub fn ftruncate(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: integers.
    done(unsafe { libc::ftruncate(fd.as_raw_fd(), 0) }).map(drop)
}

/// fcntl(2) with an integer.
pub fn fcntl(fd: BorrowedFd<'_>, command: c_int, argument: c_int) -> Answer<c_int> {
    // SAFETY: the commands used with this take an integer.
    done(unsafe { libc::fcntl(fd.as_raw_fd(), command, argument) })
}

/// dup(2).
pub fn dup(fd: BorrowedFd<'_>) -> Answer<OwnedFd> {
    // SAFETY: an integer.
    owned(unsafe { libc::dup(fd.as_raw_fd()) })
}

/// A pipe: the end to read and the end to write.
pub fn pipe() -> Answer<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two fds.
    done(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(ends[0])?, owned(ends[1])?))
}

/// A file in memory.
pub fn memfd() -> Answer<OwnedFd> {
    // SAFETY: a string with a NUL.
    owned(unsafe { libc::memfd_create(c"conformance".as_ptr(), libc::MFD_CLOEXEC) })
}

/// Lets this process open no further fd; answers the limit to give back with [`set_fd_limit`].
pub fn forbid_new_fds() -> Answer<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: one rlimit.
    done(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let before = limit.rlim_cur;
    set_fd_limit(0)?;
    Ok(before)
}

/// The soft limit of fds.
pub fn set_fd_limit(soft: u64) -> Answer<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: one rlimit.
    done(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = soft;
    // SAFETY: one rlimit.
    done(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// Sends an fd over a Unix socket, with one byte.
pub fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Answer<()> {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 4];
    // SAFETY: control is aligned and large enough for one cmsg with one fd (24 bytes).
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header)
            .cast::<c_int>()
            .write_unaligned(fd.as_raw_fd());
        size(libc::sendmsg(socket.as_raw_fd(), &raw const message, 0)).map(drop)
    }
}

/// Receives what [`send_fd`] sent.
pub fn receive_fd(socket: BorrowedFd<'_>) -> Answer<OwnedFd> {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 4];
    // SAFETY: as in send_fd; the fd is new in this process.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        size(libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0))?;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() {
            return Err(Errno(libc::ENODATA));
        }
        owned(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned())
    }
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Handles SIGUSR1 with a function that only counts, and system calls not restarted.
pub fn catch_sigusr1() -> Answer<()> {
    // SAFETY: the handler does nothing but an atomic addition.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_signal as extern "C" fn(c_int) as usize;
        done(libc::sigaction(
            libc::SIGUSR1,
            &raw const action,
            ptr::null_mut(),
        ))
        .map(drop)
    }
}

/// This thread, for [`signal_thread`].
pub fn this_thread() -> libc::pthread_t {
    // SAFETY: no arguments.
    unsafe { libc::pthread_self() }
}

/// SIGUSR1 to a thread that has not been joined.
pub fn signal_thread(thread: libc::pthread_t) {
    // SAFETY: the callers join the thread only afterwards.
    unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
}
