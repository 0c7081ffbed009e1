// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // sendmsg(2), recvmsg(2) and their control data
//! A file descriptor beside the bytes on a unix socket (SCM_RIGHTS), one at a time.
//!
//! The kernel hands descriptors to recvmsg(2) only: a plain read of the bytes that one came beside closes it. It never joins such bytes with
//! those behind them, so one call answers at most one descriptor's bytes. Facts: net/unix/af_unix.c, net/core/scm.c.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Bytes of the control data of one descriptor.
const ONE: u32 = size_of::<RawFd>() as u32;
const SPACE: usize = 24;

/// Room for control data with one descriptor, aligned as its header wants.
#[repr(C, align(8))]
struct Control([u8; SPACE]);

// SAFETY: CMSG_SPACE computes and touches no memory.
const _: () = assert!(unsafe { libc::CMSG_SPACE(ONE) } as usize == SPACE);
const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

fn message(part: &mut libc::iovec, control: &mut Control, length: u32) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr without name, bytes or control data.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(control).cast();
    message.msg_controllen = length as usize;
    message
}

/// Sends a part of `bytes`, at least one of them, with `fd` beside the first; answers how many.
///
/// # Errors
/// Those of sendmsg(2); then neither was sent.
pub fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; SPACE]);
    let message = message(&mut part, &mut control, SPACE as u32);
    // SAFETY: the control data has room for one header and one descriptor, so CMSG_FIRSTHDR and CMSG_DATA stay within it; the kernel only
    // reads what the message points to, all of which outlives the call.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(ONE) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(fd.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Reads bytes, and takes the descriptor that came beside them, if one did. It is closed on exec.
///
/// # Errors
/// Those of recvmsg(2); `InvalidData` when more than one came, or one that no number is left for (the kernel does not tell which).
/// No descriptor is left open then.
pub fn receive_with_fd(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = Control([0; SPACE]);
    // SAFETY: CMSG_LEN computes and touches no memory. With this length, and not the space, the kernel hands over one descriptor at most.
    let length = unsafe { libc::CMSG_LEN(ONE) };
    let mut message = message(&mut part, &mut control, length);
    // SAFETY: the kernel writes at most `buffer.len()` bytes to the buffer and `length` to the control data.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the control data up to msg_controllen; CMSG_FIRSTHDR answers null when that is less than a header, and
    // the descriptor is read only where the header says that there is one. It is ours alone: nobody else knows its number yet.
    let fd = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let is_fd = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len >= length as usize;
        is_fd
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()))
    };
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        let text = "more than one file descriptor came, or none of this process's numbers is free for it: see RLIMIT_NOFILE";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok((received, fd))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pipe_with(content: &[u8]) -> OwnedFd {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(content).unwrap();
        reader.into()
    }

    #[test]
    fn a_descriptor_arrives_with_its_bytes_and_not_before() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"before").unwrap();
        let sent = send_with_fd(here.as_fd(), b"beside", pipe_with(b"state").as_fd());
        assert_eq!(sent.unwrap(), 6);
        let mut buffer = [0; 6];
        let (count, fd) = receive_with_fd(there.as_fd(), &mut buffer).unwrap();
        assert!(fd.is_none());
        assert_eq!(&buffer[..count], b"before");
        let (count, fd) = receive_with_fd(there.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"beside");
        let fd = fd.expect("a descriptor");
        // SAFETY: fcntl(F_GETFD) takes no pointer.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        let mut state = String::new();
        std::fs::File::from(fd).read_to_string(&mut state).unwrap();
        assert_eq!(state, "state");
    }

    #[test]
    fn a_plain_read_closes_the_descriptor() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        send_with_fd(here.as_fd(), b"x", OwnedFd::from(reader).as_fd()).unwrap();
        there.read_exact(&mut [0]).unwrap();
        let error = writer.write(b"y").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn surplus_descriptors_are_refused_and_none_stays_open() {
        let (here, there) = UnixStream::pair().unwrap();
        let pipes = [io::pipe().unwrap(), io::pipe().unwrap()];
        let fds = [pipes[0].0.as_raw_fd(), pipes[1].0.as_raw_fd()];
        let mut byte = *b"x";
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let mut control = Control([0; SPACE]);
        let message = message(&mut part, &mut control, SPACE as u32);
        // SAFETY: a header of 16 bytes and two descriptors of 4 fill the control data.
        let sent = unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(2 * ONE) as usize;
            libc::CMSG_DATA(header)
                .cast::<[RawFd; 2]>()
                .write_unaligned(fds);
            libc::sendmsg(here.as_raw_fd(), &raw const message, 0)
        };
        assert_eq!(sent, 1);
        let error = receive_with_fd(there.as_fd(), &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        for (reader, mut writer) in pipes {
            drop(reader);
            let error = writer.write(b"y").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn bytes_without_a_descriptor_are_bytes() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"abc").unwrap();
        drop(here);
        let mut buffer = [0; 8];
        let (count, fd) = receive_with_fd(there.as_fd(), &mut buffer).unwrap();
        assert_eq!((count, fd.is_none()), (3, true));
        let (count, fd) = receive_with_fd(there.as_fd(), &mut buffer).unwrap();
        assert_eq!((count, fd.is_none()), (0, true));
    }
}
