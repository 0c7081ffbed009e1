// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! write of the data fd: bytes in any pieces, packets out.
//!
//! [`LoadState::feed`] is a parser without I/O: what packets change goes to a [`Sink`]. As in the kernel, a bad header or descriptor
//! fails the write that completes it, while a bad payload is found later: the write that carried it succeeds, a later one
//! that completes a packet and leaving RESUMING answer EIO. [`Pending`], the packet that is not complete, belongs to the
//! VF and not to a restore: the next one goes on with it, unless a save began in between.

use super::Errno;
use super::guc::{HEAD_SIZE, Payload};
use super::packet::{
    HEADER_SIZE, Header, KEY_DEVICE_ID, KEY_REVISION_ID, Kind, MMIO_SIZE, Packet, VERSION,
};
use crate::host::HostConfig;

/// Largest packet that the kernel finds memory for.
const MOST_PAYLOAD: u64 = i32::MAX as u64;

/// What a restore changes.
pub(super) trait Sink {
    /// Bytes of VRAM, checked to be within the quota.
    fn vram(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// Bytes of the GGTT's PTEs, checked to be within the quota.
    fn ggtt(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// Scratch registers of `gt`.
    fn mmio(&mut self, gt: u8, bytes: &[u8; MMIO_SIZE as usize]);
    /// The engine's state.
    fn engine(&mut self, head: &[u8; HEAD_SIZE]);
    /// The PF turns to a packet: an error other than `EINTR` makes the restore fail.
    fn turn_to_packet(&mut self) -> Result<(), Errno>;
}

/// A packet that has been written in part; all zeros is none.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Pending {
    header: [u8; HEADER_SIZE],
    /// Bytes in `header`.
    have: u32,
    /// 1 while a payload is being taken.
    in_payload: u32,
    /// Bytes of the payload that were taken.
    position: u64,
    /// The beginning of the payload, or the KLV dword that is being collected.
    small: Small,
    /// Dwords that the current KLV still has.
    klv_left: u32,
    /// Key of the current KLV until its first dword was seen.
    klv_key: u32,
    /// Errno with which the descriptor will be refused.
    descriptor: i32,
    /// 1 when the packet will make the restore fail.
    bad: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Small([u8; HEAD_SIZE]);

impl Default for Small {
    fn default() -> Self {
        Self([0; HEAD_SIZE])
    }
}

impl Pending {
    /// A packet of a save of which `read` bytes, header included and at least one, have been read: `payload` is what of
    /// them was payload, as far as it is kept.
    pub fn half_read(packet: &Packet, read: u64, payload: [u8; HEAD_SIZE]) -> Self {
        let header = HEADER_SIZE as u64;
        Self {
            header: packet.header().encode(),
            have: read.min(header) as u32,
            in_payload: u32::from(read >= header),
            position: read.saturating_sub(header),
            small: Small(payload),
            ..Self::default()
        }
    }
}

/// Where a restore stands; all zeros is its beginning.
#[derive(Default)]
#[repr(C)]
pub(super) struct LoadState {
    pub pending: Pending,
    /// 1 when the restore has failed.
    pub failed: u32,
    /// 1 when the trailer was taken.
    pub trailer: u32,
    /// Errno of the write that was refused.
    refused: i32,
    reserved: u32,
}

impl LoadState {
    pub fn begin(pending: Pending) -> Self {
        Self {
            pending,
            ..Self::default()
        }
    }

    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// As write of the data fd; every later call fails too.
    pub fn feed(
        &mut self,
        config: &HostConfig,
        mut bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Errno> {
        if self.refused != 0 {
            return Err(Errno(self.refused));
        }
        // The PF works behind the writes: what fails in it now is seen by the next one.
        let known = self.failed != 0;
        while !bytes.is_empty() {
            let taken = match self.pending.in_payload {
                0 => self.take_header(config, bytes),
                _ => self.take_payload(config, bytes, sink),
            };
            let taken = taken.and_then(|n| self.finish_packet(config, known, sink).map(|()| n));
            let n = taken.inspect_err(|errno| {
                // The packet is gone. After a refusal of what was written nothing more is taken.
                self.pending = Pending::default();
                if !matches!(*errno, Errno::EIO | Errno::EINTR) {
                    self.refused = errno.0;
                }
            })?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn take_header(&mut self, config: &HostConfig, bytes: &[u8]) -> Result<usize, Errno> {
        let pending = &mut self.pending;
        let have = pending.have as usize;
        let n = bytes.len().min(HEADER_SIZE - have);
        pending.header[have..have + n].copy_from_slice(&bytes[..n]);
        pending.have += n as u32;
        if pending.have as usize == HEADER_SIZE {
            let header = Header::decode(&pending.header);
            check_header(&header, config)?;
            *pending = Pending {
                header: pending.header,
                have: pending.have,
                in_payload: 1,
                bad: u32::from(is_bad(&header, config)),
                ..Pending::default()
            };
        }
        Ok(n)
    }

    fn take_payload(
        &mut self,
        config: &HostConfig,
        bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<usize, Errno> {
        // Nothing more is restored once the restore has failed or come to its end.
        let unused = self.failed != 0 || self.trailer != 0;
        let pending = &mut self.pending;
        let header = Header::decode(&pending.header);
        let left = header.size - pending.position;
        let n = usize::try_from(left).map_or(bytes.len(), |left| bytes.len().min(left));
        let bytes = &bytes[..n];
        let at = pending.position;
        match Kind::from_raw(header.kind) {
            Some(Kind::Descriptor) => pending.take_klvs(config, bytes),
            _ if unused || pending.bad != 0 || header.tile != 0 => {}
            Some(Kind::Vram) => sink.vram(header.offset + at, bytes)?,
            Some(Kind::Ggtt) => sink.ggtt(at, bytes)?,
            Some(Kind::Mmio) => pending.keep(at, bytes),
            Some(Kind::Guc) if header.gt == 0 => {
                pending.keep(at, bytes);
                // The pattern hangs on the whole head, so it is compared once that is there.
                let skip = usize::try_from(HEAD_SIZE as u64 - at.min(HEAD_SIZE as u64))
                    .unwrap_or(0)
                    .min(n);
                let pattern = &bytes[skip..];
                if !pattern.is_empty()
                    && !Payload::main(&pending.small.0).holds(at + skip as u64, pattern)
                {
                    pending.bad = 1;
                }
            }
            Some(Kind::Guc) => pending.bad = u32::from(!Payload::media().holds(at, bytes)),
            Some(Kind::Trailer) | None => {}
        }
        pending.position += n as u64;
        Ok(n)
    }

    /// When the packet is complete: what it is good for.
    fn finish_packet(
        &mut self,
        config: &HostConfig,
        known: bool,
        sink: &mut dyn Sink,
    ) -> Result<(), Errno> {
        let header = Header::decode(&self.pending.header);
        if self.pending.in_payload == 0 || self.pending.position < header.size {
            return Ok(());
        }
        let packet = std::mem::take(&mut self.pending);
        let main = header.tile == 0 && header.gt == 0;
        match Kind::from_raw(header.kind) {
            Some(Kind::Descriptor) => packet.check_descriptor(&header),
            Some(Kind::Trailer) if !main || header.offset != 0 || header.size != 0 => {
                Err(Errno::EINVAL)
            }
            Some(Kind::Trailer) => {
                self.trailer = 1;
                Ok(())
            }
            _ if header.kind == 0 || header.tile != 0 => Err(Errno::EINVAL),
            _ if known => Err(Errno::EIO),
            _ if self.failed != 0 || self.trailer != 0 => Ok(()),
            kind => {
                match sink.turn_to_packet() {
                    Err(Errno::EINTR) => return Err(Errno::EINTR),
                    Err(_) => self.failed = 1,
                    Ok(()) if packet.bad != 0 => self.failed = 1,
                    Ok(()) => packet.apply(kind, &header, config, sink),
                }
                Ok(())
            }
        }
    }
}

impl Pending {
    /// Keeps what belongs to the beginning of the payload.
    fn keep(&mut self, at: u64, bytes: &[u8]) {
        if let Some(room) = usize::try_from(at)
            .ok()
            .and_then(|at| self.small.0.get_mut(at..))
        {
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
        }
    }

    fn take_klvs(&mut self, config: &HostConfig, bytes: &[u8]) {
        for (byte, at) in bytes.iter().zip(self.position..) {
            let slot = (at % 4) as usize;
            self.small.0[slot] = *byte;
            if slot == 3 {
                let [a, b, c, d, ..] = self.small.0;
                self.take_klv_dword(config, u32::from_le_bytes([a, b, c, d]));
            }
        }
    }

    fn take_klv_dword(&mut self, config: &HostConfig, dword: u32) {
        if self.klv_left == 0 {
            (self.klv_key, self.klv_left) = (dword >> 16, dword & 0xffff);
            return;
        }
        self.klv_left -= 1;
        let expected = match u16::try_from(self.klv_key) {
            Ok(KEY_DEVICE_ID) => Some(u32::from(config.device_id)),
            Ok(KEY_REVISION_ID) => Some(u32::from(config.revision)),
            _ => None,
        };
        if expected.is_some_and(|expected| expected != dword) {
            self.descriptor = libc::ENODEV;
        }
        self.klv_key = 0;
    }

    fn check_descriptor(&self, header: &Header) -> Result<(), Errno> {
        let misplaced = header.tile != 0 || header.gt != 0 || !header.size.is_multiple_of(4);
        match (misplaced, self.descriptor, self.klv_left) {
            (true, _, _) => Err(Errno::EINVAL),
            (false, 0, 0) => Ok(()),
            (false, 0, _) => Err(Errno::EINVAL),
            (false, errno, _) => Err(Errno(errno)),
        }
    }

    /// Applies what was not applied as it came.
    fn apply(&self, kind: Option<Kind>, header: &Header, config: &HostConfig, sink: &mut dyn Sink) {
        match kind {
            Some(Kind::Mmio) => {
                sink.mmio(header.gt, self.small.0[..16].try_into().unwrap_or(&[0; 16]));
            }
            Some(Kind::Guc) if header.gt == 0 && header.size == config.guc => {
                sink.engine(&self.small.0);
            }
            // The kernel skips what it does not know.
            _ => {}
        }
    }
}

/// What the kernel refuses as soon as the header is there.
fn check_header(header: &Header, config: &HostConfig) -> Result<(), Errno> {
    if header.version != VERSION || header.gt >= config.gts {
        Err(Errno::EINVAL)
    } else if header.size > MOST_PAYLOAD {
        Err(Errno::ENOMEM)
    } else {
        Ok(())
    }
}

/// What the PF finds wrong when it comes to the packet.
fn is_bad(header: &Header, config: &HostConfig) -> bool {
    let main = header.gt == 0;
    match Kind::from_raw(header.kind) {
        Some(Kind::Descriptor | Kind::Trailer) | None => false,
        Some(Kind::Ggtt) => !main || header.size != u64::from(config.ggtt_entries()) * 8,
        Some(Kind::Mmio) => header.size != MMIO_SIZE,
        Some(Kind::Guc) => header.size != config.guc,
        Some(Kind::Vram) => {
            !main
                || header
                    .offset
                    .checked_add(header.size)
                    .is_none_or(|end| end > config.vram)
        }
    }
}
