// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The main connection: frames in and out of a socket, each within a deadline.
//!
//! Sockets get short timeouts and reads go on over them, so that a deadline bounds a whole frame and not each of its
//! bytes. One payload buffer is reused; it grows to the largest frame that is accepted, some MiB at most.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use vm_migration::protocol::MemoryRange;
use xe_vfio_device::transfer::{Cancel, Connection, Registration};

use super::protocol::{self, HEADER_SIZE, Header, Kind, Reason};

/// How long a single read or write may block before the deadline is looked at.
const SLICE: Duration = Duration::from_millis(200);
/// How long a side that has failed waits for the other to hear of it.
const LINGER: Duration = Duration::from_secs(3);

/// Why the main connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error("The connection to the peer broke while {0}")]
    Io(&'static str, #[source] io::Error),
    /// The peer went away.
    #[error("The peer closed the connection while {0}")]
    Closed(&'static str),
    /// Nothing happened for too long.
    #[error("The peer did nothing for {0:?} while {1}")]
    Deadline(Duration, &'static str),
    /// Somebody here gave up.
    #[error("The migration was cancelled while {0}")]
    Cancelled(&'static str),
    /// Bytes that are no frame, or one at the wrong time.
    #[error(transparent)]
    Protocol(#[from] protocol::Error),
}

/// The main connection.
pub struct Channel {
    connection: Box<dyn Connection>,
    cancel: Cancel,
    // Shuts the socket down on cancel.
    _registration: Registration,
    patience: Duration,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Channel {
    /// Takes a connection over. `patience` bounds each frame.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket takes no timeout.
    pub fn new(
        connection: Box<dyn Connection>,
        cancel: &Cancel,
        patience: Duration,
    ) -> Result<Self, Error> {
        let failed = |e| Error::Io("being set up", e);
        connection.set_timeout(SLICE).map_err(failed)?;
        let registration = cancel.register(connection.closer().map_err(failed)?);
        Ok(Self {
            connection,
            cancel: cancel.clone(),
            _registration: registration,
            patience,
            buffer: Vec::new(),
            bytes: 0,
        })
    }

    /// Bytes sent and received so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bounds each frame anew.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether the peer has said something that was not read yet.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.connection.has_input()
    }

    /// Sends a frame with a JSON payload.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Panics
    /// When the value cannot be JSON: it is this VMM's own.
    pub fn send(&mut self, kind: Kind, value: &impl Serialize) -> Result<(), Error> {
        let payload = serde_json::to_vec(value).expect("messages can be written as JSON");
        self.send_raw(kind, 0, &payload)
    }

    /// Sends guest memory.
    ///
    /// # Errors
    /// [`Error`].
    pub fn send_memory(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
        self.send_raw(Kind::Memory, gpa, bytes)
    }

    /// Sends ranges that are zero.
    ///
    /// # Errors
    /// [`Error`].
    pub fn send_zero(&mut self, ranges: &[MemoryRange]) -> Result<(), Error> {
        for ranges in ranges.chunks(protocol::MAX_RANGES) {
            self.send_raw(Kind::Zero, 0, &protocol::encode_ranges(ranges))?;
        }
        Ok(())
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// [`Error`].
    pub fn send_raw(&mut self, kind: Kind, argument: u64, payload: &[u8]) -> Result<(), Error> {
        let header = protocol::encode_header(kind, argument, payload)?;
        self.write(&header)?;
        self.write(payload)
    }

    /// Says why this side stops, and waits a little for the peer to hear it: a connection closed with bytes unread is
    /// reset, and what was said would be lost with it.
    pub fn fail(mut self, kind: Kind, reason: &str) {
        if self
            .send(
                kind,
                &Reason {
                    reason: reason.to_owned(),
                },
            )
            .is_err()
        {
            return;
        }
        let end = Instant::now() + LINGER;
        let mut scratch = vec![0; 64 << 10];
        while Instant::now() < end && !self.cancel.is_cancelled() {
            match self.connection.read(&mut scratch) {
                Ok(0) => return,
                Err(e) if !is_timeout(&e) => return,
                _ => {}
            }
        }
    }

    /// Receives a frame. `activity` is a number that changes while the peer is busy elsewhere, which extends the deadline.
    ///
    /// # Errors
    /// [`Error`].
    pub fn receive(
        &mut self,
        doing: &'static str,
        activity: &dyn Fn() -> u64,
    ) -> Result<(Header, &[u8]), Error> {
        let mut header = [0; HEADER_SIZE];
        self.read(&mut header, doing, activity)?;
        let header = protocol::decode_header(&header)?;
        let mut payload = std::mem::take(&mut self.buffer);
        payload.resize(header.length, 0);
        let read = self.read(&mut payload, doing, activity);
        self.buffer = payload;
        read?;
        header.verify(&self.buffer)?;
        Ok((header, &self.buffer))
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        const DOING: &str = "sending";
        let mut end = Instant::now() + self.patience;
        while !bytes.is_empty() {
            match self.connection.write(bytes) {
                Ok(0) => return Err(Error::Closed(DOING)),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.bytes += written as u64;
                    end = Instant::now() + self.patience;
                }
                Err(e) if is_timeout(&e) => self.check(end, DOING)?,
                Err(e) => return Err(self.broken(DOING, e)),
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        mut into: &mut [u8],
        doing: &'static str,
        activity: &dyn Fn() -> u64,
    ) -> Result<(), Error> {
        let mut end = Instant::now() + self.patience;
        let mut last = activity();
        while !into.is_empty() {
            match self.connection.read(into) {
                Ok(0) if self.cancel.is_cancelled() => return Err(Error::Cancelled(doing)),
                Ok(0) => return Err(Error::Closed(doing)),
                Ok(read) => {
                    into = &mut into[read..];
                    self.bytes += read as u64;
                }
                Err(e) if is_timeout(&e) => {
                    let now = activity();
                    if now != last {
                        last = now;
                        end = Instant::now() + self.patience;
                    }
                    self.check(end, doing)?;
                }
                Err(e) => return Err(self.broken(doing, e)),
            }
        }
        Ok(())
    }

    fn check(&self, end: Instant, doing: &'static str) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            Err(Error::Cancelled(doing))
        } else if Instant::now() >= end {
            Err(Error::Deadline(self.patience, doing))
        } else {
            Ok(())
        }
    }

    fn broken(&self, doing: &'static str, source: io::Error) -> Error {
        if self.cancel.is_cancelled() {
            Error::Cancelled(doing)
        } else {
            Error::Io(doing, source)
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair(patience: Duration) -> (Channel, Channel, Cancel) {
        let (a, b) = UnixStream::pair().unwrap();
        let cancel = Cancel::new();
        let channel = |s| Channel::new(Box::new(s), &cancel, patience).unwrap();
        (channel(a), channel(b), cancel.clone())
    }

    #[test]
    fn frames_arrive_in_order_with_their_payload() {
        let (mut a, mut b, _cancel) = pair(Duration::from_secs(5));
        a.send_memory(0x2000, &[7; 100]).unwrap();
        a.send(Kind::Abandon, &Reason { reason: "x".into() })
            .unwrap();
        let (header, payload) = b.receive("testing", &|| 0).unwrap();
        assert_eq!(
            (header.kind, header.argument, payload.len()),
            (Kind::Memory, 0x2000, 100)
        );
        let (header, payload) = b.receive("testing", &|| 0).unwrap();
        let reason: Reason = protocol::decode(header.kind, payload).unwrap();
        assert_eq!(reason.reason, "x");
        assert_eq!(a.bytes(), b.bytes());
    }

    #[test]
    fn a_silent_peer_is_given_up_after_the_deadline() {
        let (mut a, _b, _cancel) = pair(Duration::from_millis(100));
        assert!(matches!(
            a.receive("testing", &|| 0),
            Err(Error::Deadline(..))
        ));
    }

    #[test]
    fn a_cancel_ends_a_wait_at_once() {
        let (mut a, _b, cancel) = pair(Duration::from_secs(60));
        let waiting = std::thread::spawn(move || a.receive("testing", &|| 0).map(|_| ()));
        cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled(_))));
    }

    #[test]
    fn a_reason_reaches_a_peer_that_was_still_sending() {
        let (mut a, b, _cancel) = pair(Duration::from_secs(5));
        a.send_memory(0, &[1; 4096]).unwrap();
        let failing = std::thread::spawn(move || b.fail(Kind::Failed, "no room"));
        let (header, payload) = a.receive("testing", &|| 0).unwrap();
        let reason: Reason = protocol::decode(header.kind, payload).unwrap();
        assert_eq!(
            (header.kind, reason.reason.as_str()),
            (Kind::Failed, "no room")
        );
        drop(a);
        failing.join().unwrap();
    }

    #[test]
    fn a_peer_that_goes_away_is_told_from_one_that_is_silent() {
        let (mut a, b, _cancel) = pair(Duration::from_secs(60));
        drop(b);
        assert!(matches!(a.receive("testing", &|| 0), Err(Error::Closed(_))));
    }
}
