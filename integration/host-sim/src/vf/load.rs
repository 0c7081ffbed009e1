// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The restore's parser joined to the VF's memory and engine.

use std::sync::atomic::Ordering;

use guest::abi::{self, reg};

use super::control::Session;
use super::guc::HEAD_SIZE;
use super::op::Op;
use super::packet::{Kind, MMIO_SIZE, Packet};
use super::restore::{LoadState, Pending, Sink};
use super::save::SaveState;
use super::wait::Signals;
use super::{Errno, SessionId, Vf, session};
use crate::shm::bulk;

impl Vf {
    /// write of the data fd: takes all of `buf`, in any segmentation.
    ///
    /// # Errors
    /// `ENODEV` for a dead session or a descriptor of another device, `EBADF` for a session that saves, `EINVAL` for bad
    /// headers, `ENOMEM` for absurd sizes, `EIO` at the end of a packet when the restore had failed before, `EINTR` after a
    /// signal. After any of them only a reset helps, and what is left of a packet still has to be forgotten: see
    /// [`crate::host::HostConfig::keep_half_packets`].
    pub fn data_write(&self, id: SessionId, buf: &[u8]) -> Result<usize, Errno> {
        let signals = Signals::held_back();
        let mut session = self.lock_data();
        session.check(id, session::LOADS)?;
        let _moving = self.moving();
        let begun = self.transfer_begins();
        let most = self.faults.check_within(Op::Write, &signals)?;
        let len = usize::try_from(most).map_or(buf.len(), |most| buf.len().min(most));
        let mut sink = Registers {
            vf: self,
            signals: &signals,
        };
        session.load.feed(&self.config, &buf[..len], &mut sink)?;
        self.transfer_ends(begun, len);
        Ok(len)
    }
}

/// A VF as the packets change it.
struct Registers<'a> {
    vf: &'a Vf,
    signals: &'a Signals,
}

impl Registers<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if self.vf.config.populate {
            self.vf.memory.write(offset, bytes);
            return Ok(());
        }
        // What fails here is memory for the sparse file.
        bulk::write_at(&self.vf.memory_file, bytes, offset).map_err(|_| Errno::ENOMEM)
    }

    fn words(&self, register: u32, bytes: &[u8]) {
        for (word, n) in bytes.as_chunks::<4>().0.iter().zip(0..) {
            self.vf
                .memory
                .store32(u64::from(register + 4 * n), u32::from_le_bytes(*word));
        }
    }
}

impl Sink for Registers<'_> {
    fn turn_to_packet(&mut self) -> Result<(), Errno> {
        self.vf
            .faults
            .check_within(Op::Consumer, self.signals)
            .map(drop)
    }

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
        let mut engine = self.vf.lock_engine();
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
    /// The beginning of a restore: as in the Xe PF with the packet that somebody has left half written, or half read.
    pub(super) fn begin_load(&self, session: &mut Session) {
        let mut pending = std::mem::take(&mut session.load.pending);
        if let Some((packet, read)) = self.take_half_read(&mut session.save) {
            pending = Pending::half_read(&packet, read, Self::kept_payload(&packet, &session.save));
        }
        if !self.config.keep_half_packets {
            pending = Pending::default();
        }
        session.load = LoadState::begin(pending);
    }

    /// What a new save does to them.
    pub(super) fn forget_half_packets(session: &mut Session) {
        session.load.pending = Pending::default();
        session.save.left = 0;
    }

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

    /// The beginning of a saved packet's payload.
    fn kept_payload(packet: &Packet, save: &SaveState) -> [u8; HEAD_SIZE] {
        let mut payload = [0; HEAD_SIZE];
        match (packet.kind, packet.gt) {
            (Kind::Mmio, gt) => {
                let from = 16 * usize::from(gt.min(1));
                payload[..16].copy_from_slice(&save.scratch[from..from + 16]);
            }
            (Kind::Guc, 0) => payload = save.head,
            _ => {}
        }
        payload
    }

    /// Whether an interrupt may have been lost with the VMM that ran the VF before.
    pub(super) fn lost_interrupt(&self) -> bool {
        self.memory.load32(reg::RING_HEAD.into()) != self.memory.load32(reg::IRQ_ACK.into())
    }

    pub(super) fn set_gate(&self, open: bool) {
        self.control.live.gate.store(open.into(), Ordering::Release);
    }
}
