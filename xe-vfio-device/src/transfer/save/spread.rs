// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sending stage over several connections: a thread for each, and the next frame goes to whichever is free.
//!
//! The first connection is that of the stream's end and of the receipt. One that dies ends the transfer. The others are not shut down here: the receiver
//! hears at once which one has died, ends the others, and says so on the first.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::SaveError;
use super::sending::{Parcel, Parcels, Sender};
use crate::stream::frame::CONNECTIONS_MAX;
use crate::stream::{Outlet, StreamError};
use crate::transfer::buffer::BUFFER_SIZE;
use crate::transfer::connection::{Closer, Connection};
use crate::transfer::ordered::{Dealing, Taking, deal};
use crate::transfer::sink::Sink;
use crate::transfer::stages::{BUFFERS, Stages, timed};

/// Parcels beyond one for each connection: one that is being filled, and one that waits for a connection.
const SPARE: usize = 2;

/// Most that a frame's compressed bytes take beside its buffer.
const PACKED: usize = BUFFER_SIZE + BUFFER_SIZE / 8;

// The bound of a side's memory for a stream, with a frame's bytes gathered and a codec's tables.
const _: () = assert!(
    (CONNECTIONS_MAX as usize + SPARE) * (BUFFER_SIZE + PACKED) + 2 * BUFFER_SIZE <= 32 << 20
);

/// A connection beside the first, its opening sent.
pub(super) struct Other {
    pub(super) outlet: Outlet<Box<dyn Connection>>,
    pub(super) closer: Closer,
}

/// Why it ends early.
#[derive(Default)]
struct Failure(Mutex<Option<SaveError>>);

impl Failure {
    fn report(&self, error: SaveError) {
        let mut first = self.get();
        // A refusal is the other side's reason, and all else its consequence.
        if first.is_none() || matches!(error, SaveError::Refused { .. }) {
            *first = Some(error);
        }
    }

    fn get(&self) -> MutexGuard<'_, Option<SaveError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes parcels to the threads.
pub(super) struct Spread<'scope> {
    dealing: Dealing<Box<Parcel>>,
    threads: Vec<ScopedJoinHandle<'scope, Stages>>,
    failure: Arc<Failure>,
}

impl<'scope> Spread<'scope> {
    /// Starts the threads, buffers touched.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub(super) fn start<'env, S: Sink + 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        sender: Sender<'scope, S>,
        others: Vec<Other>,
    ) -> io::Result<Self> {
        let count = 1 + others.len();
        let parcels = BUFFERS.max(count + SPARE);
        let parcels = (0..parcels).map(|_| Box::new(Parcel::new())).collect();
        let (dealing, takers) = deal(parcels, count);
        let failure = Arc::new(Failure::default());
        let named = |number| {
            thread::Builder::new()
                .name(format!("vf-send-{number}"))
                .stack_size(256 << 10)
        };
        let mut takers = takers.into_iter();
        let mut threads = Vec::new();
        if let Some(mut parcels) = takers.next() {
            let failure = Arc::clone(&failure);
            let run = move || match sender.run(&mut parcels) {
                Ok(stages) => stages,
                Err(error) => {
                    failure.report(error);
                    Stages::default()
                }
            };
            threads.push(named(0).spawn_scoped(scope, run)?);
        }
        for (number, (mut parcels, other)) in (1..).zip(takers.zip(others)) {
            let failure = Arc::clone(&failure);
            let Other { mut outlet, closer } = other;
            let run = move || match send(&mut parcels, &mut outlet) {
                Ok(stages) => stages,
                Err(source) => {
                    // What it has not sent is lost: the receiver is not to wait for it.
                    closer();
                    failure.report(SaveError::Connection {
                        number,
                        count,
                        source,
                    });
                    Stages::default()
                }
            };
            threads.push(named(number).spawn_scoped(scope, run)?);
        }
        Ok(Self {
            dealing,
            threads,
            failure,
        })
    }

    pub(super) fn take(&self) -> Option<Box<Parcel>> {
        self.dealing.take()
    }

    pub(super) fn put(&self, parcel: Box<Parcel>) -> bool {
        self.dealing.put(parcel)
    }

    /// Sends the stream's last bytes on the first connection, unless a connection has died.
    pub(super) fn last(&self, bytes: Vec<u8>) {
        if let Some(mut parcel) = self.dealing.take() {
            parcel.last = Some(bytes);
            self.dealing.last(parcel);
        }
    }

    /// Waits until all was sent.
    ///
    /// # Errors
    /// Why it was not.
    pub(super) fn finish(self) -> Result<Stages, SaveError> {
        drop(self.dealing);
        let mut sum = Stages::default();
        let mut died = false;
        for thread in self.threads {
            match thread.join() {
                Ok(stages) => sum = sum.plus(&stages),
                Err(_) => died = true,
            }
        }
        let failed = self.failure.get().take();
        match failed {
            Some(error) => Err(error),
            None if died => Err(SaveError::Stage("connection")),
            None => Ok(sum),
        }
    }
}

fn send(
    parcels: &mut Taking<Box<Parcel>>,
    outlet: &mut Outlet<Box<dyn Connection>>,
) -> Result<Stages, StreamError> {
    let mut stages = Stages::default();
    while let Some(mut parcel) = timed(&mut stages.stream_idle, || Parcels::take(parcels)) {
        stages.stream += parcel.send(outlet)?;
        parcels.give_back(parcel);
    }
    Ok(stages)
}
