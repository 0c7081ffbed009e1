// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! write of the data fd: bytes in any pieces, packets out.
//!
//! [`LoadState::feed`] is a parser without I/O: what packets change goes to a [`Sink`]. As in the kernel, a bad header or descriptor
//! fails the write that completes it, while a bad payload is found later: the write that carried it succeeds, a later
//! one and leaving RESUMING answer EIO.

use super::Errno;
use super::guc::{HEAD_SIZE, Payload};
use super::packet::{
    HEADER_SIZE, Header, KEY_DEVICE_ID, KEY_REVISION_ID, Kind, MMIO_SIZE, VERSION,
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
}

/// Where a restore stands; all zeros is its beginning.
#[repr(C)]
pub(super) struct LoadState {
    header: [u8; HEADER_SIZE],
    /// Bytes in `header`.
    have: u32,
    /// 1 while a payload is being taken.
    in_payload: u32,
    /// Bytes of the payload that were taken.
    position: u64,
    /// The beginning of the payload, or the KLV dword that is being collected.
    small: [u8; HEAD_SIZE],
    /// Dwords that the current KLV still has.
    klv_left: u32,
    /// Key of the current KLV until its first dword was seen.
    klv_key: u32,
    /// Errno with which the descriptor will be refused.
    descriptor: i32,
    /// 1 when the current packet will make the restore fail.
    bad: u32,
    /// 1 when the restore has failed.
    pub failed: u32,
    /// 1 when the trailer was taken.
    pub trailer: u32,
    /// Errno of the write that was refused.
    refused: i32,
    reserved: u32,
}

impl LoadState {
    pub fn begin() -> Self {
        Self {
            header: [0; HEADER_SIZE],
            have: 0,
            in_payload: 0,
            position: 0,
            small: [0; HEAD_SIZE],
            klv_left: 0,
            klv_key: 0,
            descriptor: 0,
            bad: 0,
            failed: 0,
            trailer: 0,
            refused: 0,
            reserved: 0,
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
        if self.failed != 0 {
            return Err(Errno::EIO);
        }
        if self.refused != 0 {
            return Err(Errno(self.refused));
        }
        while !bytes.is_empty() {
            let taken = match self.in_payload {
                0 => self.take_header(config, bytes),
                _ => self.take_payload(config, bytes, sink),
            };
            let taken = taken.and_then(|n| self.finish_packet(config, sink).map(|()| n));
            let n = taken.inspect_err(|errno| self.refused = errno.0)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn take_header(&mut self, config: &HostConfig, bytes: &[u8]) -> Result<usize, Errno> {
        if self.trailer != 0 {
            return Err(Errno::EINVAL);
        }
        let have = self.have as usize;
        let n = bytes.len().min(HEADER_SIZE - have);
        self.header[have..have + n].copy_from_slice(&bytes[..n]);
        self.have += n as u32;
        if self.have as usize == HEADER_SIZE {
            let header = Header::decode(&self.header);
            check_header(&header, config)?;
            self.bad = u32::from(is_bad(&header, config));
            self.in_payload = 1;
            self.position = 0;
            (self.klv_left, self.klv_key, self.descriptor) = (0, 0, 0);
        }
        Ok(n)
    }

    fn take_payload(
        &mut self,
        config: &HostConfig,
        bytes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<usize, Errno> {
        let header = Header::decode(&self.header);
        let left = header.size - self.position;
        let n = usize::try_from(left).map_or(bytes.len(), |left| bytes.len().min(left));
        let bytes = &bytes[..n];
        let at = self.position;
        match Kind::from_raw(header.kind) {
            Some(Kind::Descriptor) => self.take_klvs(config, bytes),
            _ if self.bad != 0 => {}
            Some(Kind::Vram) => sink.vram(header.offset + at, bytes)?,
            Some(Kind::Ggtt) => sink.ggtt(at, bytes)?,
            Some(Kind::Mmio) => self.keep(at, bytes),
            Some(Kind::Guc) if header.gt == 0 => {
                self.keep(at, bytes);
                // The pattern hangs on the whole head, so it is compared once that is there.
                let skip = usize::try_from(HEAD_SIZE as u64 - at.min(HEAD_SIZE as u64))
                    .unwrap_or(0)
                    .min(n);
                let pattern = &bytes[skip..];
                if !pattern.is_empty()
                    && !Payload::main(&self.small).holds(at + skip as u64, pattern)
                {
                    self.bad = 1;
                }
            }
            Some(Kind::Guc) => self.bad = u32::from(!Payload::media().holds(at, bytes)),
            Some(Kind::Trailer) | None => {}
        }
        self.position += n as u64;
        Ok(n)
    }

    /// Keeps what belongs to the beginning of the payload.
    fn keep(&mut self, at: u64, bytes: &[u8]) {
        if let Some(room) = usize::try_from(at)
            .ok()
            .and_then(|at| self.small.get_mut(at..))
        {
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
        }
    }

    fn take_klvs(&mut self, config: &HostConfig, bytes: &[u8]) {
        for (byte, at) in bytes.iter().zip(self.position..) {
            let slot = (at % 4) as usize;
            self.small[slot] = *byte;
            if slot == 3 {
                let [a, b, c, d, ..] = self.small;
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

    /// When the packet is complete: what it is good for.
    fn finish_packet(&mut self, config: &HostConfig, sink: &mut dyn Sink) -> Result<(), Errno> {
        let header = Header::decode(&self.header);
        if self.in_payload == 0 || self.position < header.size {
            return Ok(());
        }
        (self.in_payload, self.have) = (0, 0);
        if self.bad != 0 {
            self.failed = 1;
            return Ok(());
        }
        // After a packet that failed nothing more is restored.
        match Kind::from_raw(header.kind) {
            Some(Kind::Descriptor) => {
                let torn = self.klv_left != 0 || !header.size.is_multiple_of(4);
                return match (self.descriptor, torn) {
                    (0, false) => Ok(()),
                    (0, true) => Err(Errno::EINVAL),
                    (errno, _) => Err(Errno(errno)),
                };
            }
            Some(Kind::Trailer) => self.trailer = 1,
            _ if self.failed != 0 => {}
            Some(Kind::Mmio) => {
                sink.mmio(header.gt, self.small[..16].try_into().unwrap_or(&[0; 16]));
            }
            Some(Kind::Guc) if header.gt == 0 && header.size == config.guc => {
                sink.engine(&self.small);
            }
            Some(Kind::Guc | Kind::Ggtt | Kind::Vram) | None => {}
        }
        Ok(())
    }
}

/// What the kernel refuses at once.
fn check_header(header: &Header, config: &HostConfig) -> Result<(), Errno> {
    let gt_exists = header.tile == 0 && header.gt < config.gts;
    let trailer_is_odd = header.kind == Kind::Trailer as u8
        && (header.gt != 0 || header.offset != 0 || header.size != 0);
    if header.version != VERSION || header.kind == 0 || !gt_exists || trailer_is_odd {
        return Err(Errno::EINVAL);
    }
    if header.size > MOST_PAYLOAD {
        Err(Errno::ENOMEM)
    } else {
        Ok(())
    }
}

/// What the PF finds wrong when it comes to the packet.
fn is_bad(header: &Header, config: &HostConfig) -> bool {
    let main = header.gt == 0;
    match Kind::from_raw(header.kind) {
        Some(Kind::Descriptor | Kind::Trailer) => false,
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
        None => true,
    }
}
