// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The policy that measures.
//!
//! All costs are seconds for a byte that would travel without compression. Sending it as it is costs `max(work, link)`, compressing it `max(work +
//! codec, ratio * link)`: from the moment that something is compressed the sender has its own thread, so the one happens while the other does. `work` is
//! reading and making frames, `link` what [`Meter`] sees, `codec` and `ratio` what a codec has made of this stream's frames lately.
//!
//! No codec is tried before the link was seen to be slow, in three windows on end: a fast one costs nothing but looking at clocks. Then single frames
//! are tried, with zstd only where LZ4 would leave the link the slowest. A codec is used while it promises a gain, and asked again what
//! it makes of the content; content that does not shrink is tried ever less.
//!
//! What promises a gain need not bring one: a destination that is slower than its link looks like a slow link from here. So after the bytes that were under
//! way have passed, and sockets are full again, what a byte costs is compared with before, and compression that has changed nothing rests. A codec that is slower than what it waits for
//! is looked behind now and then: the link may have become faster, which only bytes that are not compressed show.

use std::time::Duration;

use super::meter::{Meter, Seen, Sent};
use crate::stream::{Codec, Tried};

/// A link of 1 GB/s is faster than any codec here, whatever the content.
const FAST: f64 = 1e-9;
/// Below 2 Gbit/s there is time for any codec.
const SLOW: f64 = 4e-9;
/// Windows that have to agree; the cheapest of them counts.
const WINDOWS: usize = 3;
/// What compression has to come to, of the cost without it, to be begun.
const PROMISE: f64 = 0.87;
/// And to be gone on with: what is being done seems so much cheaper than it is.
const HABIT: f64 = 0.95;
/// What it has to have come to, to have been worth it.
const PROOF: f64 = 0.93;
/// Bytes that may be under way in sockets when compression begins.
const UNDER_WAY: u64 = 12 << 20;
/// Fewer bytes tell nothing of a codec.
const TELLING: usize = 64 << 10;
/// Frames from one trial to the next: at first, while something is compressed, and at most.
const TRIAL: (u32, u32, u32) = (16, 64, 256);
/// Frames that compression rests after it was in vain, at first and at most.
const REST: (u32, u32) = (128, 1024);
/// Frames with a codec that is slower than the link, until the link is looked at again; at first and at most.
const LOOK: (u32, u32) = (256, 2048);
/// A codec's last word on the content counts so many frames.
const FRESH: u64 = 8;

/// What a codec has made of frames.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Seconds a byte.
    cost: f64,
    /// Bytes after to bytes before.
    ratio: f64,
    /// The last frame that counts in it.
    frame: u64,
}

/// Whether compression has changed anything.
#[derive(Debug, Clone, Copy)]
struct Proof {
    /// Bytes to pass until it tells.
    under_way: u64,
    costs: [f64; WINDOWS],
    seen: usize,
}

pub(super) struct Auto {
    meter: Meter,
    /// What a byte cost on the link in the last windows, the latest last.
    windows: Vec<f64>,
    link: Option<f64>,
    work: Option<f64>,
    rates: [Option<Rate>; 2],
    now: Option<Codec>,
    /// What a byte cost before anything was compressed.
    before: f64,
    proof: Option<Proof>,
    frame: u64,
    /// Codecs to be tried, the next last.
    trials: Vec<Codec>,
    trial_due: u32,
    trial_gap: u32,
    resting: u32,
    rest: u32,
    /// Compressed bytes that may still be under way: until they are gone, sending tells what those cost.
    settling: u64,
    /// Frames in which the codec was slower than the link.
    behind: u32,
    look: u32,
}

impl Auto {
    /// For a stream over so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            meter: Meter::new(connections),
            windows: Vec::new(),
            link: None,
            work: None,
            rates: [None; 2],
            now: None,
            before: 0.0,
            proof: None,
            frame: 0,
            trials: Vec::new(),
            trial_due: 0,
            trial_gap: TRIAL.0,
            resting: 0,
            rest: REST.0,
            settling: 0,
            behind: 0,
            look: LOOK.0,
        }
    }

    /// Whether frames are being compressed.
    pub(super) fn compresses(&self) -> bool {
        self.now.is_some()
    }

    /// How the next frame is to be made.
    pub(super) fn next(&mut self) -> Option<Codec> {
        self.frame += 1;
        if self.resting > 0 {
            self.resting -= 1;
            return None;
        }
        let Some(link) = self.link.filter(|link| *link > FAST) else {
            if self.now.is_some() {
                self.forget();
            }
            return None;
        };
        if let Some(codec) = self.trial(link) {
            return Some(codec);
        }
        let best = self.best(link);
        if self.now.is_none() && best.is_some() {
            self.behind = 0;
            self.before = link.max(self.work());
        }
        if best.is_some() && best != self.now {
            // What is under way is of another kind, and hides for a while what the new one costs.
            self.proof = Some(Proof {
                under_way: UNDER_WAY,
                costs: [f64::INFINITY; WINDOWS],
                seen: 0,
            });
        }
        if self.now.is_some() && best.is_none() {
            // It is the content that has changed, or the processor: the link is what it was.
            self.settling = UNDER_WAY;
            self.windows.clear();
            self.proof = None;
            self.behind = 0;
        }
        if best != self.now {
            let name = best.map_or("none", Codec::name);
            tracing::debug!(codec = name, link_bytes_per_s = 1.0 / link, rates = ?self.rates, "compression");
        }
        self.now = best;
        best
    }

    /// What reading so many bytes and making their frame has taken.
    pub(super) fn worked(&mut self, plain: u64, took: Duration) {
        if plain >= TELLING as u64 {
            let cost = took.as_secs_f64() / plain as f64;
            self.work = Some(self.work.map_or(cost, |work| work + (cost - work) / 8.0));
        }
    }

    /// What a codec has made of a frame.
    pub(super) fn tried(&mut self, codec: Codec, tried: &Tried, took: Duration) {
        if tried.before < TELLING {
            // The frame had next to nothing to try it with.
            if self.now != Some(codec) {
                self.trials.push(codec);
            }
            return;
        }
        let before = tried.before as f64;
        let cost = took.as_secs_f64() / before;
        let ratio = tried.after.map_or(1.0, |after| after as f64 / before);
        let rate = &mut self.rates[index(codec)];
        let last = rate.filter(|rate| self.frame - rate.frame <= FRESH);
        let towards = |old: f64, new: f64| old + (new - old) / 4.0;
        *rate = Some(Rate {
            cost: last.map_or(cost, |last| towards(last.cost, cost)),
            ratio: last.map_or(ratio, |last| towards(last.ratio, ratio)),
            frame: self.frame,
        });
    }

    /// How a frame was sent.
    pub(super) fn sent(&mut self, sent: &Sent) {
        if let Some(seen) = self.meter.sent(sent) {
            self.window(&seen);
        }
    }

    fn window(&mut self, seen: &Seen) {
        if self.now.is_none() && self.settling > 0 {
            self.settling = self.settling.saturating_sub(seen.wire);
            return;
        }
        if seen.limited {
            self.behind = 0;
            if self.windows.len() == WINDOWS {
                self.windows.remove(0);
            }
            self.windows.push(seen.link);
            if self.windows.len() == WINDOWS {
                self.link = self.windows.iter().copied().reduce(f64::min);
            }
        } else if self.now.is_some() {
            // It took all of that, and waited for more.
            self.link = self.link.map(|link| link.min(seen.link));
            self.behind += seen.frames;
            if self.behind >= self.look {
                self.look = (self.look * 2).min(LOOK.1);
                self.forget();
            }
        } else {
            self.forget();
        }
        if self.now.is_some() {
            self.prove(seen);
        }
    }

    /// Compares what a byte costs now with what it has cost.
    fn prove(&mut self, seen: &Seen) {
        let Some(proof) = &mut self.proof else {
            return;
        };
        if proof.under_way > 0 {
            proof.under_way = proof.under_way.saturating_sub(seen.wire);
            return;
        }
        // As long as the sockets fill anew, the sender sees nothing of what is behind them.
        if !seen.limited {
            return;
        }
        proof.costs[proof.seen] = seen.plain;
        proof.seen += 1;
        if proof.seen < WINDOWS {
            return;
        }
        proof.costs.sort_by(f64::total_cmp);
        let vain = proof.costs[WINDOWS / 2] > PROOF * self.before;
        self.proof = None;
        if vain {
            tracing::debug!(frames = self.rest, "compression changes nothing, and rests");
            self.resting = self.rest;
            self.rest = (self.rest * 2).min(REST.1);
            self.forget();
        } else {
            self.rest = REST.0;
        }
    }

    /// Nothing is known of the link.
    fn forget(&mut self) {
        if self.now.is_some() {
            self.settling = UNDER_WAY;
        }
        self.link = None;
        self.windows.clear();
        self.now = None;
        self.proof = None;
        self.behind = 0;
    }

    fn work(&self) -> f64 {
        self.work.unwrap_or(0.0)
    }

    fn cost(&self, rate: &Rate, link: f64) -> f64 {
        (self.work() + rate.cost).max(rate.ratio * link)
    }

    /// The codec that promises most, if one promises enough.
    fn best(&self, link: f64) -> Option<Codec> {
        let mut least = PROMISE * link.max(self.work());
        let mut best = None;
        for codec in Codec::ALL {
            let Some(rate) = &self.rates[index(codec)] else {
                continue;
            };
            let habit = if self.now == Some(codec) { HABIT } else { 1.0 };
            let cost = habit * self.cost(rate, link);
            if cost < least {
                (least, best) = (cost, Some(codec));
            }
        }
        best
    }

    /// A codec that is to be tried with the next frame.
    fn trial(&mut self, link: f64) -> Option<Codec> {
        if self.trials.is_empty() {
            if self.trial_due > 0 {
                self.trial_due -= 1;
                return None;
            }
            self.trial_gap = match self.now {
                Some(_) => TRIAL.1,
                None => (self.trial_gap * 2).min(TRIAL.2),
            };
            self.trial_due = self.trial_gap;
            // The one in use is being tried all the time.
            let others = Codec::ALL.into_iter().rev();
            self.trials = others.filter(|codec| self.now != Some(*codec)).collect();
        }
        let codec = self.trials.pop()?;
        if codec == Codec::Zstd && !self.is_of_use_behind_lz4(link) {
            return None;
        }
        Some(codec)
    }

    /// Whether the link would be the slowest with LZ4 too: nobody needs a slower codec otherwise. On a slow link one try tells more than that.
    fn is_of_use_behind_lz4(&self, link: f64) -> bool {
        link > SLOW
            || self.rates[index(Codec::Lz4)]
                .is_none_or(|lz4| lz4.ratio * link > self.work() + lz4.cost)
    }
}

fn index(codec: Codec) -> usize {
    match codec {
        Codec::Lz4 => 0,
        Codec::Zstd => 1,
    }
}
