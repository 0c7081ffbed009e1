// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // poll(2)
//! Whether a socket has something to read.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Whether a read would answer at once: with bytes, with the end of the stream or with an error.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    wait_readable(fd, Duration::ZERO)
}

/// Waits at most `timeout` (whole milliseconds, rounded up) for a read to be able to answer at once. A signal ends the wait
/// early.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let ms = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the pointer is to one pollfd, as the count says.
    let ready = unsafe { libc::poll(&raw mut poll, 1, ms) };
    ready > 0 && poll.revents != 0
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_readable_once_the_peer_wrote_or_closed() {
        let (here, mut there) = UnixStream::pair().unwrap();
        assert!(!is_readable(here.as_fd()));
        there.write_all(b"x").unwrap();
        assert!(is_readable(here.as_fd()));
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert!(is_readable(here.as_fd()));
    }
}
