// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The policy against links, codecs and destinations made of numbers, on a clock of their own.

use std::collections::VecDeque;
use std::time::Duration;

use super::auto::Auto;
use super::meter::Sent;
use crate::stream::{Codec, Tried};

const MIB: f64 = 1_048_576.0;

/// What two codecs make of content: seconds a byte and ratio, of LZ4 and zstd.
#[derive(Debug, Clone, Copy)]
struct Content([(f64, f64); 2]);

/// 2.2 : 1 and 3.3 : 1, at rates that were measured.
const TEXT: Content = Content([(1.7e-9, 0.45), (3.3e-9, 0.30)]);
/// Nothing, and it is noticed soon.
const NOISE: Content = Content([(0.3e-9, 1.0), (0.8e-9, 1.0)]);

/// A save of frames of 1 MiB.
struct World {
    /// Bytes a second on the link, by the frame that is under way.
    link: fn(usize) -> f64,
    /// Bytes of state a second that the destination takes.
    destination: f64,
    content: fn(usize) -> Content,
    /// Bytes that sockets hold.
    sockets: f64,
    /// Whether the connection has its own thread from the start.
    staged: bool,
    frames: usize,
}

impl Default for World {
    fn default() -> Self {
        Self {
            link: |_| gbit(1.0),
            destination: 4e9,
            content: |_| TEXT,
            sockets: 3.0 * MIB,
            staged: false,
            frames: 1024,
        }
    }
}

fn gbit(rate: f64) -> f64 {
    rate * 1e9 / 8.0
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// Seconds until the last byte was taken from here.
    took: f64,
    /// Frames by what was done with them: as they are, LZ4, zstd.
    frames: [usize; 3],
    /// Codec by frame.
    chosen: Vec<Option<Codec>>,
}

/// Bytes on their way, in the order in which they were sent: how many, and what each costs to be drained.
struct Link {
    queue: VecDeque<(f64, f64)>,
    held: f64,
    at: f64,
}

impl Link {
    fn drain(&mut self, until: f64) {
        while self.at < until {
            let Some((bytes, cost)) = self.queue.front_mut() else {
                self.at = until;
                break;
            };
            let some = ((until - self.at) / *cost).min(*bytes);
            *bytes -= some;
            self.held -= some;
            self.at += some * *cost;
            if *bytes < 1e-6 {
                self.queue.pop_front();
            } else {
                self.at = until;
            }
        }
    }

    /// Sends from `began` on; answers when the last byte was taken.
    fn send(&mut self, began: f64, bytes: f64, cost: f64, room: f64) -> f64 {
        const COPY: f64 = 0.25e-9;
        let mut now = began + COPY * bytes;
        self.drain(now);
        self.queue.push_back((bytes, cost));
        self.held += bytes;
        while self.held > room {
            let (first, cost) = self.queue[0];
            now += first.min(self.held - room) * cost + 1e-9;
            self.drain(now);
        }
        now
    }
}

impl World {
    fn run(&self, mut policy: Option<Auto>) -> Outcome {
        // Reading, zeros, checksum.
        const WORK: f64 = 0.45e-9;
        const BELT: usize = 4;
        let mut link = Link {
            queue: VecDeque::new(),
            held: 0.0,
            at: 0.0,
        };
        let mut outcome = Outcome::default();
        // When each stage is free, and when each frame was sent.
        let (mut reader, mut sender) = (0.0f64, 0.0f64);
        let mut sent: Vec<(f64, f64, f64)> = Vec::new();
        let mut told = 0;
        let mut staged = self.staged;
        for frame in 0..self.frames {
            let lag = if staged { BELT } else { 1 };
            if let Some(at) = frame.checked_sub(lag) {
                reader = reader.max(sent[at].2);
            }
            staged |= policy.as_ref().is_some_and(Auto::compresses);
            if let Some(policy) = &mut policy {
                while told < sent.len() && sent[told].2 <= reader {
                    let (wire, began, ended) = sent[told];
                    told += 1;
                    policy.sent(&Sent {
                        wire: wire as u64,
                        plain: MIB as u64,
                        began: Duration::from_secs_f64(began),
                        ended: Duration::from_secs_f64(ended),
                    });
                }
            }
            reader += WORK * MIB;
            let codec = policy.as_mut().and_then(Auto::next);
            let mut wire = MIB;
            if let (Some(codec), Some(policy)) = (codec, &mut policy) {
                let (cost, ratio) = (self.content)(frame).0[codec as usize - 1];
                reader += cost * MIB;
                let after = (ratio < 0.9).then_some((ratio * MIB) as usize);
                wire = after.map_or(MIB, |after| after as f64);
                let tried = Tried {
                    before: MIB as usize,
                    after,
                };
                policy.tried(codec, &tried, Duration::from_secs_f64(cost * MIB));
            }
            if let Some(policy) = &mut policy {
                policy.worked(MIB as u64, Duration::from_secs_f64(WORK * MIB));
            }
            outcome.chosen.push(codec);
            outcome.frames[codec.map_or(0, |codec| codec as usize)] += 1;
            let began = reader.max(sender);
            let cost = (1.0 / (self.link)(frame)).max(MIB / wire / self.destination);
            sender = link.send(began, wire, cost, self.sockets);
            sent.push((wire, began, sender));
        }
        outcome.took = sender;
        outcome
    }

    /// With the policy, and without.
    fn both(&self) -> (Outcome, Outcome) {
        (self.run(Some(Auto::new(1))), self.run(None))
    }
}

#[track_caller]
fn assert_ratio(auto: &Outcome, off: &Outcome, least: f64, most: f64) {
    let ratio = auto.took / off.took;
    assert!(
        (least..=most).contains(&ratio),
        "{ratio:.3} of {:.2} s, frames {:?}",
        off.took,
        auto.frames
    );
}

#[test]
fn text_on_a_link_of_1_gbit_is_compressed_and_takes_less_than_half() {
    for staged in [false, true] {
        let (auto, off) = World {
            staged,
            ..World::default()
        }
        .both();
        assert_ratio(&auto, &off, 0.3, 0.48);
        assert!(auto.frames[0] < 40, "{:?}", auto.frames);
    }
}

#[test]
fn a_slower_link_gets_zstd_and_one_in_between_lz4() {
    let slow = World {
        link: |_| gbit(0.2),
        frames: 400,
        ..World::default()
    };
    let (auto, off) = slow.both();
    assert_ratio(&auto, &off, 0.3, 0.45);
    assert!(auto.frames[2] > 300, "{:?}", auto.frames);

    let between = World {
        link: |_| gbit(2.8),
        ..World::default()
    };
    let (auto, off) = between.both();
    assert_ratio(&auto, &off, 0.4, 0.88);
    assert!(auto.frames[1] > 600, "{:?}", auto.frames);
}

#[test]
fn a_fast_link_sees_no_codec_at_all() {
    for (rate, staged) in [(10.0, false), (25.0, true), (40.0, false), (100.0, true)] {
        let link: fn(usize) -> f64 = match rate as u32 {
            10 => |_| gbit(10.0),
            25 => |_| gbit(25.0),
            40 => |_| gbit(40.0),
            _ => |_| gbit(100.0),
        };
        let world = World {
            link,
            staged,
            ..World::default()
        };
        let (auto, off) = world.both();
        assert_eq!(auto.frames, [1024, 0, 0], "{rate} Gbit/s");
        assert_ratio(&auto, &off, 1.0, 1.0);
    }
}

#[test]
fn noise_is_given_up_soon_and_tried_again_now_and_then() {
    for link in [|_| gbit(0.5), |_| gbit(1.0), |_| gbit(4.0)] {
        let world = World {
            link,
            content: |_| NOISE,
            ..World::default()
        };
        let (auto, off) = world.both();
        assert_ratio(&auto, &off, 0.99, 1.02);
        let tried = auto.frames[1] + auto.frames[2];
        assert!((4..40).contains(&tried), "{:?}", auto.frames);
    }
}

#[test]
fn content_that_changes_is_followed() {
    let world = World {
        content: |frame| match frame / 400 {
            1 => NOISE,
            _ => TEXT,
        },
        frames: 1600,
        ..World::default()
    };
    let (auto, off) = world.both();
    let compressed = |frames: std::ops::Range<usize>| {
        auto.chosen[frames]
            .iter()
            .filter(|one| one.is_some())
            .count()
    };
    assert!(compressed(100..400) > 280);
    assert!(compressed(420..800) < 60, "{}", compressed(420..800));
    assert!(compressed(1100..1600) > 480, "{}", compressed(1100..1600));
    assert_ratio(&auto, &off, 0.4, 0.7);
}

#[test]
fn a_destination_that_is_slower_than_its_link_is_not_compressed_for() {
    for staged in [false, true] {
        let world = World {
            link: |_| gbit(100.0),
            destination: 200e6,
            sockets: 8.0 * MIB,
            staged,
            frames: 2048,
            ..World::default()
        };
        let (auto, off) = world.both();
        assert_ratio(&auto, &off, 0.97, 1.03);
        assert!(auto.frames[0] > 1300, "{:?}", auto.frames);
    }
}

#[test]
fn a_link_that_becomes_fast_is_noticed() {
    let world = World {
        link: |frame| gbit(if frame < 500 { 1.0 } else { 40.0 }),
        frames: 4000,
        ..World::default()
    };
    let (auto, _) = world.both();
    assert!(
        auto.chosen[100..500]
            .iter()
            .filter(|one| one.is_some())
            .count()
            > 350
    );
    let late = auto.chosen[2000..].iter().filter(|one| one.is_some());
    assert_eq!(late.count(), 0, "{:?}", auto.frames);
}

#[test]
fn a_link_that_becomes_slow_is_noticed() {
    let world = World {
        link: |frame| gbit(if frame < 500 { 40.0 } else { 1.0 }),
        frames: 1500,
        ..World::default()
    };
    let (auto, _) = world.both();
    assert!(auto.chosen[..500].iter().all(Option::is_none));
    assert!(
        auto.chosen[600..]
            .iter()
            .filter(|one| one.is_some())
            .count()
            > 800
    );
}

/// Hiccups of a busy machine are no slow link.
#[test]
fn a_pause_now_and_then_starts_no_codec() {
    let world = World {
        link: |frame| {
            if frame % 90 == 7 {
                gbit(0.4)
            } else {
                gbit(25.0)
            }
        },
        ..World::default()
    };
    let (auto, _) = world.both();
    assert_eq!(auto.frames, [1024, 0, 0]);
}
