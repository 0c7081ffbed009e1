// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM moves to another process.
//!
//! [`protocol`] is what is said, [`channel`] how it gets there, [`source`] and [`destination`] are the two roles.
//! The streams of the VFs are the crate's: it gets a connection each and answers when the other side has loaded it.

pub mod channel;
pub mod destination;
pub mod forecast;
pub mod pages;
pub mod prefix;
pub mod protocol;
pub mod ram;
pub mod report;
pub mod source;
#[cfg(test)]
mod tests;
pub mod timer;
pub mod watch;

use std::time::Duration;

use xe_vfio_device::dirty::{Pause, Wish};
use xe_vfio_device::transfer::Compression;

/// How long things may take. All of them can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the beginning to go; the source gives up then and its guest runs on.
    pub total: Duration,
    /// How long a peer may be silent.
    pub silence: Duration,
    /// How long after loading a destination may still run the guest.
    pub lease: Duration,
    /// How long the source waits for the answer to go.
    pub answer: Duration,
    /// Passes over memory before the guest is stopped anyway.
    pub passes: u32,
    /// Dirty bytes at which the guest is stopped.
    pub few_bytes: u64,
    /// The downtime that precopy aims at, in place of `few_bytes`.
    pub downtime: Option<Duration>,
    /// Whether the migration ends before the pause when that cannot be met.
    pub downtime_strict: bool,
    /// How guest memory that VFs write is found.
    pub dirty: Wish,
    /// How long the GPUs may stand still while the guest runs.
    pub gpu_pause: Pause,
    /// Whether the destination is a process of this host that gets the VFs' data fds instead of their state.
    pub local: bool,
    /// Connections of each VF's stream, 1 to 8.
    pub connections: u8,
    /// Whether the VFs' state is compressed, where the destination can read that.
    pub compression: Compression,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(300),
            silence: Duration::from_secs(30),
            lease: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            passes: 5,
            few_bytes: 4 << 20,
            downtime: None,
            downtime_strict: false,
            dirty: Wish::Auto,
            gpu_pause: Pause::default(),
            local: false,
            connections: 1,
            // A link that is faster than a codec does not notice it.
            compression: Compression::Auto,
        }
    }
}
