// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far a transfer is, readable at any time from any thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a transfer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing yet, or nothing any more.
    Idle = 0,
    /// Connecting, or waiting for the peer to connect.
    Connect = 1,
    /// Entering STOP_COPY or RESUMING.
    Enter = 2,
    /// Bytes move.
    Stream = 3,
    /// All bytes have moved; the kernel restores, or the receipt is awaited.
    Confirm = 4,
    /// What is left in the data fd is read and dropped.
    Drain = 5,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Enter => "enter",
            Self::Stream => "stream",
            Self::Confirm => "confirm",
            Self::Drain => "drain",
        })
    }
}

/// Counters of a transfer; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    phase: AtomicU8,
    bytes: AtomicU64,
    expected: AtomicU64,
}

/// What the counters said at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressView {
    /// What is being done.
    pub phase: Phase,
    /// Bytes of device state so far, drained ones included.
    pub bytes: u64,
    /// Bytes to expect, from the kernel's estimate, which is a little low; 0 when it gave none.
    pub expected: u64,
}

impl Progress {
    /// The counters now.
    pub fn view(&self) -> ProgressView {
        let phases = [
            Phase::Idle,
            Phase::Connect,
            Phase::Enter,
            Phase::Stream,
            Phase::Confirm,
            Phase::Drain,
        ];
        let phase = usize::from(self.0.phase.load(Ordering::Relaxed));
        ProgressView {
            phase: phases.get(phase).copied().unwrap_or(Phase::Idle),
            bytes: self.0.bytes.load(Ordering::Relaxed),
            expected: self.0.expected.load(Ordering::Relaxed),
        }
    }

    /// Begins a new count.
    pub(crate) fn begin(&self, expected: u64) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.expected.store(expected, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        tracing::debug!(%phase, bytes = self.view().bytes, "phase");
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
