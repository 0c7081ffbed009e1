// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! read of the data fd: the packets, produced as they are read.
//!
//! Where a save stands is a number of packets and a number of bytes; nothing is buffered. As in the kernel a read fills its whole
//! buffer across packets, so that a short one only happens at the end, and a signal while it waits for a
//! packet loses what it has copied and spoils the save.

use std::sync::atomic::Ordering;

use guest::abi;

use super::guc::{HEAD_SIZE, Payload};
use super::op::Op;
use super::packet::{self, HEADER_SIZE, Kind, Packet};
use super::wait::Signals;
use super::{Errno, SessionId, Vf, session};
use crate::shm::bulk;

/// Where a save stands; all zeros is its beginning.
#[repr(C)]
pub(super) struct SaveState {
    /// Packets taken from the producers.
    pub consumed: u64,
    /// Bytes of the last of them, header included, that have not been read.
    pub left: u64,
    /// 1 when production failed.
    pub failed: u32,
    /// 1 when a signal lost bytes.
    spoilt: u32,
    /// The engine's state, as it begins the main GT's GuC packet.
    pub head: [u8; HEAD_SIZE],
    /// The scratch registers of both GTs.
    pub scratch: [u8; 32],
}

impl SaveState {
    pub fn begin(head: [u8; HEAD_SIZE], scratch: [u8; 32]) -> Self {
        Self {
            consumed: 0,
            left: 0,
            failed: 0,
            spoilt: 0,
            head,
            scratch,
        }
    }
}

impl Vf {
    /// read of the data fd: the bytes copied, 0 at the end again and again. Blocks while a producer is stuck.
    ///
    /// # Errors
    /// `ENODEV` for a dead session, `EBADF` for one that loads, `EIO` when the save failed, `EINTR` when a signal came while it
    /// waited, and errno 512 in every read of that save after it.
    pub fn data_read(&self, id: SessionId, buf: &mut [u8]) -> Result<usize, Errno> {
        let signals = Signals::held_back();
        let mut session = self.lock_data();
        session.check(id, session::SAVES)?;
        let _moving = self.moving();
        let begun = self.transfer_begins();
        let state = &mut session.save;
        let result = self.fill(state, buf, &signals);
        if let Ok(n) = result {
            self.transfer_ends(begun, n);
        }
        result
    }

    fn fill(
        &self,
        state: &mut SaveState,
        buf: &mut [u8],
        signals: &Signals,
    ) -> Result<usize, Errno> {
        let most = self.faults.check_within(Op::Read, signals)?;
        match (state.failed, state.spoilt) {
            _ if buf.is_empty() => return Ok(0),
            (0, 0) => {}
            // The PF keeps the error that ended its wait.
            (0, _) => return Err(Errno::ERESTARTSYS),
            _ => return Err(Errno::EIO),
        }
        let len = usize::try_from(most).map_or(buf.len(), |most| buf.len().min(most));
        let mut filled = 0;
        while filled < len {
            if state.left == 0 && !self.take_packet(state, signals)? {
                break;
            }
            let Some(packet) = self.plan.packet(state.consumed - 1) else {
                return Err(Errno::EIO);
            };
            let n = usize::try_from(state.left).map_or(len - filled, |left| left.min(len - filled));
            let position = packet.size + HEADER_SIZE as u64 - state.left;
            let n = self
                .copy_packet(&packet, state, position, &mut buf[filled..filled + n])
                .inspect_err(|_| {
                    state.failed = 1;
                })?;
            state.left -= n as u64;
            filled += n;
        }
        Ok(filled)
    }

    /// Takes the next packet from its producer; false at the end of the stream.
    fn take_packet(&self, state: &mut SaveState, signals: &Signals) -> Result<bool, Errno> {
        let Some(packet) = self.plan.packet(state.consumed) else {
            return Ok(false);
        };
        if packet.is_produced() {
            match self.faults.check_within(Op::Producer, signals) {
                Ok(_) => {}
                Err(Errno::EINTR) => {
                    state.spoilt = 1;
                    return Err(Errno::EINTR);
                }
                Err(_) => {
                    state.failed = 1;
                    return Err(Errno::EIO);
                }
            }
        }
        state.consumed += 1;
        state.left = packet.size + HEADER_SIZE as u64;
        Ok(true)
    }

    /// Takes away the packet that is half read, when there is one: itself, and how much of it, header included, was read.
    pub(super) fn take_half_read(&self, state: &mut SaveState) -> Option<(Packet, u64)> {
        let left = std::mem::take(&mut state.left);
        let packet = self.plan.packet(state.consumed.checked_sub(1)?)?;
        let read = (packet.size + HEADER_SIZE as u64).checked_sub(left)?;
        // Descriptor and trailer are kept apart.
        (left > 0 && read > 0 && packet.is_produced()).then_some((packet, read))
    }

    /// Copies bytes of `packet` from `position` on, from its header or its payload: as many as come at a time.
    fn copy_packet(
        &self,
        packet: &Packet,
        state: &SaveState,
        position: u64,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        let header = packet.header().encode();
        if let Some(rest) = usize::try_from(position)
            .ok()
            .and_then(|at| header.get(at..))
            .filter(|r| !r.is_empty())
        {
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            return Ok(n);
        }
        let at = position - HEADER_SIZE as u64;
        let small = |payload: &[u8], buf: &mut [u8]| {
            let from = usize::try_from(at).unwrap_or(payload.len());
            buf.copy_from_slice(&payload[from..from + buf.len()]);
        };
        let from_memory = |offset: u64, buf: &mut [u8]| {
            if self.config.populate {
                self.memory.read(offset, buf);
                return Ok(());
            }
            bulk::read_at(&self.memory_file, buf, offset).map_err(|_| Errno::EIO)
        };
        match packet.kind {
            Kind::Descriptor => small(&self.descriptor(), buf),
            Kind::Mmio if packet.gt == 0 => small(&state.scratch[..16], buf),
            Kind::Mmio => small(&state.scratch[16..], buf),
            Kind::Guc if packet.gt == 0 => Payload::main(&state.head).fill(at, buf),
            Kind::Guc => Payload::media().fill(at, buf),
            Kind::Ggtt => from_memory(u64::from(abi::GGTT) + at, buf)?,
            Kind::Vram => from_memory(u64::from(abi::VRAM_WINDOW) + packet.offset + at, buf)?,
            Kind::Trailer => {}
        }
        Ok(buf.len())
    }

    fn descriptor(&self) -> [u8; 16] {
        let klv = |key: u16, value: u32| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&(u32::from(key) << 16 | 1).to_le_bytes());
            bytes[4..].copy_from_slice(&value.to_le_bytes());
            bytes
        };
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&klv(packet::KEY_DEVICE_ID, self.config.device_id.into()));
        payload[8..].copy_from_slice(&klv(packet::KEY_REVISION_ID, self.config.revision.into()));
        payload
    }

    pub(super) fn moving(&self) -> impl Drop + '_ {
        struct Moving<'a>(&'a Vf);
        impl Drop for Moving<'_> {
            fn drop(&mut self) {
                self.0.control.live.moving.store(0, Ordering::Relaxed);
            }
        }
        self.control.live.moving.store(1, Ordering::Relaxed);
        Moving(self)
    }
}
