// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No log anywhere: what the VF has written is what differs from the bytes that were sent.
//!
//! [`Fingerprints`] keeps 128 bits of each page for the bytes that the destination has of it. Once no VF makes DMA any more
//! (RUNNING_P2P; the vCPUs run on) memory is compared with them, and what differs is dirty. [`Content`] is one VF's part in it.
//! [`Pause`] bounds how long the GPUs may stand still for that while the guest runs.
//!
//! What makes it right, argued in docs/dirty-tracking.md:
//! 1. a fingerprint is of the very bytes that were sent, never of the memory that they were copied from;
//! 2. a page is compared after the last DMA to it;
//! 3. KVM's log is on before that and everything that it has from then on is sent too.

#[cfg(test)]
mod balloon_tests;
mod fingerprints;
mod key;
#[cfg(test)]
mod model_tests;
mod pause;
mod scan;
#[cfg(test)]
mod send_tests;
mod table;

pub use fingerprints::{Content, Fingerprints, Scanned};
pub use key::Key;
pub use pause::{Pause, Prediction};

/// Guest memory as it is now, while others write it.
pub trait GuestPages: Send + Sync {
    /// Copies memory, only such as [`GuestPages::touched`] has named before or the VMM sends ([`Fingerprints::send`]); what is written meanwhile may come torn. Memory that is not
    /// mapped for the VF any more is asked for too: it may have been written before.
    ///
    /// # Errors
    /// The VMM's own; for memory that is not there too.
    fn read(&self, gpa: u64, to: &mut [u8]) -> anyhow::Result<()>;

    /// The first part of a range that may hold anything but zeros, in whole pages; `None` when all of it is zeros. Memory that
    /// nobody has touched need not be allocated in order to be looked at.
    ///
    /// # Errors
    /// The VMM's own.
    fn touched(&self, range: super::GuestRange) -> anyhow::Result<Option<super::GuestRange>> {
        Ok(Some(range))
    }
}
