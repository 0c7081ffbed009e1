// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Layout of a VF's `control` file: all of its state that the guest does not see.
//!
//! Locks are taken in the order of the fields. `transition` is the driver's state mutex and `data` its data fd's mutex: as there, a
//! blocked reader holds `data` and whoever leaves the state waits for it. `engine` is held for one job at most, `faults`
//! never over a wait. What a status tells is in atomics, so that telling it waits for nobody.

// Types in shared memory are declared to be such.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64};

use super::faults::FaultTable;
use super::restore::LoadState;
use super::save::SaveState;
use crate::shm::{LockInit, Plain, RobustMutex, Shareable};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"hostsim3");

/// `Live::wedged`: the PF has stopped the VF.
pub(super) const STOPPED: u32 = 1;
/// `Live::wedged`: a process died in the middle of a change, which no kernel would let it.
pub(super) const TORN: u32 = 2;

#[repr(C)]
pub(super) struct Control {
    pub magic: AtomicU64,
    pub transition: RobustMutex<TransitionState>,
    pub data: RobustMutex<Session>,
    pub engine: RobustMutex<EngineState>,
    pub faults: RobustMutex<FaultTable>,
    /// Bit n set: the fault table has an entry for the operation with code n.
    pub armed: AtomicU64,
    pub live: Live,
}

/// What can be looked at without any lock.
#[repr(C)]
pub(super) struct Live {
    /// uAPI number of the device state; changed by the holder of `transition`.
    pub state: AtomicU32,
    /// Not 0 when the VF waits for a reset, whatever `state` says: [`STOPPED`] or [`TORN`].
    pub wedged: AtomicU32,
    /// 1 while the engine may work; changed by the holder of `engine`.
    pub gate: AtomicU32,
    /// 1 when vector 0 has to be signalled once.
    pub irq_pending: AtomicU32,
    /// Index + 1 in `ARCS` of the arc being taken, or 0.
    pub arc: AtomicU32,
    /// 1 while a function level reset is under way.
    pub flr: AtomicU32,
    /// Process that opened the device, or 0.
    pub opener: AtomicU32,
    /// 1 while a read or write of the data fd is under way.
    pub moving: AtomicU32,
    /// `SessionId` of the data fd that is alive, or 0.
    pub session: AtomicU64,
    /// Bytes read from or written to that fd.
    pub moved: AtomicU64,
    /// Resets since the host was made.
    pub resets: AtomicU64,
    /// Processes that wait for the engine to rest. One that dies meanwhile leaves it too high, which only makes a storm pause more often.
    pub wanted: AtomicU32,
    pub reserved: AtomicU32,
    /// Time (CLOCK_MONOTONIC, ns) until which the data fd is busy at the configured rate.
    pub busy_until: AtomicU64,
}

#[repr(C)]
pub(super) struct TransitionState {
    /// 1 while an arc or reset is being taken, to be found by the next one if this one dies.
    pub in_flight: u32,
}

/// The one data fd that a VF can have.
#[repr(C)]
pub(super) struct Session {
    /// `SessionId` of the fd that is alive, or 0.
    pub alive: u64,
    /// Last id given out.
    pub last: u64,
    /// Of `last`: 1 when it saves, 2 when it loads.
    pub direction: u64,
    pub save: SaveState,
    pub load: LoadState,
}

#[repr(C)]
pub(super) struct EngineState {
    pub accumulator: u32,
    pub completed: u32,
}

// SAFETY: all are repr(C), made of integers and arrays of them.
unsafe impl Plain for TransitionState {}
// SAFETY: as above.
unsafe impl Plain for Session {}
// SAFETY: as above.
unsafe impl Plain for EngineState {}
// SAFETY: as above.
unsafe impl Plain for FaultTable {}

// SAFETY: repr(C), made of atomics and locks of plain data.
unsafe impl Shareable for Control {
    fn init_locks(&self, init: &mut LockInit) {
        init.init(&self.transition);
        init.init(&self.data);
        init.init(&self.engine);
        init.init(&self.faults);
    }
}

// Processes built from different sources meet in this file.
const _: () = {
    assert!(size_of::<TransitionState>() == 4);
    assert!(size_of::<EngineState>() == 8);
    assert!(size_of::<SaveState>() == 96);
    assert!(size_of::<LoadState>() == 112);
    assert!(size_of::<Session>() == 232);
    assert!(size_of::<FaultTable>() == 8 + 32 * 32);
    assert!(size_of::<Live>() == 72);
    assert!(size_of::<Control>() == 1528);
};
