// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hearing the destination with an eye on the cancel: a cancel does not shut the connection down here, since the destination is to say that it has stopped.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use crate::transfer::cancel::Cancel;
use crate::transfer::connection::Connection;

/// How soon a cancel is noticed.
const SLICE: Duration = Duration::from_millis(20);

/// A connection that is read until a point in time, or until a cancel.
pub(super) struct Listening<'a, C> {
    connection: &'a mut C,
    until: Instant,
    cancel: Option<&'a Cancel>,
}

impl<'a, C: Connection> Listening<'a, C> {
    /// Reads for at most `wait`, or until `cancel` if there is one.
    ///
    /// # Errors
    /// When the connection takes no timeout.
    pub(super) fn new(
        connection: &'a mut C,
        wait: Duration,
        cancel: Option<&'a Cancel>,
    ) -> io::Result<Self> {
        connection.set_timeout(SLICE)?;
        Ok(Self {
            connection,
            until: Instant::now() + wait,
            cancel,
        })
    }
}

impl<C: Connection> Read for Listening<'_, C> {
    /// # Errors
    /// `TimedOut` when the time is over, `ConnectionAborted` after a cancel, and those of the connection.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_some_and(Cancel::is_cancelled) {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            match self.connection.read(buffer) {
                Err(error) if is_early(&error) => {
                    if Instant::now() >= self.until {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                result => return result,
            }
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
