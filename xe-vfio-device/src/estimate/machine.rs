// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the processor does with bytes, measured in some milliseconds without touching a guest.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Cost;
use crate::stream::{crc::crc64, zeros::is_zero};
use crate::uapi::usable_cores;

/// Memory that is walked through: more than a core's own caches hold.
const WALK: usize = 8 << 20;
/// Bytes at a time, as a transfer has them.
const PIECE: usize = 1 << 20;
/// How long a thing is measured, the first walk not counted.
const LONG: Duration = Duration::from_millis(3);

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Cores that a transfer may use.
    pub cores: usize,
    /// memcpy, out of cache.
    pub copy: Cost,
    /// The stream's checksum.
    pub checksum: Cost,
    /// Looking at zeros.
    pub zeros: Cost,
}

impl Machine {
    /// Measures this one: some 10 ms on one core and 9 MiB, for whoever can spare them before a migration.
    pub fn measure() -> Self {
        let (source, mut target) = (vec![1u8; WALK], vec![2u8; PIECE]);
        let copy = best(&source, |piece| {
            target[..piece.len()].copy_from_slice(piece);
            black_box(&target);
        });
        let checksum = best(&source, |piece| {
            black_box(crc64(piece));
        });
        drop(source);
        let empty = vec![0u8; PIECE];
        let zeros = best(&empty, |piece| {
            black_box(is_zero(piece));
        });
        Self {
            cores: usable_cores(),
            copy,
            checksum,
            zeros,
        }
    }

    /// A processor that nobody has asked: of so many cores, as fast as a common server's.
    pub fn assumed(cores: usize) -> Self {
        let rate = |gigabytes: f64| Cost::per_second(gigabytes * 1e9).unwrap_or(Cost::FREE);
        Self {
            cores: cores.max(1),
            copy: rate(10.0),
            checksum: rate(15.0),
            zeros: rate(50.0),
        }
    }
}

/// What a byte costs in the fastest of several walks: nobody else's work is in it.
fn best(bytes: &[u8], mut work: impl FnMut(&[u8])) -> Cost {
    let mut walk = || {
        let started = Instant::now();
        bytes.chunks(PIECE).for_each(&mut work);
        started.elapsed()
    };
    walk();
    let end = Instant::now() + LONG;
    let mut least = walk();
    while Instant::now() < end {
        least = least.min(walk());
    }
    Cost::of(least, bytes.len() as u64).unwrap_or(Cost::FREE)
}
