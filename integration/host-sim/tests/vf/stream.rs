// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data fd: what a save gives, in any reads, and that a load of it gives the same VF, in any writes.

use host_sim::host::HostConfig;
use host_sim::vf::State;
use host_sim::vf::packet::{HEADER_SIZE, Header, Kind};
use proptest::prelude::*;

use crate::common::*;

fn packets(mut stream: &[u8]) -> Vec<(Header, &[u8])> {
    let mut packets = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<HEADER_SIZE>() {
        let header = Header::decode(header);
        let (payload, rest) = rest.split_at(usize::try_from(header.size).expect("small"));
        packets.push((header, payload));
        stream = rest;
    }
    assert!(stream.is_empty(), "bytes after the last packet");
    packets
}

#[track_caller]
fn survives_a_round_trip(config: &HostConfig, read_piece: usize, write_piece: usize) {
    let source = TestHost::new(config);
    let destination = TestHost::new(config);
    let from = source.opened(1);
    scribble(&from, 11);
    let id = begin_save(&from);
    let stream = read_all(&from, id, read_piece);
    set(&from, State::Stop);

    let to = destination.opened(2);
    scribble(&to, 12);
    let id = begin_load(&to);
    write_all(&to, id, &stream, write_piece);
    set(&to, State::Stop);
    let len = usize::try_from(config.vram).expect("small");
    assert!(vram(&to, 0, len) == vram(&from, 0, len), "VRAM differs");
    assert!(save(&to) == stream, "the state saved again differs");
    assert!(save(&from) == stream, "the source has changed");
}

#[test]
fn a_vf_with_one_gt_arrives_as_it_was() {
    survives_a_round_trip(&HostConfig { gts: 1, ..small() }, 1 << 20, 1 << 20);
}

#[test]
fn a_vf_with_a_media_gt_arrives_as_it_was() {
    survives_a_round_trip(&small(), 1 << 20, 1 << 20);
}

#[test]
fn odd_sizes_arrive_as_they_were() {
    let odd = HostConfig {
        vram: 7 * MIB,
        vram_chunk: 3 * MIB - 4096,
        ggtt: 4096 * 33,
        guc: 1236,
        ..small()
    };
    survives_a_round_trip(&odd, 65_537, 9_973);
    survives_a_round_trip(
        &HostConfig {
            gts: 1,
            ggtt: 4096,
            guc: 64,
            ..odd
        },
        77_777,
        1 << 22,
    );
}

#[test]
fn the_packets_are_those_of_the_driver_in_its_order() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    scribble(&vf, 3);
    let stream = save(&vf);
    let packets = packets(&stream);
    let order: Vec<_> = packets
        .iter()
        .map(|(h, _)| (h.kind, h.gt, h.offset, h.size))
        .collect();
    let chunk = |n: u64| (Kind::Vram as u8, 0, n * 2 * MIB, 2 * MIB);
    let expected = [
        (Kind::Descriptor as u8, 0, 0, 16),
        (Kind::Guc as u8, 0, 0, 4096),
        (Kind::Guc as u8, 1, 0, 4096),
        (Kind::Ggtt as u8, 0, 0, 2048),
        (Kind::Mmio as u8, 1, 0, 16),
        (Kind::Mmio as u8, 0, 0, 16),
        chunk(0),
        chunk(1),
        chunk(2),
        chunk(3),
        (Kind::Trailer as u8, 0, 0, 0),
    ];
    assert_eq!(order, expected);
    assert!(
        packets
            .iter()
            .all(|(h, _)| h.version == 1 && h.tile == 0 && h.flags == 0)
    );
    let descriptor: Vec<_> = packets[0]
        .1
        .as_chunks::<4>()
        .0
        .iter()
        .map(|w| u32::from_le_bytes(*w))
        .collect();
    assert_eq!(descriptor, [0xf001_0001, 0xe211, 0xf002_0001, 0]);
    assert_eq!(
        packets[4].1,
        &noise(6, 32)[16..],
        "the media GT's scratch registers"
    );
    assert_eq!(
        packets[5].1,
        &noise(6, 32)[..16],
        "the main GT's scratch registers"
    );
    assert_eq!(packets[1].1[..32], noise(5, 32), "the ring's registers");
}

#[test]
fn a_read_fills_its_buffer_across_packets_and_the_end_comes_again_and_again() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let total = save(&vf).len();
    let id = begin_save(&vf);
    let mut whole = vec![0; total + 100];
    assert_eq!(vf.data_read(id, &mut []), Ok(0));
    assert_eq!(
        vf.data_read(id, &mut whole[..total - 5]),
        Ok(total - 5),
        "eleven packets in one read"
    );
    assert_eq!(vf.data_read(id, &mut whole), Ok(5));
    for _ in 0..3 {
        assert_eq!(vf.data_read(id, &mut whole), Ok(0));
    }
}

#[test]
fn what_is_written_to_vram_and_registers_in_p2p_is_part_of_the_save() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    set(&vf, State::RunningP2p);
    scribble(&vf, 21);
    let stream = save(&vf);
    let packets = packets(&stream);
    assert_eq!(packets[5].1, &noise(24, 16));
    assert!(packets[6].1 == &noise(21, 2 << 20)[..]);
}

#[test]
fn a_load_of_zeros_clears_what_vram_held() {
    let host = TestHost::new(&small());
    let stream = save(&host.opened(1));
    let vf = host.opened(2);
    scribble(&vf, 1);
    load(&vf, &stream);
    assert!(vram(&vf, 0, 8 << 20).iter().all(|b| *b == 0));
}

#[test]
fn a_limited_device_moves_at_its_rate() {
    let host = TestHost::new(&HostConfig {
        device_rate: Some(64 * MIB),
        ..small()
    });
    let vf = host.opened(1);
    let id = begin_save(&vf);
    let begun = std::time::Instant::now();
    let bytes = read_all(&vf, id, 256 << 10).len();
    let least = std::time::Duration::from_secs_f64(bytes as f64 / (64 * MIB) as f64 * 0.9);
    assert!(
        begun.elapsed() >= least,
        "{bytes} bytes in {:?}",
        begun.elapsed()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_segmentation_of_reads_and_writes_gives_the_same_vf(
        seed in 1u64..1000,
        gts in 1u8..=2,
        reads in prop::collection::vec(1usize..200_000, 1..20),
        writes in prop::collection::vec(1usize..200_000, 1..20),
    ) {
        let config = HostConfig { gts, vram: 5 * MIB, ggtt: 4096 * 7, guc: 100, vram_chunk: 2 * MIB + 8192, ..small() };
        let host = TestHost::new(&config);
        let (from, to) = (host.opened(1), host.opened(2));
        scribble(&from, seed);
        let whole = save(&from);

        let id = begin_save(&from);
        let mut pieces = Vec::new();
        for len in reads.iter().cycle() {
            let mut buf = vec![0; *len];
            let n = from.data_read(id, &mut buf).expect("read");
            pieces.extend_from_slice(&buf[..n]);
            if n < *len {
                break;
            }
        }
        prop_assert!(pieces == whole);

        let id = begin_load(&to);
        let mut left = &whole[..];
        for len in writes.iter().cycle() {
            let (piece, rest) = left.split_at((*len).min(left.len()));
            prop_assert_eq!(to.data_write(id, piece), Ok(piece.len()));
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        set(&to, State::Stop);
        prop_assert!(save(&to) == whole);
    }
}
