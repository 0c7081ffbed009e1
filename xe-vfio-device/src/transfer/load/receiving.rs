// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stage at the connection or file, on a thread of its own or not.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::lanes::{Lanes, Other};
use super::{Job, LoadError};
use crate::stream::{Checker, Inlet, Raw};
use crate::transfer::belt::{Emptying, Filling, belt};
use crate::transfer::buffer::Buffer;
use crate::transfer::file::Ahead;
use crate::transfer::incoming::Source;
use crate::transfer::parcel::Parcel;
use crate::transfer::shared::Shared;
use crate::transfer::stages::{BUFFERS, Stages, timed};

/// How soon a thread that waits for a silent sender notices that nobody wants its bytes any more.
pub(super) const SLICE: Duration = Duration::from_millis(100);

/// When something was last received, on whatever connection of a stream, or taken on.
pub(super) struct Activity {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn note(&self) {
        let now = self.begun.elapsed().as_millis() as u64;
        self.last_ms.fetch_max(now, Ordering::Relaxed);
    }

    /// How long nothing has happened.
    fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

/// A source that is read until its deadline or until nobody wants it any more, whichever comes first. The deadline is that of all
/// connections together: one of several may be silent while another brings something.
pub(super) struct Patient<S> {
    source: Shared<S>,
    network: Duration,
    unwanted: Arc<AtomicBool>,
    activity: Arc<Activity>,
}

impl<S> Patient<S> {
    pub(super) fn new(
        source: Shared<S>,
        network: Duration,
        unwanted: Arc<AtomicBool>,
        activity: Arc<Activity>,
    ) -> Self {
        Self {
            source,
            network,
            unwanted,
            activity,
        }
    }
}

impl<S: Source> Read for Patient<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        loop {
            match self.source.read(buffer) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                        && started.elapsed().min(self.activity.idle()) < self.network
                        && !self.unwanted.load(Ordering::Relaxed) => {}
                result => {
                    self.activity.note();
                    return result;
                }
            }
        }
    }
}

/// What the receiving stage leaves: an inlet for what may come behind the stream, unless the stage has seen to that.
type Left<S> = (Option<Inlet<Patient<S>>>, Stages);
/// The same of its thread.
type LeftByThread<S> = (Inlet<Patient<S>>, Stages);

/// Brings frames from the receiving stage.
pub(super) enum Supply<'scope, S: Source> {
    /// Receives when asked, into the same buffer again and again.
    Direct {
        inlet: Inlet<Patient<S>>,
        parcel: Option<Box<Parcel>>,
        stages: Stages,
    },
    /// Gets them from a thread.
    Staged {
        parcels: Emptying<Box<Parcel>>,
        thread: ScopedJoinHandle<'scope, LeftByThread<S>>,
        unwanted: Arc<AtomicBool>,
    },
    /// Gets them from threads that read a file ahead.
    Ahead(Ahead<'scope>),
    /// Gets them from a thread for each connection.
    Lanes(Lanes<'scope>),
}

impl<'scope, S: Source + 'scope> Supply<'scope, S> {
    /// Starts the receiving stage, its buffers touched.
    ///
    /// # Errors
    /// When no thread can be had, or the connection's deadline cannot be set.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        job: &Job<'_, S>,
        inlet: Inlet<Shared<S>>,
        others: Vec<Other<S>>,
        checker: &Checker,
    ) -> io::Result<Self> {
        if !others.is_empty() {
            return Ok(Self::Lanes(Lanes::start(scope, job, inlet, others)?));
        }
        let file = job.source.get().file()?;
        if let Some(file) = file
            && let Some(ahead) =
                Ahead::start(scope, file, checker, inlet.framing(), job.context.threads)?
        {
            return Ok(Self::Ahead(ahead));
        }
        let unwanted = Arc::new(AtomicBool::new(false));
        let staged = job.context.threads.staged();
        // On one thread nothing can become unwanted meanwhile, and the connection has its own deadline.
        let network = if staged {
            job.context.deadlines.network
        } else {
            Duration::ZERO
        };
        let (patience, activity) = (Arc::clone(&unwanted), Arc::new(Activity::new()));
        let inlet = inlet.map(|source| Patient::new(source, network, patience, activity));
        if !staged {
            return Ok(Self::Direct {
                inlet,
                parcel: Some(Parcel::new()),
                stages: Stages::default(),
            });
        }
        job.source.get().wait_at_most(network.min(SLICE))?;
        let (filled, parcels) = belt((0..BUFFERS).map(|_| Parcel::new()).collect());
        let thread = thread::Builder::new()
            .name("vf-receive".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, move || run(inlet, &filled))?;
        Ok(Self::Staged {
            parcels,
            thread,
            unwanted,
        })
    }
}

impl<S: Source> Supply<'_, S> {
    /// The next frame; `None` when the stage has died.
    pub(super) fn take(&mut self) -> Option<Box<Parcel>> {
        match self {
            Self::Direct {
                inlet,
                parcel,
                stages,
            } => {
                let mut parcel = parcel.take()?;
                let Parcel { buffer, raw, .. } = &mut *parcel;
                receive_summed(inlet, raw, buffer, stages);
                Some(parcel)
            }
            Self::Staged { parcels, .. } => parcels.take(),
            Self::Ahead(ahead) => ahead.take(),
            Self::Lanes(lanes) => lanes.take(),
        }
    }

    /// Gives a frame's buffer back.
    pub(super) fn give_back(&mut self, emptied: Box<Parcel>) {
        match self {
            Self::Direct { parcel, .. } => *parcel = Some(emptied),
            Self::Staged { parcels, .. } => parcels.give_back(emptied),
            Self::Ahead(ahead) => ahead.give_back(emptied),
            Self::Lanes(lanes) => lanes.give_back(emptied),
        }
    }

    /// How many connections the frames come from.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Lanes(lanes) => lanes.count(),
            _ => 1,
        }
    }

    /// Ends the stage, soon even when the sender is silent.
    ///
    /// # Errors
    /// [`LoadError::Stage`] when it has died.
    pub(super) fn finish(self) -> Result<Left<S>, LoadError> {
        match self {
            Self::Direct { inlet, stages, .. } => Ok((Some(inlet), stages)),
            Self::Staged {
                parcels,
                thread,
                unwanted,
            } => {
                unwanted.store(true, Ordering::Relaxed);
                drop(parcels);
                let left = thread.join();
                left.map(|(inlet, stages)| (Some(inlet), stages))
                    .map_err(|_| LoadError::Stage("connection"))
            }
            // The index was found from the file's end, so nothing stands behind it.
            Self::Ahead(ahead) => ahead
                .finish()
                .map(|stages| (None, stages))
                .ok_or(LoadError::Stage("file")),
            Self::Lanes(lanes) => lanes.finish().map(|stages| (None, stages)),
        }
    }
}

/// Receives a frame and sums it while it comes, for those whose thread would sum it anyway.
pub(super) fn receive_summed<S: Source>(
    inlet: &mut Inlet<Patient<S>>,
    raw: &mut Raw,
    buffer: &mut Buffer,
    stages: &mut Stages,
) {
    let mut summing = Duration::ZERO;
    timed(&mut stages.stream, || {
        inlet.frame_summed(
            raw,
            |sum, bytes| timed(&mut summing, || sum.update(bytes)),
            |length| &mut buffer.bytes()[..length],
        );
    });
    stages.stream = stages.stream.saturating_sub(summing);
    stages.frames += summing;
}

/// Receives a frame for another thread to sum: the connection is the slower of the two.
fn receive<S: Source>(inlet: &mut Inlet<Patient<S>>, parcel: &mut Parcel) {
    let Parcel { buffer, raw, .. } = parcel;
    inlet.frame(raw, |length| &mut buffer.bytes()[..length]);
}

/// Receives until the stream's end or until nobody wants more.
fn run<S: Source>(mut inlet: Inlet<Patient<S>>, parcels: &Filling<Box<Parcel>>) -> LeftByThread<S> {
    let mut stages = Stages::default();
    while let Some(mut parcel) = timed(&mut stages.stream_idle, || parcels.take()) {
        timed(&mut stages.stream, || receive(&mut inlet, &mut parcel));
        let is_last = parcel.raw.is_last();
        if !parcels.put(parcel) || is_last {
            break;
        }
    }
    (inlet, stages)
}
