// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stage at the connection or file, on a thread of its own or not.

use std::io;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::spread::{Other, Spread};
use super::{Job, SaveError};
use crate::stream::{Frame, Outlet, StreamError};
use crate::transfer::belt::{Emptying, Filling, belt};
use crate::transfer::buffer::Buffer;
use crate::transfer::ordered::Taking;
use crate::transfer::shared::Shared;
use crate::transfer::sink::Sink;
use crate::transfer::stages::{BUFFERS, Stages, timed};

/// A buffer on its way from the data fd's stage to this one.
pub(super) struct Parcel {
    pub(super) buffer: Buffer,
    /// Bytes of state in it.
    pub(super) length: usize,
    /// Their frame.
    pub(super) frame: Frame,
    /// The stream's last bytes instead of state.
    pub(super) last: Option<Vec<u8>>,
}

impl Parcel {
    pub(super) fn new() -> Self {
        Self {
            buffer: Buffer::touched(),
            length: 0,
            frame: Frame::new(),
            last: None,
        }
    }
}

/// The sending stage has ended; [`Conveyor::finish`] says why.
pub(super) struct Ended;

/// Sends parcels.
pub(super) struct Sender<'a, S: Sink> {
    job: &'a Job<'a, S>,
    outlet: Outlet<Shared<S>>,
    stages: Stages,
    /// When the first frame that waits was held back, where frames may wait.
    held: Option<Instant>,
    holds: bool,
}

/// Frames that are a few bytes, because their state is zeros, wait for one another where this thread would send each between two reads: so
/// many are sent at once, or those of so long a time, so that a slow data fd keeps the receiver waiting for no more than a frame.
const HELD_MAX: usize = 8;
const HELD_FOR: Duration = Duration::from_micros(500);
const SMALL: usize = 256;

impl<'a, S: Sink> Sender<'a, S> {
    /// Goes on with a stream whose opening was sent.
    pub(super) fn new(job: &'a Job<'a, S>, outlet: Outlet<Shared<S>>) -> Self {
        Self {
            job,
            outlet,
            stages: Stages::default(),
            held: None,
            holds: false,
        }
    }

    /// With small frames sent together.
    fn holding(self) -> Self {
        Self {
            holds: true,
            ..self
        }
    }

    fn send(&mut self, parcel: &Parcel) -> Result<(), SaveError> {
        if let Some(bytes) = &parcel.last {
            return self.last(bytes);
        }
        let wanted = self.job.sink.get().still_wanted();
        wanted.map_err(|error| self.job.cancelled_or(error))?;
        let payload = &parcel.buffer.as_slice()[..parcel.length];
        if self.can_wait(parcel.frame.wire_bytes(payload)) {
            self.outlet.hold(&parcel.frame, payload);
            return Ok(());
        }
        self.held = None;
        self.written(|outlet| outlet.frame(&parcel.frame, payload))
    }

    /// Whether a frame of so many bytes can wait for the next one.
    fn can_wait(&mut self, bytes: usize) -> bool {
        self.holds
            && bytes <= SMALL
            && self.outlet.held() + 1 < HELD_MAX
            && self.held.get_or_insert_with(Instant::now).elapsed() < HELD_FOR
    }

    fn last(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        self.written(|outlet| outlet.flushed(bytes))
    }

    fn written(
        &mut self,
        write: impl FnOnce(&mut Outlet<Shared<S>>) -> Result<(), StreamError>,
    ) -> Result<(), SaveError> {
        let written = timed(&mut self.stages.stream, || write(&mut self.outlet));
        written.map_err(|error| self.job.broken(error))
    }

    /// Sends until there is nothing more to send.
    pub(super) fn run(mut self, parcels: &mut impl Parcels) -> Result<Stages, SaveError> {
        while let Some(parcel) = timed(&mut self.stages.stream_idle, || parcels.take()) {
            self.send(&parcel)?;
            parcels.give_back(parcel);
        }
        Ok(self.stages)
    }
}

/// Where a thread that sends gets its parcels.
pub(super) trait Parcels {
    /// The next one; `None` when nothing more comes.
    fn take(&mut self) -> Option<Box<Parcel>>;

    /// Gives one back that was sent.
    fn give_back(&self, parcel: Box<Parcel>);
}

impl Parcels for Emptying<Box<Parcel>> {
    fn take(&mut self) -> Option<Box<Parcel>> {
        Emptying::take(self)
    }

    fn give_back(&self, parcel: Box<Parcel>) {
        Emptying::give_back(self, parcel);
    }
}

impl Parcels for Taking<Box<Parcel>> {
    fn take(&mut self) -> Option<Box<Parcel>> {
        Taking::take(self)
    }

    fn give_back(&self, parcel: Box<Parcel>) {
        Taking::give_back(self, parcel);
    }
}

/// Takes parcels to the sending stage.
pub(super) enum Conveyor<'scope, S: Sink> {
    /// Sends at once, with the same parcel again and again.
    Direct {
        sender: Box<Sender<'scope, S>>,
        parcel: Option<Box<Parcel>>,
        failed: Option<SaveError>,
    },
    /// Hands them to a thread.
    Staged {
        parcels: Filling<Box<Parcel>>,
        thread: ScopedJoinHandle<'scope, Result<Stages, SaveError>>,
    },
    /// Hands them to a thread for each connection.
    Spread(Spread<'scope>),
}

impl<'scope, S: Sink> Conveyor<'scope, S> {
    /// Starts the sending stage, its buffers touched.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        sender: Sender<'scope, S>,
        others: Vec<Other>,
        staged: bool,
    ) -> io::Result<Self>
    where
        S: 'scope,
    {
        if !others.is_empty() {
            return Ok(Self::Spread(Spread::start(scope, sender, others)?));
        }
        if !staged {
            return Ok(Self::Direct {
                sender: Box::new(sender.holding()),
                parcel: Some(Box::new(Parcel::new())),
                failed: None,
            });
        }
        let (parcels, mut taken) = belt((0..BUFFERS).map(|_| Box::new(Parcel::new())).collect());
        let thread = thread::Builder::new()
            .name("vf-send".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, move || sender.run(&mut taken))?;
        Ok(Self::Staged { parcels, thread })
    }

    /// An empty parcel, as soon as there is one.
    pub(super) fn take(&mut self) -> Result<Box<Parcel>, Ended> {
        match self {
            Self::Direct { parcel, .. } => parcel.take().ok_or(Ended),
            Self::Staged { parcels, .. } => parcels.take().ok_or(Ended),
            Self::Spread(spread) => spread.take().ok_or(Ended),
        }
    }

    /// Sends a parcel, or hands it over to be sent.
    pub(super) fn put(&mut self, full: Box<Parcel>) -> Result<(), Ended> {
        match self {
            Self::Direct {
                sender,
                parcel,
                failed,
            } => match sender.send(&full) {
                Ok(()) => {
                    *parcel = Some(full);
                    Ok(())
                }
                Err(error) => {
                    *failed = Some(error);
                    Err(Ended)
                }
            },
            Self::Staged { parcels, .. } => parcels.put(full).then_some(()).ok_or(Ended),
            Self::Spread(spread) => spread.put(full).then_some(()).ok_or(Ended),
        }
    }

    /// Sends the stream's last bytes after all else, unless the stage has ended already. Whether they were sent is what
    /// [`Conveyor::finish`] answers.
    pub(super) fn last(&mut self, bytes: Vec<u8>) {
        match self {
            Self::Direct { sender, failed, .. } => {
                if failed.is_none() {
                    *failed = sender.last(&bytes).err();
                }
            }
            Self::Staged { parcels, .. } => {
                if let Some(mut parcel) = parcels.take() {
                    parcel.last = Some(bytes);
                    _ = parcels.put(parcel);
                }
            }
            Self::Spread(spread) => spread.last(bytes),
        }
    }

    /// Waits until all was sent; answers what time was spent with.
    ///
    /// # Errors
    /// Why it was not.
    pub(super) fn finish(self) -> Result<Stages, SaveError> {
        match self {
            Self::Direct { sender, failed, .. } => failed.map_or(Ok(sender.stages), Err),
            Self::Staged { parcels, thread } => {
                drop(parcels);
                let ended = thread.join();
                ended.unwrap_or(Err(SaveError::Stage("connection")))
            }
            Self::Spread(spread) => spread.finish(),
        }
    }
}
