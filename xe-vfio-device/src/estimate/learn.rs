// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Costs from what was seen, measured, or guessed, in this order.

use std::fmt;
use std::time::Duration;

use super::model::parallel;
use super::robust::Samples;
use super::{Cost, Finished, History, Machine, Moved, Route, Side, Work};

/// How something is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// It is not: what is common.
    Guessed,
    /// From rates measured for this migration or on this machine.
    Measured,
    /// From so many finished transfers.
    Learned(u32),
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guessed => f.write_str("a guess"),
            Self::Measured => f.write_str("from measured rates"),
            Self::Learned(1) => f.write_str("from 1 transfer"),
            Self::Learned(count) => write!(f, "from {count} transfers"),
        }
    }
}

/// A cost and how it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// The cost of a byte.
    pub cost: Cost,
    /// Whence.
    pub basis: Basis,
}

/// What the stages of a transfer cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Reading a byte of state at the source.
    pub read: Known,
    /// Parsing it, looking for zeros, making its checksum.
    pub frames: Known,
    /// A byte on the connection or in the file.
    pub link: Known,
    /// Writing a byte of state at the destination.
    pub write: Known,
    /// A byte of guest memory, from here to there.
    pub memory: Known,
    /// What compression has made of a byte, where it may be used and has been.
    pub packing: Option<Packing>,
    /// Seconds to STOP_COPY and RESUMING.
    pub(super) enter: f64,
    /// Seconds from the last byte to the receipt.
    pub(super) confirm: f64,
}

/// What compression makes of a byte of state that is no zero left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packing {
    /// The cost of compressing it.
    pub codec: Cost,
    /// Bytes on the connection in its place.
    pub ratio: f64,
}

/// Connections of unknown speed: 10 Gbit/s.
const LINK: f64 = 1.25e9;
/// Sockets between two processes of one machine: the kernel copies twice, and switches.
const LOCAL: f64 = 3.0e9;
/// Disks of unknown speed.
const DISK: f64 = 1.0e9;
/// Fewer bytes than these tell nothing of a rate.
const TELLING: u64 = 1 << 20;
/// A transfer's weight, for each that came after it.
const AGE: f64 = 0.85;

/// How much a finished transfer says of the work at hand: 1 for the same again, just before.
pub(super) fn likeness(work: &Work, zeros: f64, seen: &Finished, age: usize) -> f64 {
    let same = |is, otherwise| if is { 1.0 } else { otherwise };
    let lanes = |count: usize| (count.max(1) as f64).log2();
    let apart = (lanes(work.lanes.len()) - lanes(seen.devices.len())).abs();
    let content = (zeros - seen.zero_share()).abs();
    let shared = work.hosts.shared(work.route) == seen.hosts.shared(seen.route);
    let age = AGE.powi(i32::try_from(age).unwrap_or(i32::MAX));
    same(work.route == seen.route, 0.05)
        * same(work.compression || !seen.compressed(), 0.3)
        * same(shared, 0.3)
        * (-apart).exp2()
        * (-6.0 * content).exp()
        * age
}

/// How many lanes shared the time of each in a transfer: what it saw of one counts so many times too much.
fn crowded(seen: &Finished) -> f64 {
    let state: u64 = seen
        .devices
        .iter()
        .fold(0, |sum, moved| moved.state_bytes.saturating_add(sum));
    let beside = seen.memory_bytes as f64 / (state.max(1) as f64);
    let lanes = seen.devices.len() as f64 + beside.min(1.0);
    let cores = usize::try_from(seen.cores).unwrap_or(1);
    (lanes / parallel(seen.route, seen.hosts, cores)).max(1.0)
}

/// Costs for the work at hand.
pub(super) fn costs(machine: &Machine, history: &History, work: &Work, zeros: f64) -> Costs {
    let past = Past {
        history,
        work,
        zeros,
    };
    let copy = machine.copy.get();
    let read = past.cost(|_, moved| {
        (moved.side == Side::Save).then_some((moved.in_device, moved.state_bytes))
    });
    let read = or(read, copy, Basis::Guessed);
    let frames = past.cost(|_, moved| Some((moved.in_frames, moved.state_bytes)));
    let looked_at = machine.zeros.get() + (1.0 - zeros) * machine.checksum.get();
    let frames = or(frames, looked_at, Basis::Measured);
    let link = link(machine, &past);
    let write = past.cost(|_, moved| match moved.side {
        Side::Save => Some((moved.far_device?, moved.state_bytes)),
        Side::Load => Some((moved.in_device, moved.state_bytes)),
    });
    let write = or(write, read.cost.get(), Basis::Guessed);
    let memory = work.memory_cost.map(|cost| Known {
        cost,
        basis: Basis::Measured,
    });
    let around_link = link.cost.get() + copy + machine.checksum.get();
    let memory = or(memory.or_else(|| past.memory()), around_link, link.basis);
    Costs {
        read,
        frames,
        link,
        write,
        memory,
        packing: past.packing(),
        enter: past.constant(|moved| (moved.enter, 1.0)),
        // Where much was zero the source has waited for the destination there, which is no constant.
        confirm: past.constant(|moved| (moved.confirm, (1.0 - moved.zero_share()).powi(2))),
    }
}

/// A byte on the connection: as it was seen there, else as the passes over memory have it, else what is common.
fn link(machine: &Machine, past: &Past<'_>) -> Known {
    let work = past.work;
    let seen = past.cost(|seen, moved| {
        // Where compressing was what the others waited for, the connection has shown nothing of what it can.
        let shown = moved.in_codec.is_zero() || moved.in_link >= moved.stream / 2;
        let telling = moved.side == Side::Save
            && seen.route == work.route
            && shown
            && moved.wire_bytes > moved.state_bytes / 16;
        telling.then_some((moved.in_link, moved.wire_bytes))
    });
    let copy = machine.copy.get();
    // Less what is not the connection.
    let passes = work.memory_cost.map(|cost| {
        let rest = copy + machine.checksum.get();
        (cost.get() - rest).max(cost.get() / 2.0)
    });
    let (otherwise, basis) = match (passes, work.route) {
        (_, Route::HandOver) => (0.0, Basis::Measured),
        (_, Route::File) => (1.0 / DISK, Basis::Guessed),
        (Some(cost), _) => (cost, Basis::Measured),
        (None, _) if work.hosts.shared(work.route) => (1.0 / LOCAL, Basis::Guessed),
        (None, _) => (1.0 / LINK, Basis::Guessed),
    };
    or(seen, otherwise, basis)
}

fn or(found: Option<Known>, seconds: f64, basis: Basis) -> Known {
    let cost = Cost::new(seconds);
    found.unwrap_or(Known { cost, basis })
}

/// What was seen, as it bears on the work at hand.
struct Past<'a> {
    history: &'a History,
    work: &'a Work,
    zeros: f64,
}

impl Past<'_> {
    /// Transfers with their weights.
    fn weighed(&self) -> impl Iterator<Item = (&Finished, f64)> {
        let aged = self.history.aged();
        aged.map(|(age, seen)| (seen, likeness(self.work, self.zeros, seen, age)))
    }

    /// What a byte has cost a lane that has the cores for itself.
    fn cost(&self, of: impl Fn(&Finished, &Moved) -> Option<(Duration, u64)>) -> Option<Known> {
        let mut samples = Samples::default();
        for (seen, weight) in self.weighed() {
            let crowd = crowded(seen);
            for moved in &seen.devices {
                // A side that has handed its part over has spent no time on it.
                let cost = of(seen, moved)
                    .filter(|(time, bytes)| *bytes >= TELLING && !time.is_zero())
                    .and_then(|(time, bytes)| Cost::of(time, bytes));
                if let Some(cost) = cost {
                    samples.add(cost.get() / crowd, weight / seen.devices.len() as f64);
                }
            }
        }
        known(&mut samples)
    }

    /// What compression has made of a byte on this route.
    fn packing(&self) -> Option<Packing> {
        if !self.work.compression {
            return None;
        }
        let here = |seen: &Finished| seen.route == self.work.route;
        let codec = self.cost(|seen, moved| {
            (here(seen) && moved.side == Side::Save)
                .then_some((moved.in_codec, moved.plain_bytes()))
        })?;
        let mut ratios = Samples::default();
        for (seen, weight) in self.weighed().filter(|(seen, _)| here(seen)) {
            let packings = seen.devices.iter().filter_map(Moved::packing);
            packings.for_each(|ratio| ratios.add(ratio, weight / seen.devices.len() as f64));
        }
        Some(Packing {
            codec: codec.cost,
            ratio: ratios.median()?,
        })
    }

    /// What a byte of guest memory has cost.
    fn memory(&self) -> Option<Known> {
        let mut samples = Samples::default();
        for (seen, weight) in self.weighed() {
            if let Some(cost) = seen.memory_cost {
                samples.add(cost.get(), weight);
            }
        }
        known(&mut samples)
    }

    /// The seconds that something takes whatever the bytes, as the source sees it.
    fn constant(&self, of: impl Fn(&Moved) -> (Duration, f64)) -> f64 {
        let mut samples = Samples::default();
        for (seen, weight) in self.weighed() {
            for moved in seen.devices.iter().filter(|moved| moved.side == Side::Save) {
                let (time, telling) = of(moved);
                samples.add(time.as_secs_f64(), weight * telling);
            }
        }
        samples.median().unwrap_or(CONSTANT)
    }
}

/// An arc, or the way of a receipt, that nobody has seen.
const CONSTANT: f64 = 0.002;

fn known(samples: &mut Samples) -> Option<Known> {
    let cost = Cost::new(samples.median()?);
    let count = u32::try_from(samples.count()).unwrap_or(u32::MAX);
    let basis = Basis::Learned(count);
    Some(Known { cost, basis })
}
