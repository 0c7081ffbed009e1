// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many threads a side of a transfer has, and what its stages have spent their time with.
//!
//! A side has two stages, joined by a belt of buffers: the one at the data fd (which reads it, parses, finds zeros and
//! makes checksums; on the other side checks, parses and writes), on the thread that was called, and the one at the connection.
//! Checksums are on the data fd's stage because the connection's is the slower of the two, and because the bytes
//! are in that core's cache. With one thread the stages take turns, with one buffer.

use std::time::{Duration, Instant};

use crate::uapi::usable_cores;

/// Buffers on the belt between two threads: enough to ride out a scheduler's time slice at 1 GiB/s, and few enough
/// to stay in the last cache.
pub(super) const BUFFERS: usize = 4;

/// Threads of one side of a transfer, the watchdog not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Threads {
    /// Two where the machine has cores for them, else one.
    #[default]
    Auto,
    /// All on the thread that was called.
    One,
    /// One more for the connection.
    Two,
}

/// Cores from which on a thread of its own for the connection pays.
const CORES: usize = 4;

impl Threads {
    /// Whether the connection has its own thread.
    pub(super) fn staged(self) -> bool {
        match self {
            Self::One => false,
            Self::Two => true,
            Self::Auto => usable_cores() >= CORES,
        }
    }
}

/// What the stages of a side have spent their time with while bytes moved. Stages overlap when they have threads of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages {
    /// In calls of the data fd.
    pub device: Duration,
    /// Parsing, zeros and checksums.
    pub frames: Duration,
    /// In calls of the connection or file.
    pub stream: Duration,
    /// The data fd's stage waited for that of the connection: a save for buffers, a load for frames.
    pub device_idle: Duration,
    /// The connection's stage waited for that of the data fd.
    pub stream_idle: Duration,
}

/// Adds what `work` takes to `sum`.
pub(super) fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *sum += started.elapsed();
    result
}
