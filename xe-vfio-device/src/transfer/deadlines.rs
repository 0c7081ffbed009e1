// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long nothing may happen.
//!
//! None of these bounds a whole transfer: a large VRAM over a slow link may take its time as long as bytes move.

use std::time::Duration;

/// What the kernel may take for RESUMING -> STOP on each GT.
const RESTORE_PER_GT: Duration = Duration::from_secs(20);

/// Deadlines of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For a connection to come about, on either side.
    pub connect: Duration,
    /// For one read or write of the data fd, up to 1 MiB. It is interrupted then and the transfer lost.
    pub device: Duration,
    /// For the peer to send or take the next bytes.
    pub network: Duration,
    /// For the receipt beyond what the kernel may take to restore (20 s per GT).
    pub receipt_margin: Duration,
    /// For a receiver that has failed to wait for its sender to stop, and for a sender that cannot write to find out why.
    pub linger: Duration,
}

impl Deadlines {
    /// For the receipt of a device with these GTs (one bit each); two GTs when they are not known.
    pub fn receipt(&self, gts: Option<u16>) -> Duration {
        let count = gts.map_or(2, u16::count_ones).max(1);
        RESTORE_PER_GT * count + self.receipt_margin
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            device: Duration::from_secs(20),
            network: Duration::from_secs(30),
            receipt_margin: Duration::from_secs(10),
            linger: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_awaited_longer_than_the_kernel_may_restore() {
        let deadlines = Deadlines::default();
        assert!(deadlines.receipt(Some(0b1)) > RESTORE_PER_GT);
        assert!(deadlines.receipt(Some(0b11)) > 2 * RESTORE_PER_GT);
        assert_eq!(deadlines.receipt(None), deadlines.receipt(Some(0b11)));
    }
}
