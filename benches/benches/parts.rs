// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parts every byte of device state passes, over 64 MiB of VRAM packets in segments of 1 MiB, with memcpy of the same
//! bytes as the floor: `cargo bench -p benches --bench parts`.
//!
//! The parser reads headers only and frames are not copied, so what is measured of a frame is the search for zeros and the checksum.

use std::convert::Infallible;
use std::hint::black_box;
use std::io;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use xe_vfio_device::stream::crc::crc64;
use xe_vfio_device::stream::frame::{FRAME_HEADER_SIZE, PREAMBLE_SIZE};
use xe_vfio_device::stream::zeros::{BLOCK, is_zero};
use xe_vfio_device::stream::{
    AttemptId, Decoder, Encoder, Event, Frame, Limits, Manifest, Pci, Writer,
};
use xe_vfio_device::xe::klv::Descriptor;
use xe_vfio_device::xe::{Expectation, Gt, Header, PacketType, Parser};

const MIB: usize = 1 << 20;
const VRAM: usize = 64 * MIB;
const GT: Gt = Gt { tile: 0, id: 0 };

fn manifest() -> Manifest {
    let pci = Pci {
        vendor: 0x8086,
        device: 0xe211,
        revision: 0,
        subsystem_vendor: 0x8086,
        subsystem_device: 0x1100,
        class: 0x03_8000,
    };
    Manifest {
        device_id: "vf0".to_owned(),
        pci,
        pf: None,
        bars: [0; 6],
        migration_flags: 3,
        stop_copy_length: 0,
        gts: None,
        vram_quota: Some(VRAM as u64),
        ggtt_entries: None,
        contexts: None,
        doorbells: None,
        exec_quantum_ms: None,
        preempt_timeout_us: None,
        sched_priority: None,
        guc_version: None,
        kernel_release: None,
    }
}

/// A save of a VF with 64 MiB of VRAM, without its trailer, so that a parser can be fed with it and dropped.
fn state() -> Vec<u8> {
    let mut state = Vec::with_capacity(VRAM + MIB);
    let mut packet = |packet_type, payload: &[u8]| {
        let header = Header {
            packet_type,
            gt: GT,
            offset: 0,
            size: payload.len() as u64,
        };
        state.extend_from_slice(&header.encode());
        state.extend_from_slice(payload);
    };
    packet(
        PacketType::Descriptor,
        &Descriptor {
            device: Some(0xe211),
            revision: Some(0),
        }
        .encode(),
    );
    packet(PacketType::Guc, &[1; 4096]);
    packet(PacketType::Ggtt, &[2; 4096]);
    packet(PacketType::Mmio, &[3; 16]);
    let vram: Vec<u8> = (0..VRAM as u32)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    packet(PacketType::Vram, &vram);
    state
}

fn parts(criterion: &mut Criterion) {
    let state = state();
    let mut group = criterion.benchmark_group("64MiB");
    group.throughput(Throughput::Bytes(state.len() as u64));
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1));

    let mut copy = vec![0; MIB];
    group.bench_function("memcpy", |bench| {
        bench.iter(|| {
            for segment in state.chunks(MIB) {
                copy[..segment.len()].copy_from_slice(black_box(segment));
                black_box(&mut copy);
            }
        });
    });

    group.bench_function("parser", |bench| {
        bench.iter(|| {
            let mut parser = Parser::new(Expectation::of(&manifest()));
            let mut handed_on = 0;
            for segment in state.chunks(MIB) {
                let sink = |bytes: &[u8]| {
                    handed_on += black_box(bytes).len();
                    Ok::<_, Infallible>(())
                };
                parser
                    .push(black_box(segment), sink)
                    .expect("a good stream");
            }
            assert_eq!(handed_on, state.len());
        });
    });

    group.bench_function("encode", |bench| {
        bench.iter(|| {
            let mut writer = Writer::new(io::sink(), &manifest()).expect("a sink takes all");
            for segment in state.chunks(MIB) {
                writer.frame(black_box(segment)).expect("a sink takes all");
            }
            black_box(writer.totals())
        });
    });

    let mut stream = Vec::with_capacity(state.len() + MIB);
    let mut writer = Writer::new(&mut stream, &manifest()).expect("a vector takes all");
    writer.frame(&state).expect("a vector takes all");
    group.bench_function("decode", |bench| {
        bench.iter(|| {
            let mut decoder = Decoder::new(&Limits::default());
            let mut left = &stream[..];
            let mut received = 0;
            while let Some((piece, rest)) = left.split_at_checked(decoder.need()) {
                left = rest;
                if let Event::Data(pieces) =
                    decoder.accept(black_box(piece)).expect("a good stream")
                {
                    received += black_box(pieces).len();
                }
            }
            assert_eq!(received, state.len());
        });
    });
    for (name, content) in [("random", &state), ("zeros", &vec![0; state.len()])] {
        group.bench_function(format!("find_zeros/{name}"), |bench| {
            bench.iter(|| {
                let blocks = content.chunks(BLOCK);
                black_box(blocks.filter(|block| is_zero(black_box(block))).count())
            });
        });
        group.bench_function(format!("frame/{name}"), |bench| {
            bench.iter(|| {
                let begun = Encoder::new(&manifest(), MIB as u32, AttemptId::NONE);
                let (mut encoder, _) = begun.expect("a good manifest");
                let mut frame = Frame::new();
                for segment in content.chunks(MIB) {
                    encoder.frame(black_box(segment), &mut frame);
                }
                black_box(encoder.totals())
            });
        });
    }
    group.bench_function("checksum", |bench| {
        bench.iter(|| {
            let segments = state.chunks(MIB);
            segments.fold(0, |all, segment| all ^ crc64(black_box(segment)))
        });
    });
    group.finish();

    let mut small = criterion.benchmark_group("opening");
    small.bench_function("encode_and_decode", |bench| {
        bench.iter(|| {
            let mut opening = Vec::new();
            Writer::new(&mut opening, &manifest()).expect("a vector takes all");
            let mut decoder = Decoder::new(&Limits::default());
            let (preamble, blob) = opening.split_at(PREAMBLE_SIZE);
            decoder.accept(preamble).expect("a good preamble");
            assert!(matches!(decoder.accept(blob), Ok(Event::Manifest(_))));
            assert_eq!(decoder.need(), FRAME_HEADER_SIZE);
        });
    });
    small.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
