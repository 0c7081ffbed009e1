// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a byte costs on the link, seen from what sending it took.
//!
//! The time in a call that sends tells little by itself: while nothing is sent the socket's buffer empties, and at the beginning it swallows megabytes at
//! the speed of a copy. So frames are looked at together, in windows, and a window tells the link's cost only when the sender was in its
//! calls for most of it: then the buffer was full at both ends, and what went in is what went out. Otherwise the link took it all in that time, and
//! may be any faster.

use std::time::Duration;

/// A frame that was sent. Times since any moment.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Sent {
    /// Bytes on the link.
    pub(in super::super) wire: u64,
    /// Bytes that it would have without compression, about.
    pub(in super::super) plain: u64,
    /// When sending it began.
    pub(in super::super) began: Duration,
    /// When the last byte of it was taken.
    pub(in super::super) ended: Duration,
}

/// A window has this many frames at least, and one of the other two.
const FRAMES: u32 = 2;
/// Frames that are enough however short they took.
const MANY: u32 = 32;
/// Seconds that are long enough.
const LONG: f64 = 0.02;
/// Bytes on the link that a window has at least.
const BYTES: u64 = 512 << 10;
/// Share of a window in which the sender waits for the link, when the link is what limits it.
const LIMITED: f64 = 0.6;

/// A window that has ended. Costs in seconds a byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    /// A byte on the link: what it cost where the link is what limits, else at most.
    pub(super) link: f64,
    /// A byte before compression.
    pub(super) plain: f64,
    /// Bytes on the link.
    pub(super) wire: u64,
    /// Frames.
    pub(super) frames: u32,
    /// Whether the link is what limits.
    pub(super) limited: bool,
}

/// Looks at frames as they are sent, on any number of connections.
pub(super) struct Meter {
    connections: f64,
    /// When the window began.
    from: Option<Duration>,
    until: Duration,
    busy: Duration,
    wire: u64,
    plain: u64,
    frames: u32,
}

impl Meter {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            connections: connections.max(1) as f64,
            from: None,
            until: Duration::ZERO,
            busy: Duration::ZERO,
            wire: 0,
            plain: 0,
            frames: 0,
        }
    }

    /// Takes a frame; answers the window that it ends.
    pub(super) fn sent(&mut self, sent: &Sent) -> Option<Seen> {
        let from = *self.from.get_or_insert(sent.began);
        self.until = self.until.max(sent.ended).max(from);
        self.busy += sent.ended.saturating_sub(sent.began.max(from));
        self.wire += sent.wire;
        self.plain += sent.plain;
        self.frames += 1;
        let wall = (self.until - from).as_secs_f64();
        let enough = self.frames >= FRAMES && self.wire >= BYTES;
        if !enough || wall < LONG && self.frames < MANY {
            return None;
        }
        let seen = Seen {
            link: wall / self.wire as f64,
            plain: wall / self.plain.max(1) as f64,
            wire: self.wire,
            frames: self.frames,
            limited: self.busy.as_secs_f64() >= LIMITED * wall * self.connections,
        };
        *self = Self {
            from: Some(self.until),
            until: self.until,
            ..Self::new(self.connections as usize)
        };
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Frames of 1 MiB that are sent in `calls` ms each, with `between` ms between them.
    fn windows(connections: usize, frames: u32, calls: f64, between: f64) -> Vec<Seen> {
        let mut meter = Meter::new(connections);
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let at = |frame: u32| ms(f64::from(frame / connections as u32) * (calls + between));
        (0..frames)
            .filter_map(|frame| {
                meter.sent(&Sent {
                    wire: MIB,
                    plain: 2 * MIB,
                    began: at(frame),
                    ended: at(frame) + ms(calls),
                })
            })
            .collect()
    }

    #[track_caller]
    fn assert_near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 0.2, "{found} {expected}");
    }

    #[test]
    fn a_sender_that_waits_for_the_link_sees_what_it_costs_whatever_is_done_between() {
        // 8.4 ms for each MiB, of which 2 are spent otherwise.
        let seen = windows(1, 100, 6.4, 2.0);
        assert!(seen.len() > 20 && seen.iter().all(|seen| seen.limited));
        assert_near(seen[9].link, 8.4e-3 / MIB as f64);
        assert_near(seen[9].plain, 4.2e-3 / MIB as f64);
    }

    #[test]
    fn a_sender_that_hardly_waits_knows_a_bound_only() {
        let seen = windows(1, 100, 0.3, 2.0);
        assert!(!seen.is_empty() && seen.iter().all(|seen| !seen.limited));
    }

    #[test]
    fn connections_beside_each_other_count_together() {
        let seen = windows(4, 400, 8.0, 0.0);
        assert!(seen.iter().all(|seen| seen.limited));
        assert_near(seen[9].link, 2e-3 / MIB as f64);
    }

    #[test]
    fn frames_of_zeros_end_no_window() {
        let mut meter = Meter::new(1);
        for frame in 0..1000 {
            let at = Duration::from_millis(frame);
            let zeros = Sent {
                wire: 60,
                plain: 0,
                began: at,
                ended: at + Duration::from_micros(5),
            };
            assert_eq!(meter.sent(&zeros), None);
        }
    }
}
