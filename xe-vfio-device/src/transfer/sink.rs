// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a save goes: to a peer that answers, or to a file.

use std::io::{self, IoSlice, Write};
use std::time::Duration;

use super::connection::{Closer, Connection};
use super::deadlines::Deadlines;
use super::error::SaveError;
use super::file::PendingFile;
use crate::stream::frame::CONNECTIONS_MAX;
use crate::stream::{Receipt, ReceiptError};

/// A place for a stream.
pub trait Sink: Write + Send {
    /// Prepares for a stream.
    ///
    /// # Errors
    /// When the deadlines cannot be set.
    fn begin(&mut self, deadlines: &Deadlines) -> io::Result<()>;

    /// What ends blocked writes, if writes can block.
    ///
    /// # Errors
    /// When there can be no such thing for lack of an fd.
    fn closer(&self) -> io::Result<Option<Closer>>;

    /// Asked between frames: an error when the other side has already failed or gone.
    ///
    /// # Errors
    /// [`SaveError`] that ends the save.
    fn still_wanted(&mut self) -> Result<(), SaveError>;

    /// Asked after a failed write: what the other side has to say about it, waiting at most `linger`.
    fn why_broken(&mut self, linger: Duration) -> Option<SaveError>;

    /// Hands out the connections that frames go over beside the first, which is this sink itself.
    fn take_others(&mut self) -> Vec<Box<dyn Connection>> {
        Vec::new()
    }

    /// Whether this is a file of this machine: it gets an index, and a thread of its own where there are cores for it.
    fn is_file(&self) -> bool {
        false
    }

    /// The stream is complete: makes it count.
    ///
    /// # Errors
    /// [`SaveError`] when the state has not, or not surely, arrived.
    fn confirm(&mut self, wait: Duration) -> Result<(), SaveError>;
}

/// The other side of a connection.
#[derive(Debug)]
pub struct Peer<C>(pub(super) C);

impl<C: Connection> Peer<C> {
    /// Takes a connection on which nothing of the stream was sent or read.
    pub fn new(connection: C) -> Self {
        Self(connection)
    }

    fn receipt(&mut self) -> Result<(), SaveError> {
        match Receipt::read(&mut self.0).map_err(SaveError::Unconfirmed)? {
            Receipt::Loaded => Ok(()),
            Receipt::Failed { vf, reason } => Err(SaveError::Refused { vf, reason }),
        }
    }
}

impl<C: Connection> Write for Peer<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<C: Connection> Sink for Peer<C> {
    fn begin(&mut self, deadlines: &Deadlines) -> io::Result<()> {
        self.0.widen();
        self.0.set_timeout(deadlines.network)
    }

    fn closer(&self) -> io::Result<Option<Closer>> {
        self.0.closer().map(Some)
    }

    fn still_wanted(&mut self) -> Result<(), SaveError> {
        if !self.0.has_input() {
            return Ok(());
        }
        // Whatever it says now, it says before it can have loaded anything.
        match self.receipt() {
            Ok(()) => {
                let early = ReceiptError::Malformed {
                    what: "status before the stream's end",
                    found: 1,
                    expected: 2,
                };
                Err(SaveError::Unconfirmed(early))
            }
            Err(SaveError::Unconfirmed(lost)) => Err(SaveError::PeerLost(lost)),
            Err(refused) => Err(refused),
        }
    }

    fn why_broken(&mut self, linger: Duration) -> Option<SaveError> {
        self.0.set_timeout(linger).ok()?;
        self.receipt()
            .err()
            .filter(|error| matches!(error, SaveError::Refused { .. }))
    }

    fn confirm(&mut self, wait: Duration) -> Result<(), SaveError> {
        self.0
            .set_timeout(wait)
            .map_err(|source| SaveError::Unconfirmed(ReceiptError::Io("received", source)))?;
        self.receipt()
    }
}

/// The other side of a stream that is split over several connections. The first is that of the end and of the receipt.
pub struct Peers {
    first: Peer<Box<dyn Connection>>,
    others: Vec<Box<dyn Connection>>,
}

impl Peers {
    /// Takes connections to the same listener on which nothing was sent or read: 1 to [`CONNECTIONS_MAX`] of them.
    ///
    /// # Errors
    /// `InvalidInput` for another number.
    pub fn new(connections: Vec<Box<dyn Connection>>) -> io::Result<Self> {
        let count = connections.len();
        let mut connections = connections.into_iter();
        match connections.next() {
            Some(first) if count <= usize::from(CONNECTIONS_MAX) => Ok(Self {
                first: Peer(first),
                others: connections.collect(),
            }),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("A stream goes over 1 to {CONNECTIONS_MAX} connections, not over {count}"),
            )),
        }
    }
}

impl Write for Peers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.first.write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.first.write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.first.flush()
    }
}

impl Sink for Peers {
    fn begin(&mut self, deadlines: &Deadlines) -> io::Result<()> {
        Sink::begin(&mut self.first, deadlines)
    }

    fn closer(&self) -> io::Result<Option<Closer>> {
        Sink::closer(&self.first)
    }

    fn still_wanted(&mut self) -> Result<(), SaveError> {
        self.first.still_wanted()
    }

    fn why_broken(&mut self, linger: Duration) -> Option<SaveError> {
        self.first.why_broken(linger)
    }

    fn take_others(&mut self) -> Vec<Box<dyn Connection>> {
        std::mem::take(&mut self.others)
    }

    fn confirm(&mut self, wait: Duration) -> Result<(), SaveError> {
        self.first.confirm(wait)
    }
}

/// A file that appears under its name when the stream in it is complete.
#[derive(Debug)]
pub struct FileSink(Option<PendingFile>);

impl FileSink {
    /// Takes a file that was just created.
    pub fn new(file: PendingFile) -> Self {
        Self(Some(file))
    }

    fn file(&mut self) -> io::Result<&mut PendingFile> {
        self.0
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.file()?.write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

impl Sink for FileSink {
    fn begin(&mut self, _: &Deadlines) -> io::Result<()> {
        Ok(())
    }

    fn closer(&self) -> io::Result<Option<Closer>> {
        Ok(None)
    }

    fn still_wanted(&mut self) -> Result<(), SaveError> {
        Ok(())
    }

    fn why_broken(&mut self, _: Duration) -> Option<SaveError> {
        None
    }

    fn is_file(&self) -> bool {
        true
    }

    fn confirm(&mut self, _: Duration) -> Result<(), SaveError> {
        self.0
            .take()
            .map_or(Ok(()), PendingFile::commit)
            .map_err(SaveError::File)
    }
}
