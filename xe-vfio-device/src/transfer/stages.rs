// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many threads a side of a transfer has, and what its stages have spent their time with.
//!
//! A side has two stages, joined by a belt of buffers: the one at the data fd (which reads it, parses, finds zeros and
//! makes checksums; on the other side checks, parses and writes), on the thread that was called, and the one at the connection.
//! Checksums are on the data fd's stage because the connection's is the slower of the two, and because the bytes
//! are in that core's cache. With one thread the stages take turns, with one buffer. Compressing is with the data fd's stage too; from the moment that
//! something is compressed a save has two threads, unless told otherwise: while one is busy the other waits for the link.

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

/// Most threads that read a file ahead.
const READERS: usize = 4;

/// Cores from which on a thread of its own for the connection pays.
pub(crate) const CORES: usize = 4;

impl Threads {
    /// Whether the connection has its own thread.
    pub(super) fn staged(self) -> bool {
        self.staged_from(CORES)
    }

    /// Whether the connection may have its own thread however few cores there are.
    pub(super) fn may_stage(self) -> bool {
        self.staged_from(1)
    }

    /// Whether a file that is written has its own thread. Nobody else works on it at the same time, so two cores are enough.
    pub(super) fn staged_file(self) -> bool {
        self.staged_from(2)
    }

    /// Whether the data fd that was handed over is read by its own thread. The source only waits meanwhile, so two cores are enough.
    pub(super) fn staged_hand_over(self) -> bool {
        self.staged_from(2)
    }

    fn staged_from(self, cores: usize) -> bool {
        match self {
            Self::One => false,
            Self::Two => true,
            Self::Auto => usable_cores() >= cores,
        }
    }

    /// Threads that read a file ahead of the one that takes its frames; none with one core.
    pub(super) fn readers(self) -> usize {
        match self {
            Self::One => 0,
            Self::Two => 1,
            Self::Auto => usable_cores().saturating_sub(1).min(READERS),
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
    /// Compressing or decompressing, beside `frames`.
    pub codec: Duration,
    /// In calls of the connection or file.
    pub stream: Duration,
    /// The data fd's stage waited for that of the connection: a save for buffers, a load for frames.
    pub device_idle: Duration,
    /// The connection's stage waited for that of the data fd.
    pub stream_idle: Duration,
}

impl Stages {
    /// Of two that do the same work at the same time.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            device: self.device + other.device,
            frames: self.frames + other.frames,
            codec: self.codec + other.codec,
            stream: self.stream + other.stream,
            device_idle: self.device_idle + other.device_idle,
            stream_idle: self.stream_idle + other.stream_idle,
        }
    }
}

/// Adds what `work` takes to `sum`.
pub(super) fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *sum += started.elapsed();
    result
}
