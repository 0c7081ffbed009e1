// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device states of VFIO migration v2 that this VF has, and the arcs between them as data.
//!
//! Numbers are `enum vfio_device_mig_state` of include/uapi/linux/vfio.h. A SET names any state; the kernel walks there by
//! single arcs (`path`), which is what `vfio_mig_get_next_state` of drivers/vfio/vfio_main.c answers for a device with
//! STOP_COPY and P2P.

use std::fmt;

/// A state that a VF can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u32)]
pub enum State {
    /// Nothing moves.
    Stop = 1,
    /// The VF works.
    Running = 2,
    /// The state can be read from the data fd.
    StopCopy = 3,
    /// The state can be written to the data fd.
    Resuming = 4,
    /// The VF takes accesses, executes nothing and makes no DMA.
    RunningP2p = 5,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Running,
        Self::RunningP2p,
        Self::Stop,
        Self::StopCopy,
        Self::Resuming,
    ];

    /// The state with the uAPI's number `raw`; `None` for ERROR, the PRE_COPY states and numbers that mean nothing.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u32 == raw)
    }

    /// The name in the uAPI, without its prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Running => "RUNNING",
            Self::StopCopy => "STOP_COPY",
            Self::Resuming => "RESUMING",
            Self::RunningP2p => "RUNNING_P2P",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A single step that the driver implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arc {
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
}

/// The driver's arcs; every other pair of states is a combination of these.
pub const ARCS: [Arc; 8] = [
    Arc {
        from: State::Running,
        to: State::RunningP2p,
    },
    Arc {
        from: State::RunningP2p,
        to: State::Running,
    },
    Arc {
        from: State::RunningP2p,
        to: State::Stop,
    },
    Arc {
        from: State::Stop,
        to: State::RunningP2p,
    },
    Arc {
        from: State::Stop,
        to: State::StopCopy,
    },
    Arc {
        from: State::StopCopy,
        to: State::Stop,
    },
    Arc {
        from: State::Stop,
        to: State::Resuming,
    },
    Arc {
        from: State::Resuming,
        to: State::Stop,
    },
];

impl fmt::Display for Arc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.from, self.to)
    }
}

/// The arc that the kernel takes next on its way from `from` to `to`; `None` when it is there.
#[must_use]
pub fn next_arc(from: State, to: State) -> Option<Arc> {
    use State::{Resuming, Running, RunningP2p, Stop, StopCopy};
    let next = match (from, to) {
        (a, b) if a == b => return None,
        (Running, _) => RunningP2p,
        (RunningP2p, Running) => Running,
        (RunningP2p, _) => Stop,
        (Stop, Running | RunningP2p) => RunningP2p,
        (Stop, other) => other,
        (StopCopy | Resuming, _) => Stop,
    };
    Some(Arc { from, to: next })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Shortest way over `ARCS`, found without `next_arc`.
    fn shortest(from: State, to: State) -> Vec<State> {
        let mut queue = VecDeque::from([vec![from]]);
        while let Some(way) = queue.pop_front() {
            let here = *way.last().expect("a way has its start");
            if here == to {
                return way[1..].to_vec();
            }
            for arc in ARCS
                .iter()
                .filter(|a| a.from == here && !way.contains(&a.to))
            {
                let mut longer = way.clone();
                longer.push(arc.to);
                queue.push_back(longer);
            }
        }
        unreachable!("every state can be reached");
    }

    #[test]
    fn every_pair_of_states_is_joined_by_the_shortest_way_over_the_arcs() {
        for from in State::ALL {
            for to in State::ALL {
                let mut way = Vec::new();
                let mut here = from;
                while let Some(arc) = next_arc(here, to) {
                    assert!(ARCS.contains(&arc), "{arc} is no arc of the driver");
                    here = arc.to;
                    way.push(here);
                }
                assert_eq!(way, shortest(from, to), "from {from} to {to}");
            }
        }
    }

    #[test]
    fn numbers_outside_the_five_states_are_no_state() {
        for raw in [0, 6, 7, 8, 42, u32::MAX] {
            assert_eq!(State::from_raw(raw), None);
        }
        for state in State::ALL {
            assert_eq!(State::from_raw(state as u32), Some(state));
        }
    }
}
