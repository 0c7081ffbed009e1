// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The receiving stage over several connections: a thread and two buffers for each, and frames in order out of all of them.
//!
//! Each thread sums its frames, so that checksums have as many cores as connections. One that fails, or whose frame does not have its checksum, is heard of at once, whatever
//! the others wait for. A connection may be silent as long as another one brings something.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::receiving::{Activity, Patient, SLICE, receive_summed};
use super::{Job, LoadError};
use crate::stream::Inlet;
use crate::stream::frame::CONNECTIONS_MAX;
use crate::transfer::buffer::BUFFER_SIZE;
use crate::transfer::connection::Closer;
use crate::transfer::incoming::Source;
use crate::transfer::ordered::{Feeding, Merging, lanes};
use crate::transfer::parcel::Parcel;
use crate::transfer::shared::Shared;
use crate::transfer::stages::{Stages, timed};

/// Buffers of each connection: one that is received into while the other waits for its turn.
const EACH: usize = 2;

// The bound of a side's memory for a stream.
const _: () = assert!(CONNECTIONS_MAX as usize * EACH * BUFFER_SIZE <= 32 << 20);

/// A connection beside the first.
pub(super) struct Other<S: Source> {
    pub(super) inlet: Inlet<Shared<S>>,
    pub(super) source: Shared<S>,
    pub(super) closer: Option<Closer>,
}

/// Frames from several connections.
pub(super) struct Lanes<'scope> {
    merging: Merging<Box<Parcel>>,
    threads: Vec<ScopedJoinHandle<'scope, Stages>>,
    closers: Vec<Closer>,
    unwanted: Arc<AtomicBool>,
    activity: Arc<Activity>,
}

impl<'scope> Lanes<'scope> {
    /// Starts the threads, buffers touched.
    ///
    /// # Errors
    /// When no thread can be had, or a connection's deadline cannot be set.
    pub(super) fn start<'env, S: Source + 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        job: &Job<'_, S>,
        first: Inlet<Shared<S>>,
        others: Vec<Other<S>>,
    ) -> io::Result<Self> {
        let network = job.context.deadlines.network;
        let unwanted = Arc::new(AtomicBool::new(false));
        let activity = Arc::new(Activity::new());
        let mut inlets = vec![first];
        let mut closers = Vec::new();
        job.source.get().wait_at_most(network.min(SLICE))?;
        for other in others {
            other.source.get().wait_at_most(network.min(SLICE))?;
            inlets.push(other.inlet);
            closers.extend(other.closer);
        }
        let buffers = inlets
            .iter()
            .map(|_| (0..EACH).map(|_| Parcel::new()).collect());
        let (feeding, merging) = lanes(buffers.collect());
        let mut threads = Vec::new();
        for (number, (inlet, lane)) in inlets.into_iter().zip(feeding).enumerate() {
            let inlet = inlet.map(|source| {
                Patient::new(
                    source,
                    network,
                    Arc::clone(&unwanted),
                    Arc::clone(&activity),
                )
            });
            let thread = thread::Builder::new()
                .name(format!("vf-receive-{number}"))
                .stack_size(256 << 10)
                .spawn_scoped(scope, move || run(inlet, &lane))?;
            threads.push(thread);
        }
        Ok(Self {
            merging,
            threads,
            closers,
            unwanted,
            activity,
        })
    }

    /// The next frame in order, or one that cannot be in order because its connection has failed; `None` when the threads have died.
    pub(super) fn take(&self) -> Option<Box<Parcel>> {
        let (lane, mut parcel) = self.merging.take()?;
        parcel.lane = lane;
        Some(parcel)
    }

    pub(super) fn give_back(&self, parcel: Box<Parcel>) {
        self.activity.note();
        self.merging.give_back(parcel.lane, parcel);
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Ends the threads, whatever their connections do: those beside the first are shut down.
    ///
    /// # Errors
    /// When one has panicked.
    pub(super) fn finish(self) -> Result<Stages, LoadError> {
        self.unwanted.store(true, Ordering::Relaxed);
        self.closers.iter().for_each(|close| close());
        drop(self.merging);
        let mut sum = Ok(Stages::default());
        for thread in self.threads {
            sum = match (sum, thread.join()) {
                (Ok(sum), Ok(stages)) => Ok(sum.plus(&stages)),
                (Err(error), _) => Err(error),
                (_, Err(_)) => Err(LoadError::Stage("connection")),
            };
        }
        sum
    }
}

/// Receives until the stream's end, until the connection fails or until nobody wants more.
fn run<S: Source>(mut inlet: Inlet<Patient<S>>, lane: &Feeding<Box<Parcel>>) -> Stages {
    let mut stages = Stages::default();
    while let Some(mut parcel) = timed(&mut stages.stream_idle, || lane.take()) {
        let Parcel { buffer, raw, .. } = &mut *parcel;
        receive_summed(&mut inlet, raw, buffer, &mut stages);
        let (number, is_last) = (raw.sequence(), raw.is_last());
        match number.filter(|_| raw.holds()) {
            Some(number) => {
                if !lane.put(number, parcel) || is_last {
                    break;
                }
            }
            None => {
                parcel.failed = true;
                lane.fail(parcel);
                break;
            }
        }
    }
    stages
}
