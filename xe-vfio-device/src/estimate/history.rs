// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The last transfers.

use std::collections::VecDeque;

use super::{Finished, Side};

/// So many are remembered.
pub(super) const MOST: usize = 64;

/// The last 64 transfers that came to a good end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History(VecDeque<Finished>);

impl History {
    /// Takes one more, and forgets the oldest when there are too many. One that moved nothing says nothing.
    pub fn push(&mut self, finished: Finished) {
        if finished.devices.iter().all(|moved| moved.state_bytes == 0) {
            return;
        }
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(finished);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From the newest to the oldest.
    pub fn newest_first(&self) -> impl Iterator<Item = &Finished> {
        self.0.iter().rev()
    }

    /// From the newest to the oldest, each with how many of its side came after it: both ends of a migration may be noted in one place.
    pub(super) fn aged(&self) -> impl Iterator<Item = (usize, &Finished)> {
        let mut later = [0, 0];
        self.newest_first().map(move |finished| {
            let count = &mut later[usize::from(finished.is_of_a_source())];
            *count += 1;
            (*count - 1, finished)
        })
    }

    /// From the oldest to the newest.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = &Finished> {
        self.0.iter()
    }
}

impl Finished {
    /// Whether it says how long a whole transfer takes: a destination does not see its beginning.
    pub(super) fn is_of_a_source(&self) -> bool {
        self.devices.iter().any(|moved| moved.side == Side::Save)
    }
}
