// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Telling the two kinds of connections on one listener apart by their first bytes.
//!
//! The main connection begins with this VMM's magic, a device's stream with the crate's. What was read to find out is
//! given back before the rest.

use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use xe_vfio_device::transfer::{Closer, Connection};

use super::protocol::MAGIC;

/// A connection whose first bytes have been looked at.
pub struct Prefixed {
    first: [u8; MAGIC.len()],
    given: usize,
    inner: Box<dyn Connection>,
}

impl Prefixed {
    /// Reads the first bytes, within `patience`.
    ///
    /// # Errors
    /// The socket's; `UnexpectedEof` from a peer that says nothing and goes.
    pub fn read(mut inner: Box<dyn Connection>, patience: Duration) -> io::Result<Self> {
        let end = Instant::now() + patience;
        let mut first = [0; MAGIC.len()];
        let mut read = 0;
        while read < first.len() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            inner.set_timeout(left)?;
            match inner.read(&mut first[read..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => read += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self {
            first,
            given: 0,
            inner,
        })
    }

    /// Whether it is a main connection.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.first == MAGIC
    }
}

impl Read for Prefixed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.first[self.given..];
        if left.is_empty() {
            return self.inner.read(buffer);
        }
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.given += count;
        Ok(count)
    }
}

impl Write for Prefixed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Connection for Prefixed {
    fn closer(&self) -> io::Result<Closer> {
        self.inner.closer()
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.inner.set_timeout(timeout)
    }

    fn has_input(&self) -> bool {
        self.given < self.first.len() || self.inner.has_input()
    }

    fn widen(&self) {
        self.inner.widen();
    }

    fn passes_fds(&self) -> bool {
        self.inner.passes_fds()
    }

    fn send_fd(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.send_fd(bytes, fd)
    }

    fn receive_fd(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        if self.given < self.first.len() {
            return self.read(buffer).map(|count| (count, None));
        }
        self.inner.receive_fd(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_looked_at_is_read_again() {
        let (mut there, here) = UnixStream::pair().unwrap();
        there.write_all(b"XVMM and more").unwrap();
        drop(there);
        let mut prefixed = Prefixed::read(Box::new(here), Duration::from_secs(5)).unwrap();
        assert!(prefixed.is_main() && prefixed.has_input());
        let mut all = String::new();
        prefixed.read_to_string(&mut all).unwrap();
        assert_eq!(all, "XVMM and more");
    }

    #[test]
    fn other_first_bytes_are_a_device_stream_and_silence_is_an_error() {
        let (mut there, here) = UnixStream::pair().unwrap();
        there.write_all(b"XEVF").unwrap();
        assert!(
            !Prefixed::read(Box::new(here), Duration::from_secs(5))
                .unwrap()
                .is_main()
        );
        let (_there, here) = UnixStream::pair().unwrap();
        assert!(Prefixed::read(Box::new(here), Duration::from_millis(50)).is_err());
    }
}
