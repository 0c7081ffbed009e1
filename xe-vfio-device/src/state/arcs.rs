// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's arcs as data.
//!
//! A SET to a state further away makes the VFIO core walk the shortest path (`vfio_mig_get_next_state` in
//! drivers/vfio/vfio_main.c), and a failure on the way leaves the device in between. Sessions go one arc at a time so that each
//! failure has one place; [`path`] says where a walk leads.

use super::DeviceState::{self, Resuming, Running, RunningP2p, Stop, StopCopy};

/// What the Xe driver does in one step (`xe_vfio_set_state` in drivers/vfio/pci/xe/main.c).
pub const ARCS: [(DeviceState, DeviceState); 8] = [
    (Running, RunningP2p),
    (RunningP2p, Running),
    (RunningP2p, Stop),
    (Stop, RunningP2p),
    (Stop, StopCopy),
    (StopCopy, Stop),
    (Stop, Resuming),
    (Resuming, Stop),
];

/// Whether the driver gets from one state to the other in one step.
pub fn is_arc(from: DeviceState, to: DeviceState) -> bool {
    ARCS.contains(&(from, to))
}

/// The states that a walk from `from` to `to` passes, `to` included; empty when they are equal. Found by breadth-first search.
pub fn path(from: DeviceState, to: DeviceState) -> Vec<DeviceState> {
    let mut paths = vec![(from, Vec::new())];
    let mut next = 0;
    while let Some((at, walked)) = paths.get(next).cloned() {
        if at == to {
            return walked;
        }
        for (_, reached) in ARCS.into_iter().filter(|(start, _)| *start == at) {
            if paths.iter().all(|(seen, _)| *seen != reached) {
                paths.push((reached, walked.iter().copied().chain([reached]).collect()));
            }
        }
        next += 1;
    }
    unreachable!("the arcs connect all states")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_states_is_walked_as_the_kernel_walks_it() {
        let columns = [Running, RunningP2p, Stop, StopCopy, Resuming];
        let table: [(DeviceState, [&[DeviceState]; 5]); 5] = [
            (
                Running,
                [
                    &[],
                    &[RunningP2p],
                    &[RunningP2p, Stop],
                    &[RunningP2p, Stop, StopCopy],
                    &[RunningP2p, Stop, Resuming],
                ],
            ),
            (
                RunningP2p,
                [
                    &[Running],
                    &[],
                    &[Stop],
                    &[Stop, StopCopy],
                    &[Stop, Resuming],
                ],
            ),
            (
                Stop,
                [
                    &[RunningP2p, Running],
                    &[RunningP2p],
                    &[],
                    &[StopCopy],
                    &[Resuming],
                ],
            ),
            (
                StopCopy,
                [
                    &[Stop, RunningP2p, Running],
                    &[Stop, RunningP2p],
                    &[Stop],
                    &[],
                    &[Stop, Resuming],
                ],
            ),
            (
                Resuming,
                [
                    &[Stop, RunningP2p, Running],
                    &[Stop, RunningP2p],
                    &[Stop],
                    &[Stop, StopCopy],
                    &[],
                ],
            ),
        ];
        for (from, row) in table {
            for (to, expected) in columns.into_iter().zip(row) {
                assert_eq!(path(from, to), expected, "from {from} to {to}");
            }
        }
    }

    #[test]
    fn every_step_of_every_path_is_an_arc() {
        for from in DeviceState::ALL {
            for to in DeviceState::ALL {
                let mut at = from;
                for step in path(from, to) {
                    assert!(
                        is_arc(at, step),
                        "{at} to {step} on the way from {from} to {to}"
                    );
                    at = step;
                }
                assert_eq!(at, to);
            }
        }
    }
}
