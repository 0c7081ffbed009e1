// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stage at the connection or file, on a thread of its own or not.

use std::io::{self, Write};
use std::iter;
use std::sync::mpsc;
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
    /// How what was in it before was sent.
    pub(super) sent: Option<Sent>,
}

/// How a frame was sent.
pub(super) struct Sent {
    /// Bytes on the connection.
    pub(super) wire: usize,
    /// Bytes that it would have without compression, but for what is around them.
    pub(super) plain: usize,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

impl Parcel {
    pub(super) fn new() -> Self {
        Self {
            buffer: Buffer::touched(),
            length: 0,
            frame: Frame::new(),
            last: None,
            sent: None,
        }
    }

    /// Sends the frame and notes how; answers what it took.
    pub(super) fn send<W: Write>(
        &mut self,
        outlet: &mut Outlet<W>,
    ) -> Result<Duration, StreamError> {
        let payload = &self.buffer.as_slice()[..self.length];
        let began = Instant::now();
        outlet.frame(&self.frame, payload)?;
        let ended = Instant::now();
        self.sent = Some(Sent {
            wire: self.frame.wire_bytes(payload),
            plain: self.length - self.frame.zeros(),
            began,
            ended,
        });
        Ok(ended - began)
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

    fn send(&mut self, parcel: &mut Parcel) -> Result<(), SaveError> {
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
        let sent = parcel.send(&mut self.outlet);
        self.stages.stream += sent.map_err(|error| self.job.broken(error))?;
        Ok(())
    }

    /// Whether a frame of so many bytes can wait for the next one.
    fn can_wait(&mut self, bytes: usize) -> bool {
        self.holds
            && bytes <= SMALL
            && self.outlet.held() + 1 < HELD_MAX
            && self.held.get_or_insert_with(Instant::now).elapsed() < HELD_FOR
    }

    fn last(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        let written = timed(&mut self.stages.stream, || self.outlet.flushed(bytes));
        written.map_err(|error| self.job.broken(error))
    }

    /// Sends until there is nothing more to send.
    pub(super) fn run(mut self, parcels: &mut impl Parcels) -> Result<Stages, SaveError> {
        while let Some(mut parcel) = timed(&mut self.stages.stream_idle, || parcels.take()) {
            self.send(&mut parcel)?;
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
pub(super) enum Conveyor<'scope, 'env, S: Sink> {
    /// Sends at once, with the same parcel again and again.
    Direct {
        scope: &'scope Scope<'scope, 'env>,
        /// There until a thread has it.
        sender: Option<Box<Sender<'scope, S>>>,
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

impl<'scope, 'env, S: Sink + 'scope> Conveyor<'scope, 'env, S> {
    /// Starts the sending stage, its buffers touched.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(
        scope: &'scope Scope<'scope, 'env>,
        sender: Sender<'scope, S>,
        others: Vec<Other>,
        staged: bool,
    ) -> io::Result<Self> {
        if !others.is_empty() {
            return Ok(Self::Spread(Spread::start(scope, sender, others)?));
        }
        let mut conveyor = Self::Direct {
            scope,
            sender: Some(Box::new(sender.holding())),
            parcel: Some(Box::new(Parcel::new())),
            failed: None,
        };
        if staged {
            conveyor.stage()?;
        }
        Ok(conveyor)
    }

    /// Gives a sending stage that takes turns a thread of its own, where one can be had.
    pub(super) fn overlap(&mut self) {
        if let Err(error) = self.stage() {
            tracing::warn!(%error, "the connection gets no thread of its own");
        }
    }

    fn stage(&mut self) -> io::Result<()> {
        let Self::Direct {
            scope,
            sender,
            parcel,
            failed: None,
        } = self
        else {
            return Ok(());
        };
        // The thread comes first, so that a sender is not lost with one that does not come.
        let (give, given) = mpsc::channel::<(Box<Sender<'scope, S>>, Emptying<Box<Parcel>>)>();
        let run = move || match given.recv() {
            Ok((sender, mut taken)) => sender.run(&mut taken),
            Err(_) => Err(SaveError::Stage("connection")),
        };
        let thread = thread::Builder::new()
            .name("vf-send".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, run)?;
        let (Some(mut sender), Some(first)) = (sender.take(), parcel.take()) else {
            unreachable!("nothing is under way between two frames")
        };
        // What it holds back goes with the next frame.
        sender.holds = false;
        let more = (1..BUFFERS).map(|_| Box::new(Parcel::new()));
        let (parcels, taken) = belt(iter::once(first).chain(more).collect());
        // It waits for nothing else.
        _ = give.send((sender, taken));
        *self = Self::Staged { parcels, thread };
        Ok(())
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
    pub(super) fn put(&mut self, mut full: Box<Parcel>) -> Result<(), Ended> {
        match self {
            Self::Direct {
                sender,
                parcel,
                failed,
                ..
            } => match sender.as_mut().ok_or(Ended)?.send(&mut full) {
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
                if let (None, Some(sender)) = (&failed, sender) {
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
            Self::Direct { sender, failed, .. } => match failed {
                Some(error) => Err(error),
                None => sender.map_or(Err(SaveError::Stage("connection")), |sender| {
                    Ok(sender.stages)
                }),
            },
            Self::Staged { parcels, thread } => {
                drop(parcels);
                let ended = thread.join();
                ended.unwrap_or(Err(SaveError::Stage("connection")))
            }
            Self::Spread(spread) => spread.finish(),
        }
    }
}
