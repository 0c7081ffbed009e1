// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a transfer asks of a connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::uapi::{is_readable, receive_with_fd, send_with_fd, set_send_buffer};

/// Shuts a connection down in both directions, from any thread and more than once.
pub type Closer = Box<dyn Fn() + Send + Sync>;

/// Bytes that a unix socket holds between its ends. With the kernel's 208 KiB they wait for each other so often that a transfer takes half
/// as long again.
const UNIX_BUFFER: usize = 1 << 20;

/// A connection between two hosts. Implemented for TCP and unix sockets; a VMM with encrypted ones implements it for those.
pub trait Connection: Read + Write + Send {
    /// A handle that ends blocked reads and writes of this connection.
    ///
    /// # Errors
    /// When the connection's fd cannot be duplicated.
    fn closer(&self) -> io::Result<Closer>;

    /// Bounds each read and each write; one that takes longer fails with `WouldBlock` or `TimedOut`.
    ///
    /// # Errors
    /// When the socket refuses, as it does for a timeout of zero.
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Whether a read would answer at once. A sender asks between frames, because a receiver that has failed says so early.
    fn has_input(&self) -> bool;

    /// Prepares for sending a lot. A TCP socket grows by itself.
    fn widen(&self) {}

    /// Whether file descriptors can go over it, as they can over a unix socket.
    fn passes_fds(&self) -> bool {
        false
    }

    /// Writes all of `bytes`, with `fd` beside the first of them.
    ///
    /// # Errors
    /// `Unsupported` where descriptors cannot pass, and those of writing.
    fn send_fd(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        _ = (bytes, fd);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Reads, and takes a descriptor that came beside the bytes: a plain read closes it.
    ///
    /// # Errors
    /// Those of reading, and `InvalidData` when more than one came or none could be taken.
    fn receive_fd(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        self.read(buffer).map(|count| (count, None))
    }
}

macro_rules! socket {
    ($socket:ty, { $($fds:tt)* }) => {
        impl Connection for $socket {
            fn closer(&self) -> io::Result<Closer> {
                let other = self.try_clone()?;
                // An error says that it is closed already.
                Ok(Box::new(move || _ = other.shutdown(Shutdown::Both)))
            }

            fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
                self.set_read_timeout(Some(timeout))?;
                self.set_write_timeout(Some(timeout))
            }

            fn has_input(&self) -> bool {
                is_readable(self.as_fd())
            }

            $($fds)*
        }
    };
}

socket!(TcpStream, {});
socket!(UnixStream, {
    fn widen(&self) {
        // It is as good with less, only slower.
        _ = set_send_buffer(self.as_fd(), UNIX_BUFFER);
    }

    fn passes_fds(&self) -> bool {
        true
    }

    fn send_fd(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        let sent = send_with_fd(self.as_fd(), bytes, fd)?;
        self.write_all(&bytes[sent..])
    }

    fn receive_fd(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        receive_with_fd(self.as_fd(), buffer)
    }
});

impl<C: Connection + ?Sized> Connection for Box<C> {
    fn closer(&self) -> io::Result<Closer> {
        (**self).closer()
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        (**self).set_timeout(timeout)
    }

    fn has_input(&self) -> bool {
        (**self).has_input()
    }

    fn widen(&self) {
        (**self).widen();
    }

    fn passes_fds(&self) -> bool {
        (**self).passes_fds()
    }

    fn send_fd(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        (**self).send_fd(bytes, fd)
    }

    fn receive_fd(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        (**self).receive_fd(buffer)
    }
}
