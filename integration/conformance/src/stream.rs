// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saving and restoring a VF's stream, and taking it apart.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::check::{Outcome, failed, same_bytes, works};
use crate::sys;
use crate::vf::{RESUMING, RUNNING, RUNNING_P2P, STOP, STOP_COPY, Vf};

/// Packet types (drivers/gpu/drm/xe/xe_sriov_packet_types.h).
pub const DESCRIPTOR: u8 = 1;
/// Trailer.
pub const TRAILER: u8 = 2;
/// GGTT.
pub const GGTT: u8 = 3;
/// MMIO.
pub const MMIO: u8 = 4;
/// GuC.
pub const GUC: u8 = 5;
/// VRAM.
pub const VRAM: u8 = 6;
/// Bytes of a header.
pub const HEADER: usize = 24;
/// Packets of a GT that fit between the PF and user space.
pub const RING: usize = 5;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Version.
    pub version: u8,
    /// Type.
    pub kind: u8,
    /// Tile.
    pub tile: u8,
    /// GT.
    pub gt: u8,
    /// Place in VRAM.
    pub offset: u64,
    /// Size as its header says.
    pub size: u64,
    /// What follows.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A packet whose header fits its payload.
    pub fn new(kind: u8, payload: Vec<u8>) -> Self {
        Self {
            version: 1,
            kind,
            tile: 0,
            gt: 0,
            offset: 0,
            size: payload.len() as u64,
            payload,
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.version, self.kind, self.tile, self.gt, 0, 0, 0, 0];
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// All packets as bytes.
pub fn encode(packets: &[Packet]) -> Vec<u8> {
    packets.iter().flat_map(Packet::encode).collect()
}

/// The packets of a whole stream.
pub fn parse(mut bytes: &[u8]) -> Outcome<Vec<Packet>> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
            return failed("the stream ends in a header");
        };
        let word =
            |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        let Some((payload, rest)) = usize::try_from(word(16))
            .ok()
            .and_then(|size| rest.split_at_checked(size))
        else {
            return failed("the stream ends in a payload");
        };
        packets.push(Packet {
            version: header[0],
            kind: header[1],
            tile: header[2],
            gt: header[3],
            offset: word(8),
            size: word(16),
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    Ok(packets)
}

/// Two whole streams carry the same state. How the packets of different GTs interleave is left to chance.
#[track_caller]
pub fn same_stream(what: &str, got: &[u8], want: &[u8]) -> Outcome {
    let [got, want] = [got, want].map(|stream| {
        parse(stream).map(|mut packets| {
            packets.sort_by_key(|packet| {
                (packet.kind == TRAILER, packet.kind != DESCRIPTOR, packet.gt)
            });
            encode(&packets)
        })
    });
    same_bytes(what, &got?, &want?)
}

/// Whether a GT's packets are more than fit in its ring, so that its producer waits for a reader.
pub fn overflows_the_ring(packets: &[Packet]) -> bool {
    (0..=u8::MAX).any(|gt| {
        packets
            .iter()
            .filter(|p| p.kind > TRAILER && p.gt == gt)
            .count()
            > RING
    })
}

/// Reads to the end of the stream.
#[track_caller]
pub fn drain(fd: BorrowedFd<'_>) -> Outcome<Vec<u8>> {
    let mut stream = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match works("read", sys::read(fd, &mut buffer))? {
            0 => return Ok(stream),
            n => stream.extend(&buffer[..n]),
        }
    }
}

/// Writes all of it, in pieces of 1 MiB.
#[track_caller]
pub fn fill(fd: BorrowedFd<'_>, stream: &[u8]) -> Outcome {
    for piece in stream.chunks(1 << 20) {
        if works("write", sys::write(fd, piece))? != piece.len() {
            return failed("a write is short");
        }
    }
    Ok(())
}

/// Saves a running VF, which runs again afterwards.
#[track_caller]
pub fn save(vf: &Vf) -> Outcome<Vec<u8>> {
    let fd = vf.set_for_fd(STOP_COPY)?;
    let stream = drain(fd.as_fd())?;
    drop(fd);
    for state in [STOP, RUNNING_P2P, RUNNING] {
        works("SET on the way back to RUNNING", vf.set(state))?;
    }
    Ok(stream)
}

/// Restores into a running VF, which is left in STOP.
#[track_caller]
pub fn restore(vf: &Vf, stream: &[u8]) -> Outcome {
    let fd = vf.set_for_fd(RESUMING)?;
    fill(fd.as_fd(), stream)?;
    drop(fd);
    works("SET RESUMING -> STOP", vf.set(STOP)).map(drop)
}

/// Takes a newly opened VF to a state that it can leave again: STOP_COPY drained, RESUMING with a whole stream written.
#[track_caller]
pub fn bring_to(vf: &Vf, state: u32) -> Outcome<Option<OwnedFd>> {
    let stream = if state == RESUMING {
        save(vf)?
    } else {
        Vec::new()
    };
    let fd = works("SET on the way", vf.set(state))?;
    if let Some(fd) = &fd {
        if state == STOP_COPY {
            drain(fd.as_fd())?;
        } else {
            fill(fd.as_fd(), &stream)?;
        }
    }
    Ok(fd)
}

/// The same stream with VRAM full of what cannot be there by chance.
pub fn with_patterned_vram(stream: &[u8], seed: u64) -> Outcome<Vec<u8>> {
    let mut packets = parse(stream)?;
    let mut x = seed | 1;
    for packet in packets.iter_mut().filter(|p| p.kind == VRAM) {
        for word in packet.payload.chunks_exact_mut(8) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            word.copy_from_slice(&x.to_le_bytes());
        }
    }
    Ok(encode(&packets))
}
