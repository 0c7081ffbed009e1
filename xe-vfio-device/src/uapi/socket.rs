// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // setsockopt(2)
//! How much a socket holds.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Lets `socket` hold that many bytes which nobody has received yet, or as many as net.core.wmem_max allows, which is no error.
///
/// # Errors
/// Those of setsockopt(2), as for what is no socket.
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    // SAFETY: the option is an int, and the pointer is to one that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            ptr::from_ref(&bytes).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// How many bytes go in before a write would wait.
    fn held(socket: &mut UnixStream) -> usize {
        socket.set_nonblocking(true).expect("non-blocking");
        let mut held = 0;
        while let Ok(count) = socket.write(&[0; 4096]) {
            held += count;
        }
        held
    }

    #[test]
    fn a_socket_holds_what_it_was_told_to() {
        let (mut small, _reader) = UnixStream::pair().expect("sockets");
        let (mut large, _other) = UnixStream::pair().expect("sockets");
        set_send_buffer(small.as_fd(), 16 << 10).expect("less");
        set_send_buffer(large.as_fd(), 128 << 10).expect("more");
        let (small, large) = (held(&mut small), held(&mut large));
        assert!(small > 0 && large > 2 * small, "{small} {large}");
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        let file = File::open("/dev/null").expect("a file");
        let error = set_send_buffer(file.as_fd(), 1 << 20).expect_err("no socket");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
