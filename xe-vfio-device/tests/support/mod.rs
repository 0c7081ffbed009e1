// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packet streams, manifests and whole streams for tests, built from parts that a test can name and change.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::convert::Infallible;

use xe_vfio_device::stream::{Manifest, Pci, Writer};
use xe_vfio_device::xe::klv::Descriptor;
use xe_vfio_device::xe::{
    Account, Expectation, Gt, Header, PacketType, ParseError, Parser, PushError, Refusal,
};

pub const MAIN: Gt = Gt { tile: 0, id: 0 };
pub const MEDIA: Gt = Gt { tile: 0, id: 1 };
pub const DEVICE: u16 = 0xe211;
pub const REVISION: u8 = 2;
pub const GGTT_ENTRIES: u64 = 4;
pub const PAGE: u64 = 4096;

/// Bytes that differ from each other, so that a misplaced one shows.
pub fn pattern(length: u64, seed: u64) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(31) ^ seed.wrapping_mul(0x9e37) ^ at >> 8) as u8)
        .collect()
}

/// A save with four pages of VRAM, most of them zero.
pub fn zero_vram() -> Vec<Vec<u8>> {
    let mut vram = vec![0; 4 * PAGE as usize];
    vram[2 * PAGE as usize + 77] = 1;
    let mut packets = packets(&[]);
    let end = packets.pop().expect("a trailer");
    let at = packets
        .iter()
        .position(|packet| packet[1] == PacketType::Mmio as u8);
    let at = at.expect("the MMIO packet of the main GT") + 1;
    packets.insert(at, packet(PacketType::Vram, MAIN, 0, &vram));
    packets.push(end);
    packets
}

/// A packet with a size of its own choice.
pub fn header(packet_type: PacketType, gt: Gt, offset: u64, size: u64) -> Vec<u8> {
    Header {
        packet_type,
        gt,
        offset,
        size,
    }
    .encode()
    .to_vec()
}

pub fn packet(packet_type: PacketType, gt: Gt, offset: u64, payload: &[u8]) -> Vec<u8> {
    [
        header(packet_type, gt, offset, payload.len() as u64),
        payload.to_vec(),
    ]
    .concat()
}

pub fn descriptor() -> Vec<u8> {
    let ids = Descriptor {
        device: Some(DEVICE),
        revision: Some(REVISION),
    };
    packet(PacketType::Descriptor, MAIN, 0, &ids.encode())
}

pub fn trailer() -> Vec<u8> {
    header(PacketType::Trailer, MAIN, 0, 0)
}

pub fn guc(gt: Gt) -> Vec<u8> {
    packet(PacketType::Guc, gt, 0, &pattern(20, 1))
}

pub fn ggtt() -> Vec<u8> {
    packet(PacketType::Ggtt, MAIN, 0, &pattern(8 * GGTT_ENTRIES, 2))
}

pub fn mmio(gt: Gt) -> Vec<u8> {
    packet(PacketType::Mmio, gt, 0, &pattern(16, 3))
}

pub fn vram(page: u64, pages: u64) -> Vec<u8> {
    packet(
        PacketType::Vram,
        MAIN,
        page * PAGE,
        &pattern(pages * PAGE, 4 + page),
    )
}

/// The packets of a VF with two GTs, in the order of one possible save: the GTs interleave.
pub fn packets(vram_pages: &[u64]) -> Vec<Vec<u8>> {
    let mut packets = vec![descriptor(), guc(MAIN), guc(MEDIA), ggtt(), mmio(MAIN)];
    let mut page = 0;
    for pages in vram_pages {
        packets.push(vram(page, *pages));
        page += pages;
    }
    packets.insert(packets.len().min(6), mmio(MEDIA));
    packets.push(trailer());
    packets
}

/// What a destination of the same kind expects, with everything known.
pub fn expectation(vram_pages: u64) -> Expectation {
    Expectation::of(&manifest(vram_pages)).sent_by(&manifest(vram_pages))
}

pub fn manifest(vram_pages: u64) -> Manifest {
    let pci = Pci {
        vendor: 0x8086,
        device: DEVICE,
        revision: REVISION,
        subsystem_vendor: 0x8086,
        subsystem_device: 0x1100,
        class: 0x03_8000,
    };
    Manifest {
        device_id: "vf0".to_owned(),
        pci,
        pf: Some(Pci {
            class: 0x03_0000,
            ..pci
        }),
        bars: [8 << 20, 0, 1 << 30, 0, 0, 0],
        migration_flags: 3,
        stop_copy_length: 4096,
        gts: Some(0b11),
        vram_quota: Some(vram_pages * PAGE),
        ggtt_entries: Some(GGTT_ENTRIES),
        contexts: None,
        doorbells: None,
        exec_quantum_ms: Some(20),
        preempt_timeout_us: Some(20_000),
        sched_priority: Some("normal".to_owned()),
        guc_version: Some("70.54.0".to_owned()),
        kernel_release: Some("7.2.13".to_owned()),
    }
}

/// Parses `input` cut into pieces of the given lengths, over and over; answers what reached the sink, and the result.
pub fn parse(
    expectation: Expectation,
    input: &[u8],
    cuts: &[usize],
) -> (Vec<u8>, Result<Account, ParseError>) {
    let mut parser = Parser::new(expectation);
    let mut emitted = Vec::new();
    let mut left = input;
    let mut cuts = cuts.iter().cycle();
    while !left.is_empty() {
        let (piece, rest) = left.split_at((*cuts.next().expect("a length")).clamp(1, left.len()));
        left = rest;
        let sink = |bytes: &[u8]| {
            emitted.extend_from_slice(bytes);
            Ok::<_, Infallible>(())
        };
        if let Err(PushError::Refused(error)) = parser.push(piece, sink) {
            return (emitted, Err(error));
        }
    }
    (emitted, parser.finish())
}

/// The account of a stream that is good.
#[track_caller]
pub fn account(input: &[u8]) -> Account {
    parse(Expectation::any(), input, &[input.len()])
        .1
        .expect("a good packet stream")
}

/// Why a stream is refused.
#[track_caller]
pub fn refusal(expectation: Expectation, packets: &[Vec<u8>]) -> Refusal {
    let input = packets.concat();
    let (emitted, result) = parse(expectation, &input, &[input.len()]);
    assert!(input.starts_with(&emitted));
    result.expect_err("the stream should be refused").refusal
}

/// A whole stream around `state`, in frames of `frame` bytes.
pub fn stream(manifest: &Manifest, state: &[u8], frame: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, manifest).expect("a vector takes all");
    for payload in state.chunks(frame) {
        writer.frame(payload).expect("a vector takes all");
    }
    let totals = writer.finish(&account(state)).expect("a vector takes all");
    assert_eq!(totals.wire_bytes, bytes.len() as u64);
    bytes
}
