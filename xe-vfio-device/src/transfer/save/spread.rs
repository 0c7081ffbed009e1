// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sending stage over several connections: a thread for each, and the next frame goes to whichever is free.
//!
//! The first connection is that of the stream's end and of the receipt. One that dies ends the transfer: the others are shut down, and
//! on the first stands what the other side has to say.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::SaveError;
use super::sending::{Parcel, Parcels, Sender};
use crate::stream::{Outlet, StreamError};
use crate::transfer::connection::{Closer, Connection};
use crate::transfer::ordered::{Dealing, Taking, deal};
use crate::transfer::sink::Sink;
use crate::transfer::stages::{BUFFERS, Stages, timed};

/// Parcels beyond one for each connection: one that is being filled, and one that waits for a connection.
const SPARE: usize = 2;

/// A connection beside the first, its opening sent.
pub(super) struct Other {
    pub(super) outlet: Outlet<Box<dyn Connection>>,
    pub(super) closer: Closer,
}

/// What ends all connections but the first, and why.
struct Failure {
    closers: Vec<Closer>,
    first: Mutex<Option<SaveError>>,
}

impl Failure {
    fn report(&self, error: SaveError) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // A refusal is the other side's reason, and all else its consequence.
        if first.is_none() || matches!(error, SaveError::Refused { .. }) {
            *first = Some(error);
        }
        drop(first);
        self.closers.iter().for_each(|close| close());
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
        let (outlets, closers): (Vec<_>, _) = others
            .into_iter()
            .map(|other| (other.outlet, other.closer))
            .unzip();
        let failure = Arc::new(Failure {
            closers,
            first: Mutex::new(None),
        });
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
        for (number, (mut parcels, mut outlet)) in (1..).zip(takers.zip(outlets)) {
            let failure = Arc::clone(&failure);
            let run = move || match send(&mut parcels, &mut outlet) {
                Ok(stages) => stages,
                Err(source) => {
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
        let mut first = self
            .failure
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match first.take() {
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
    while let Some(parcel) = timed(&mut stages.stream_idle, || Parcels::take(parcels)) {
        let payload = &parcel.buffer.as_slice()[..parcel.length];
        timed(&mut stages.stream, || outlet.frame(&parcel.frame, payload))?;
        parcels.give_back(parcel);
    }
    Ok(stages)
}
