// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `host-sim status` tells about a VF, gathered without waiting for anybody.

use std::sync::atomic::Ordering;

use guest::abi::reg;
use serde::Serialize;

use super::state::ARCS;
use super::{FaultStatus, State, StormStatus, Vf};

/// A look at a VF.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Number of the VF, from 1.
    pub index: u16,
    /// PCI address.
    pub bdf: String,
    /// IOMMU group.
    pub group: u32,
    /// Number of its cdev.
    pub cdev: u32,
    /// Process that opened the device, if it is open.
    pub opener: Option<u32>,
    /// Device state.
    pub state: State,
    /// The VF does nothing until it is reset, whatever its state says.
    pub needs_reset: bool,
    /// What is under way: an arc by name, or a reset.
    pub under_way: Option<String>,
    /// A data fd is alive.
    pub data_fd: bool,
    /// A read or write of it is under way.
    pub moving: bool,
    /// Bytes read from or written to the last data fd.
    pub moved: u64,
    /// Resets since the host was made.
    pub resets: u64,
    /// Jobs submitted, as the ring's register says.
    pub submitted: u32,
    /// Jobs completed, likewise.
    pub completed: u32,
    /// The engine's STATUS register: 0, or why the ring stopped.
    pub engine: u32,
    /// DMA is being logged.
    pub dma_log: bool,
    /// The storm that is on or was the last.
    pub storm: Option<StormStatus>,
    /// Faults that are set.
    pub faults: Vec<FaultStatus>,
}

impl Vf {
    /// What the VF is doing, without waiting for it.
    #[must_use]
    pub fn status(&self) -> Status {
        let live = &self.control.live;
        let register = |r: u32| self.memory.load32(r.into());
        let arc = (live.arc.load(Ordering::Relaxed) as usize)
            .checked_sub(1)
            .and_then(|n| ARCS.get(n));
        let reset = (live.flr.load(Ordering::Relaxed) != 0).then(|| "reset".to_owned());
        let opener = live.opener.load(Ordering::Relaxed);
        Status {
            index: self.index(),
            bdf: self.bdf(),
            group: self.group_id(),
            cdev: self.cdev_index(),
            opener: (opener != 0).then_some(opener),
            state: self.now(),
            needs_reset: live.wedged.load(Ordering::Acquire) != 0,
            under_way: arc.map(ToString::to_string).or(reset),
            data_fd: live.session.load(Ordering::Relaxed) != 0,
            moving: live.moving.load(Ordering::Relaxed) != 0,
            moved: live.moved.load(Ordering::Relaxed),
            resets: live.resets.load(Ordering::Relaxed),
            submitted: register(reg::RING_TAIL),
            completed: register(reg::RING_HEAD),
            engine: register(reg::STATUS),
            dma_log: self.dma_log_is_on(),
            storm: self.storm_status(),
            faults: self.faults.list(),
        }
    }
}
