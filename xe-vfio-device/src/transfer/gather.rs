// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connections of split streams, put together as they come in.
//!
//! Each connection of a stream begins with the same manifest and the same attempt's id, and says which one it is of how many. A VMM hands each [`Incoming`]
//! to [`Gather::add`]: a stream on one connection comes back at once, one on several with its last connection. What waits here is a
//! socket and a manifest; nothing is read from it before all are there, so a sender that opens too few is held up by its own sockets
//! until its deadline.

use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::deadlines::Deadlines;
use super::incoming::{Incoming, Source};
use crate::stream::AttemptId;

/// Streams that may wait for their connections at once: more VFs than a PF has.
const STREAMS_MAX: usize = 64;

/// A connection that belongs to no stream that is awaited.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GatherError {
    /// Of another attempt.
    #[error("The connection is of attempt {found}, this is {expected}")]
    Attempt {
        /// Attempt of the connection.
        found: AttemptId,
        /// The attempt under way.
        expected: AttemptId,
    },
    /// Another connection of this number is here already.
    #[error("Connection {number} (counted from 0) of the stream of {device:?} has come twice")]
    Twice {
        /// The device.
        device: String,
        /// Number of the connection.
        number: u8,
    },
    /// It says something else than those that came before.
    #[error(
        "Connection {number} (counted from 0) of the stream of {device:?} has another manifest or another number of connections than those before it"
    )]
    Other {
        /// The device.
        device: String,
        /// Number of the connection.
        number: u8,
    },
    /// Too many streams wait.
    #[error("{STREAMS_MAX} streams wait for their connections already")]
    Full,
}

/// A connection that is turned away.
type Refused<S> = Box<(Incoming<S>, GatherError)>;

/// Collects the connections of an attempt's streams.
pub struct Gather<S: Source> {
    attempt: AttemptId,
    waiting: Mutex<Vec<Vec<Incoming<S>>>>,
}

impl<S: Source> Gather<S> {
    /// For the streams of this attempt.
    pub fn new(attempt: AttemptId) -> Self {
        Self {
            attempt,
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Takes a connection; answers the stream when this was the last one of it. Waits for nothing but, after a refusal, for the
    /// sender to hear of it, at most [`Deadlines::linger`].
    ///
    /// # Errors
    /// [`GatherError`]; the connection was told and closed, the others wait on.
    pub fn add(
        &self,
        incoming: Incoming<S>,
        deadlines: &Deadlines,
    ) -> Result<Option<Incoming<S>>, GatherError> {
        if incoming.part().count == 1 {
            return Ok(Some(incoming));
        }
        self.place(incoming).map_err(|refused| {
            let (incoming, error) = *refused;
            incoming.refuse(&error.to_string(), deadlines);
            error
        })
    }

    fn place(&self, incoming: Incoming<S>) -> Result<Option<Incoming<S>>, Refused<S>> {
        let (part, device) = (incoming.part(), incoming.device_id().to_owned());
        let number = part.number;
        if incoming.attempt() != self.attempt {
            let (found, expected) = (incoming.attempt(), self.attempt);
            let error = GatherError::Attempt { found, expected };
            return Err(Box::new((incoming, error)));
        }
        let mut waiting = self.lock();
        let same = |stream: &Vec<Incoming<S>>| stream.iter().all(|i| i.device_id() == device);
        let Some(at) = waiting.iter().position(same) else {
            if waiting.len() == STREAMS_MAX {
                return Err(Box::new((incoming, GatherError::Full)));
            }
            waiting.push(vec![incoming]);
            return Ok(None);
        };
        let stream = &mut waiting[at];
        let first = &stream[0];
        if first.part().count != part.count || first.manifest() != incoming.manifest() {
            let error = GatherError::Other { device, number };
            return Err(Box::new((incoming, error)));
        }
        if stream.iter().any(|other| other.part().number == number) {
            let error = GatherError::Twice { device, number };
            return Err(Box::new((incoming, error)));
        }
        stream.push(incoming);
        if stream.len() < usize::from(part.count) {
            return Ok(None);
        }
        let mut stream = waiting.swap_remove(at);
        stream.sort_by_key(|incoming| incoming.part().number);
        let mut parts = stream.into_iter();
        // As many as there are connections, which are at least two.
        Ok(parts.next().map(|mut first| {
            first.others = parts.collect();
            first
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Incoming<S>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
