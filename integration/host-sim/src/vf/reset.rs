// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Function level reset, and what opening and closing the device do.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest::abi::{self, reg};

use super::control::TORN;
use super::op::Op;
use super::state::State;
use super::{Errno, Vf, wait};
use crate::shm::bulk;

impl Vf {
    /// The first open of the device by process `opener`: function level reset, then RUNNING.
    ///
    /// # Errors
    /// `EIO` when the VF's memory cannot be cleared.
    pub fn device_opened(&self, opener: u32) -> Result<(), Errno> {
        self.control.live.opener.store(opener, Ordering::Relaxed);
        self.dma_log_ends();
        self.function_level_reset()?;
        if self.config.populate {
            // Of a card's VRAM nobody waits for a page either.
            self.memory.touch();
        }
        Ok(())
    }

    /// The last close of the device: its data fd answers `ENODEV` from now on, the engine rests, the DMA log ends. Blocks behind a blocked reader.
    pub fn device_closed(&self) {
        let _transition = self.lock_transition();
        let mut session = self.lock_data();
        self.end_session(&mut session);
        let _engine = self.quiesce_engine();
        self.set_gate(false);
        self.storm_ends();
        self.dma_log_ends();
        self.control.live.opener.store(0, Ordering::Relaxed);
    }

    /// VFIO_DEVICE_RESET from any state: takes the FLR's time, then the state is RUNNING, the data fd dead, GPU state cleared.
    /// Blocks behind a blocked reader. The DMA log goes on.
    ///
    /// # Errors
    /// That of a fault on `reset`; `EIO` when the VF's memory cannot be cleared.
    pub fn reset(&self) -> Result<(), Errno> {
        self.faults.check(Op::Reset)?;
        self.function_level_reset()
    }

    fn function_level_reset(&self) -> Result<(), Errno> {
        let live = &self.control.live;
        live.flr.store(1, Ordering::Relaxed);
        {
            let _engine = self.quiesce_engine();
            self.set_gate(false);
            self.storm_ends();
        }
        wait::sleep(Duration::from_millis(self.config.flr_ms.into()));
        // A failing step of the PF is logged there and no more.
        let _ = self.faults.check_uninterruptible(Op::Flr);

        let mut transition = self.lock_transition();
        let mut session = self.lock_data();
        transition.in_flight = 1;
        self.end_session(&mut session);
        let mut engine = self.lock_engine();
        if self.clear_memory().is_err() {
            transition.in_flight = 0;
            live.wedged.store(TORN, Ordering::Release);
            live.flr.store(0, Ordering::Relaxed);
            return Err(Errno::EIO);
        }
        engine.accumulator = abi::ACC_RESET;
        engine.completed = 0;
        live.irq_pending.store(0, Ordering::Relaxed);
        live.state.store(State::Running as u32, Ordering::Release);
        live.wedged.store(0, Ordering::Release);
        live.resets.fetch_add(1, Ordering::Relaxed);
        live.flr.store(0, Ordering::Relaxed);
        self.set_gate(true);
        transition.in_flight = 0;
        Ok(())
    }

    /// Registers, GGTT and VRAM as after a reset.
    pub(super) fn clear_memory(&self) -> io::Result<()> {
        let len = self.memory_len();
        if self.config.populate {
            self.overwrite_with_zeros(len)?;
        } else {
            bulk::punch(&self.memory_file, 0, len).or_else(|_| self.overwrite_with_zeros(len))?;
        }
        let mib = u32::try_from(self.config.vram >> 20).unwrap_or(u32::MAX);
        for (register, value) in [
            (reg::ID, abi::ID_VALUE),
            (reg::VERSION, 1),
            (reg::VRAM_MIB, mib),
            (reg::GGTT_ENTRIES, self.config.ggtt_entries()),
        ] {
            self.memory.store32(register.into(), value);
        }
        Ok(())
    }

    /// Keeps the memory that the file has.
    fn overwrite_with_zeros(&self, len: u64) -> io::Result<()> {
        let mut at = 0;
        while let Some((start, end)) = bulk::next_data(&self.memory_file, at, len)? {
            bulk::write_zeros(&self.memory_file, start, end)?;
            at = end;
        }
        Ok(())
    }
}
