// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // read(2), write(2), fcntl(2)
//! The migration data fd.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{Errno, UapiError};
use crate::state::DataStream;

/// The data fd of a device in STOP_COPY (read) or RESUMING (write). It is a member of the session's state, so that it is
/// closed before the device is asked to leave that state.
#[derive(Debug)]
pub struct DataFd(OwnedFd);

impl DataFd {
    /// Takes the fd over.
    ///
    /// # Errors
    /// When the fd cannot be kept from programs that the VMM may start: the device's state must not leak into them.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, UapiError> {
        // SAFETY: fcntl(F_GETFD) takes no pointer.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        if flags < 0 {
            return Err(UapiError::last("fcntl(F_GETFD) on the migration data fd"));
        }
        if flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: fcntl(F_SETFD) takes no pointer.
            let result =
                unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags | libc::FD_CLOEXEC) };
            if result < 0 {
                return Err(UapiError::last("fcntl(F_SETFD) on the migration data fd"));
            }
        }
        Ok(Self(fd))
    }
}

impl AsFd for DataFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl DataStream for DataFd {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UapiError> {
        // SAFETY: the kernel writes at most `buffer.len()` bytes to the buffer.
        let count =
            unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(count).map_err(|_| UapiError::last("read() of the migration data fd"))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, UapiError> {
        const CALL: &str = "write() to the migration data fd";
        // SAFETY: the kernel reads at most `bytes.len()` bytes from the slice.
        let count = unsafe { libc::write(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(count) {
            Ok(0) if !bytes.is_empty() => Err(UapiError::new(CALL, Errno(libc::EIO))),
            Ok(count) => Ok(count),
            Err(_) => Err(UapiError::last(CALL)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_read_may_be_short_and_ends_with_zero() {
        let (reader, writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut &writer, b"state").unwrap();
        drop(writer);
        let mut fd = DataFd::new(reader.into()).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(fd.read(&mut buffer), Ok(5));
        assert_eq!(&buffer[..5], b"state");
        assert_eq!(fd.read(&mut buffer), Ok(0));
    }

    #[test]
    fn the_wrong_direction_answers_ebadf() {
        let mut fd = DataFd::new(File::open("/dev/null").unwrap().into()).unwrap();
        assert_eq!(fd.write(b"x").unwrap_err().errno, Errno(libc::EBADF));
    }

    #[test]
    fn a_data_fd_never_survives_an_exec() {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: fcntl(F_SETFD) takes no pointer.
        let cleared = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
        assert_eq!(cleared, 0);
        let fd = DataFd::new(file.into()).unwrap();
        // SAFETY: fcntl(F_GETFD) takes no pointer.
        let flags = unsafe { libc::fcntl(fd.0.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
}
