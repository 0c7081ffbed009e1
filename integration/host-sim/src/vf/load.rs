// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The restore's parser joined to the VF's memory and engine.

use std::sync::atomic::Ordering;

use guest::abi::{self, reg};

use super::guc::HEAD_SIZE;
use super::op::Op;
use super::packet::MMIO_SIZE;
use super::restore::Sink;
use super::{Errno, SessionId, Vf, session};
use crate::shm::bulk;

impl Vf {
    /// write of the data fd: takes all of `buf`, in any segmentation.
    ///
    /// # Errors
    /// `ENODEV` for a dead session or a descriptor of another device, `EBADF` for a session that saves, `EINVAL` for bad
    /// headers, `ENOMEM` for absurd sizes, `EIO` when the restore has failed, `EINTR` after a signal. After any of them only
    /// a reset helps.
    pub fn data_write(&self, id: SessionId, buf: &[u8]) -> Result<usize, Errno> {
        let mut session = self.lock_data();
        session.check(id, session::LOADS)?;
        let _moving = self.moving();
        let begun = self.transfer_begins();
        let most = self.faults.check(Op::Write)?;
        let len = usize::try_from(most).map_or(buf.len(), |most| buf.len().min(most));
        session
            .load
            .feed(&self.config, &buf[..len], &mut Registers(self))?;
        self.transfer_ends(begun, len);
        Ok(len)
    }
}

/// A VF as the packets change it.
struct Registers<'a>(&'a Vf);

impl Registers<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        // What fails here is memory for the sparse file.
        bulk::write_at(&self.0.memory_file, bytes, offset).map_err(|_| Errno::ENOMEM)
    }

    fn words(&self, register: u32, bytes: &[u8]) {
        for (word, n) in bytes.as_chunks::<4>().0.iter().zip(0..) {
            self.0
                .memory
                .store32(u64::from(register + 4 * n), u32::from_le_bytes(*word));
        }
    }
}

impl Sink for Registers<'_> {
    fn vram(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.write(u64::from(abi::VRAM_WINDOW) + offset, bytes)
    }

    fn ggtt(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.write(u64::from(abi::GGTT) + offset, bytes)
    }

    fn mmio(&mut self, gt: u8, bytes: &[u8; MMIO_SIZE as usize]) {
        self.words(
            if gt == 0 {
                reg::SCRATCH
            } else {
                reg::MEDIA_SCRATCH
            },
            bytes,
        );
    }

    fn engine(&mut self, head: &[u8; HEAD_SIZE]) {
        let (registers, counters) = head.split_at(32);
        self.words(reg::RING_BASE, registers);
        let mut engine = self.0.lock_engine();
        let mut counters = counters
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word));
        engine.accumulator = counters.next().unwrap_or_default();
        engine.completed = counters.next().unwrap_or_default();
    }
}

impl Vf {
    /// The engine's state as a GuC packet begins with it, and the scratch registers of both GTs.
    pub(super) fn snapshot(&self) -> ([u8; HEAD_SIZE], [u8; 32]) {
        let mut head = [0; HEAD_SIZE];
        for (word, n) in head.as_chunks_mut::<4>().0.iter_mut().zip(0..8) {
            *word = self
                .memory
                .load32(u64::from(reg::RING_BASE + 4 * n))
                .to_le_bytes();
        }
        let engine = self.lock_engine();
        head[32..36].copy_from_slice(&engine.accumulator.to_le_bytes());
        head[36..].copy_from_slice(&engine.completed.to_le_bytes());
        let mut scratch = [0; 32];
        for (word, n) in scratch.as_chunks_mut::<4>().0.iter_mut().zip(0..) {
            *word = self
                .memory
                .load32(u64::from(reg::SCRATCH + 4 * n))
                .to_le_bytes();
        }
        (head, scratch)
    }

    /// Whether an interrupt may have been lost with the VMM that ran the VF before.
    pub(super) fn lost_interrupt(&self) -> bool {
        self.memory.load32(reg::RING_HEAD.into()) != self.memory.load32(reg::IRQ_ACK.into())
    }

    pub(super) fn set_gate(&self, open: bool) {
        self.control.live.gate.store(open.into(), Ordering::Release);
    }
}
