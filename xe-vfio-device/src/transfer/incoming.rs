// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stream that has announced itself and waits to be loaded.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::connection::{Closer, Connection};
use super::deadlines::Deadlines;
use super::shared::Shared;
use super::sink::Peer;
use crate::stream::{
    AttemptId, Limits, Manifest, Opening, Part, Reader, Receipt, ReceiptError, StreamError, Taken,
    VfOutcome,
};

/// Where a load comes from.
pub trait Source: Read + Send {
    /// Whether bytes after the stream's end are an error: in a file they are, on a connection more may follow.
    const ENDS_WITH_STREAM: bool;

    /// Prepares for a stream.
    ///
    /// # Errors
    /// When the deadlines cannot be set.
    fn begin(&mut self, deadlines: &Deadlines) -> io::Result<()>;

    /// Has reads wait at most so long before they fail with `WouldBlock` or `TimedOut`, if reads can block.
    ///
    /// # Errors
    /// When the deadline cannot be set.
    fn wait_at_most(&mut self, wait: Duration) -> io::Result<()> {
        _ = wait;
        Ok(())
    }

    /// The file that this is, if it is one, to be read in several places at once.
    ///
    /// # Errors
    /// When there is no fd for it.
    fn file(&self) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// What ends blocked reads, if reads can block.
    ///
    /// # Errors
    /// When there can be no such thing for lack of an fd.
    fn closer(&self) -> io::Result<Option<Closer>>;

    /// Whether a read would answer at once, if reads can block.
    fn has_input(&self) -> bool {
        false
    }

    /// Reads, and takes a descriptor that came beside the bytes, if one can.
    ///
    /// # Errors
    /// Those of reading, and when there is no number for the descriptor.
    fn receive_fd(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        self.read(buffer).map(|count| (count, None))
    }

    /// Tells the sender of a data fd how far it was read.
    ///
    /// # Errors
    /// When it cannot be told.
    fn tell(&mut self, taken: &Taken) -> io::Result<()> {
        _ = taken;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tells the other side what has become of the stream.
    ///
    /// # Errors
    /// [`ReceiptError`] when it may not have heard it.
    fn answer(&mut self, receipt: &Receipt) -> Result<(), ReceiptError>;

    /// Reads on and drops what comes until the sender stops or `linger` is over. A connection closed with bytes unread is
    /// reset, and the receipt might be lost with it.
    fn drop_rest(&mut self, linger: Duration);
}

impl<C: Connection> Read for Peer<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<C: Connection> Source for Peer<C> {
    const ENDS_WITH_STREAM: bool = false;

    fn begin(&mut self, deadlines: &Deadlines) -> io::Result<()> {
        self.0.set_timeout(deadlines.network)
    }

    fn wait_at_most(&mut self, wait: Duration) -> io::Result<()> {
        self.0.set_timeout(wait)
    }

    fn closer(&self) -> io::Result<Option<Closer>> {
        self.0.closer().map(Some)
    }

    fn has_input(&self) -> bool {
        self.0.has_input()
    }

    fn receive_fd(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        self.0.receive_fd(buffer)
    }

    fn tell(&mut self, taken: &Taken) -> io::Result<()> {
        taken.write(&mut self.0)
    }

    fn answer(&mut self, receipt: &Receipt) -> Result<(), ReceiptError> {
        receipt.write(&mut self.0)
    }

    fn drop_rest(&mut self, linger: Duration) {
        let end = Instant::now() + linger;
        let mut scratch = vec![0; 64 << 10];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.0.set_timeout(left).is_err() {
                return;
            }
            match self.0.read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl Source for File {
    const ENDS_WITH_STREAM: bool = true;

    fn file(&self) -> io::Result<Option<File>> {
        self.try_clone().map(Some)
    }

    fn begin(&mut self, _: &Deadlines) -> io::Result<()> {
        Ok(())
    }

    fn closer(&self) -> io::Result<Option<Closer>> {
        Ok(None)
    }

    fn answer(&mut self, _: &Receipt) -> Result<(), ReceiptError> {
        Ok(())
    }

    fn drop_rest(&mut self, _: Duration) {}
}

/// A stream whose opening was read: its manifest says which device it is for.
pub struct Incoming<S: Source> {
    pub(super) manifest: Manifest,
    pub(super) reader: Reader<Shared<S>>,
    pub(super) source: Shared<S>,
    /// The connections beside the first, by their numbers, once [`Gather`](super::Gather) has put them together.
    pub(super) others: Vec<Incoming<S>>,
}

impl<C: Connection> Incoming<Peer<C>> {
    /// Reads the opening from a connection that somebody else has accepted and read nothing from.
    ///
    /// # Errors
    /// [`StreamError`] when no good opening comes in time; the sender was told so where that was possible.
    pub fn accept(connection: C, deadlines: &Deadlines) -> Result<Self, StreamError> {
        Self::read(Peer::new(connection), deadlines)
    }
}

impl Incoming<File> {
    /// Reads the opening of a file.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn open(file: File) -> Result<Self, StreamError> {
        Self::read(file, &Deadlines::default())
    }
}

impl<S: Source> Incoming<S> {
    fn read(mut source: S, deadlines: &Deadlines) -> Result<Self, StreamError> {
        source.begin(deadlines).map_err(|source| StreamError::Io {
            doing: "Receiving",
            offset: 0,
            source,
        })?;
        let source = Shared::new(source);
        match Opening::read(source.clone(), &Limits::default()) {
            Ok((manifest, reader)) => Ok(Self {
                manifest,
                reader,
                source,
                others: Vec::new(),
            }),
            Err(error) => {
                let receipt = Receipt::Failed {
                    vf: VfOutcome::Untouched,
                    reason: super::chain(&error),
                };
                turn_away(&source, &receipt, deadlines.linger);
                Err(error)
            }
        }
    }

    /// What the sender says about its VF.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The device that the stream is for.
    pub fn device_id(&self) -> &str {
        &self.manifest.device_id
    }

    /// Whether the source's data fd comes in the place of its state, to be read here; see [`hand_over`](super::hand_over).
    pub fn hands_over(&self) -> bool {
        self.reader.hands_over()
    }

    /// The attempt that the stream belongs to; none in a file.
    pub fn attempt(&self) -> AttemptId {
        self.reader.attempt()
    }

    /// Which connection of how many this is. A stream of several is loaded once [`Gather`](super::Gather) has put them together.
    pub fn part(&self) -> Part {
        self.reader.part()
    }

    /// How many of its connections are here.
    pub(crate) fn here(&self) -> usize {
        1 + self.others.len()
    }

    /// Turns the sender away without touching a VF; it reads `reason`.
    pub fn refuse(self, reason: &str, deadlines: &Deadlines) {
        let receipt = Receipt::Failed {
            vf: VfOutcome::Untouched,
            reason: reason.to_owned(),
        };
        // Nobody reads from these any more.
        drop(self.others);
        turn_away(&self.source, &receipt, deadlines.linger);
    }
}

/// Sends a receipt of failure and waits for the sender to stop.
pub(super) fn turn_away<S: Source>(source: &Shared<S>, receipt: &Receipt, linger: Duration) {
    let mut source = source.get();
    match source.answer(receipt) {
        Ok(()) => source.drop_rest(linger),
        Err(error) => {
            tracing::warn!(%error, "the sender cannot be told why its stream was refused");
        }
    }
}
