// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A link of a rate of one's choice: a TCP connection over loopback whose sender is held up.
//!
//! It holds [`HELD`] bytes as sockets and switches do: a sender waits as soon as so many are not gone yet by the rate. Whatever else a network does
//! (delay, loss, other traffic) is not in it.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use xe_vfio_device::transfer::{Closer, Connection};

/// Bytes that it takes before its sender waits.
pub const HELD: usize = 1 << 20;
/// Most bytes of a call: a sender is held up in the middle of a frame, as by a socket.
const CALL: usize = 256 << 10;

/// The sending end.
pub struct Link {
    inner: TcpStream,
    /// Bytes per second; none for as fast as it is.
    rate: Option<f64>,
    /// When all that was taken is gone.
    gone: Instant,
}

impl Link {
    /// Takes a connection that nothing was sent on.
    #[must_use]
    pub fn new(inner: TcpStream, rate: Option<f64>) -> Self {
        let gone = Instant::now();
        Self { inner, rate, gone }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(rate) = self.rate else {
            return self.inner.write_vectored(slices);
        };
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else {
            return Ok(0);
        };
        let count = self.inner.write(&first[..first.len().min(CALL)])?;
        let now = Instant::now();
        self.gone = self.gone.max(now) + Duration::from_secs_f64(count as f64 / rate);
        let ahead = Duration::from_secs_f64(HELD as f64 / rate);
        thread::sleep((self.gone - now).saturating_sub(ahead));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Connection for Link {
    fn closer(&self) -> io::Result<Closer> {
        self.inner.closer()
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        Connection::set_timeout(&self.inner, timeout)
    }

    fn has_input(&self) -> bool {
        self.inner.has_input()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn bytes_leave_at_its_rate_and_arrive_as_they_were() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut there = listener.accept().unwrap().0;
        let bytes: Vec<u8> = (0..5 * HELD).map(|at| (at >> 7) as u8).collect();
        thread::scope(|scope| {
            let received = scope.spawn(move || {
                let mut received = Vec::new();
                there.read_to_end(&mut received).map(|_| received)
            });
            let started = Instant::now();
            let mut link = Link::new(here, Some(100e6));
            link.write_all(&bytes).unwrap();
            let least = 4.0 * HELD as f64 / 100e6;
            assert!(started.elapsed().as_secs_f64() > 0.95 * least);
            drop(link);
            assert!(received.join().unwrap().unwrap() == bytes);
        });
    }
}
