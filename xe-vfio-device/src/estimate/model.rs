// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From bytes and costs to time: which stage the others wait for.
//!
//! A VF's stream has four stages: the source reads the data fd and makes frames, the connection carries what is not zero, the
//! destination writes. On enough cores the slowest of them is the time of all; where a side has one thread its stages add up. Several VFs and
//! the last pass over guest memory run beside each other until the cores are used up: then the work of all counts, and
//! where both sides are one machine it has half of the cores for each.

use std::fmt;

use super::learn::Costs;
use super::{Hosts, Route, Work};
use crate::transfer::STAGED_CORES;

/// What the others wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The source's data fd.
    Source,
    /// The connection or file.
    Link,
    /// The destination's data fd.
    Destination,
    /// The cores, which several streams share.
    Processor,
    /// The last pass over guest memory.
    Memory,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "reading the VF's state",
            Self::Link => "the connection",
            Self::Destination => "writing the VF's state",
            Self::Processor => "the processor",
            Self::Memory => "guest memory",
        })
    }
}

/// Streams that can run beside each other as if each were alone.
pub(super) fn parallel(route: Route, hosts: Hosts, cores: usize) -> f64 {
    let cores = cores.max(1) as f64;
    if hosts.shared(route) {
        (cores / 2.0).max(1.0)
    } else {
        cores
    }
}

/// Seconds in which devices and guest memory move, and what they wait for. `zeros` is the share of each lane.
pub(super) fn streaming(work: &Work, zeros: &[f64], costs: &Costs, cores: usize) -> (f64, Bound) {
    let lanes: Vec<_> = work
        .lanes
        .iter()
        .zip(zeros)
        .map(|(lane, zeros)| {
            let state = lane.state_bytes as f64;
            self::lane(work.route, state, *zeros, costs, cores)
        })
        .collect();
    let memory = costs.memory.cost.seconds(work.memory_bytes as f64);
    let all = lanes.iter().map(|(seconds, _)| seconds).sum::<f64>() + memory;
    let shared = all / parallel(work.route, work.hosts, cores);
    let fixed = if work.lanes.is_empty() {
        0.0
    } else {
        costs.enter + costs.confirm
    };
    let mut longest =
        lanes.into_iter().fold(
            (memory, Bound::Memory),
            |a, b| if b.0 > a.0 { b } else { a },
        );
    // Alone a lane is as long as all of them.
    if shared > longest.0 * 1.0001 {
        longest = (shared, Bound::Processor);
    }
    (fixed + longest.0, longest.1)
}

/// One VF's stream with the cores for itself, compressed where that was seen and is faster.
fn lane(route: Route, state: f64, zeros: f64, costs: &Costs, cores: usize) -> (f64, Bound) {
    let plain = uncompressed(route, state, zeros, costs, cores);
    let Some(packing) = costs.packing.filter(|_| route != Route::HandOver) else {
        return plain;
    };
    let frames = costs.frames.cost.seconds(state);
    let stays = state * (1.0 - zeros);
    // Who compresses and who sends have a thread each, however few cores there are.
    let stages = [
        (
            costs.read.cost.seconds(state) + frames + packing.codec.seconds(stays),
            Bound::Source,
        ),
        (costs.link.cost.seconds(stays * packing.ratio), Bound::Link),
        (costs.write.cost.seconds(state) + frames, Bound::Destination),
    ];
    let stages = match route {
        Route::File => &stages[..2],
        _ => &stages[..],
    };
    let compressed = stages.iter().copied().fold((0.0, Bound::Source), longer);
    if compressed.0 < plain.0 {
        compressed
    } else {
        plain
    }
}

fn longer(a: (f64, Bound), b: (f64, Bound)) -> (f64, Bound) {
    if b.0 > a.0 { b } else { a }
}

fn uncompressed(route: Route, state: f64, zeros: f64, costs: &Costs, cores: usize) -> (f64, Bound) {
    let read = costs.read.cost.seconds(state);
    let frames = costs.frames.cost.seconds(state);
    let write = costs.write.cost.seconds(state);
    let link = costs.link.cost.seconds(state * (1.0 - zeros));
    let staged = cores >= STAGED_CORES;
    let stages = match route {
        // One process reads the one and writes the other.
        Route::HandOver => vec![(read + frames + write, Bound::Source)],
        Route::File if staged => vec![(read + frames, Bound::Source), (link, Bound::Link)],
        Route::File => vec![(read + frames + link, named(read + frames, link))],
        Route::Tcp | Route::Unix if staged => vec![
            (read + frames, Bound::Source),
            (link, Bound::Link),
            (write + frames, Bound::Destination),
        ],
        Route::Tcp | Route::Unix => vec![
            (read + frames + link, named(read + frames, link)),
            (write + frames, Bound::Destination),
        ],
    };
    stages.into_iter().fold((0.0, Bound::Source), longer)
}

/// The larger part of what one thread does.
fn named(source: f64, link: f64) -> Bound {
    if link > source {
        Bound::Link
    } else {
        Bound::Source
    }
}
