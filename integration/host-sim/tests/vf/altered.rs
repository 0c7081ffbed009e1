// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams that are not what a VF of this host has saved: which call says so, and with which errno.

use host_sim::host::HostConfig;
use host_sim::vf::packet::Header;
use host_sim::vf::{Errno, State, Transition};

use crate::common::*;

/// Where packets begin in the stream of a `small()` VF with one GT.
const GUC: usize = 40;
const GGTT: usize = GUC + 24 + 4096;
const MMIO: usize = GGTT + 24 + 2048;
const VRAM: usize = MMIO + 24 + 16;
const CHUNK: usize = 24 + (2 << 20);
const TRAILER: usize = VRAM + 4 * CHUNK;

fn config() -> HostConfig {
    HostConfig { gts: 1, ..small() }
}

/// Where an altered stream is found out.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// By a write, which names the first byte that it refuses.
    Write(Errno),
    /// By leaving RESUMING, all writes having succeeded.
    Leave(Errno),
    Nowhere,
}

/// Writes `stream` in pieces of `piece` bytes and leaves RESUMING.
fn try_load(stream: &[u8], piece: usize) -> Found {
    let host = TestHost::new(&config());
    let vf = host.opened(1);
    let id = begin_load(&vf);
    for bytes in stream.chunks(piece) {
        if let Err(errno) = vf.data_write(id, bytes) {
            if errno != Errno::EIO {
                assert_eq!(
                    vf.data_write(id, bytes),
                    Err(errno),
                    "a refused fd takes nothing more"
                );
            }
            vf.reset().expect("reset");
            return Found::Write(errno);
        }
    }
    match vf.set_state(State::Stop as u32) {
        Ok(answer) => {
            assert_eq!(answer, Transition::None);
            Found::Nowhere
        }
        Err(errno) => {
            assert_eq!(state(&vf), State::Resuming);
            Found::Leave(errno)
        }
    }
}

fn good() -> Vec<u8> {
    let host = TestHost::new(&config());
    let vf = host.opened(1);
    scribble(&vf, 5);
    let stream = save(&vf);
    assert_eq!(stream.len(), TRAILER + 24);
    stream
}

fn altered(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut stream = good();
    stream[at..at + bytes.len()].copy_from_slice(bytes);
    stream
}

#[test]
fn a_bad_header_is_einval_at_the_write_that_completes_its_packet_at_the_latest() {
    let cases: [(&str, usize, &[u8]); 8] = [
        ("version 0", GUC, &[0]),
        ("version 2", GGTT, &[2]),
        ("type 0", VRAM + 1, &[0]),
        ("tile 1", MMIO + 2, &[1]),
        ("a GT that is not there", GGTT + 3, &[1]),
        ("a version in the trailer", TRAILER, &[9]),
        ("a GT in the trailer", TRAILER + 3, &[1]),
        ("an offset in the trailer", TRAILER + 8, &[1]),
    ];
    for (what, at, bytes) in cases {
        for piece in [1 << 20, 1000, 1 << 24] {
            assert_eq!(
                try_load(&altered(at, bytes), piece),
                Found::Write(Errno::EINVAL),
                "{what}"
            );
        }
    }
}

#[test]
fn a_descriptor_of_another_device_is_enodev() {
    assert_eq!(
        try_load(&altered(28, &0xe20bu32.to_le_bytes()), 1 << 20),
        Found::Write(Errno::ENODEV)
    );
    assert_eq!(
        try_load(&altered(36, &[1]), 13),
        Found::Write(Errno::ENODEV),
        "another revision"
    );
}

#[test]
fn a_descriptor_cut_within_a_klv_is_einval() {
    assert_eq!(
        try_load(&altered(32, &0xf002_0002u32.to_le_bytes()), 1 << 20),
        Found::Write(Errno::EINVAL)
    );
}

#[test]
fn unknown_klvs_are_skipped_and_a_missing_descriptor_is_not_noticed() {
    let good = good();
    let header = Header {
        version: 1,
        kind: 1,
        tile: 0,
        gt: 0,
        flags: 0,
        offset: 0,
        size: 28,
    };
    let mut stream = header.encode().to_vec();
    for word in [0x1234_0002u32, 0xf001_0001, 0xbad] {
        stream.extend_from_slice(&word.to_le_bytes());
    }
    stream.extend_from_slice(&good[24..]);
    assert_eq!(try_load(&stream, 7777), Found::Nowhere);
    assert_eq!(try_load(&good[GUC..], 1 << 20), Found::Nowhere);
}

#[test]
fn an_absurd_size_is_enomem() {
    for size in [1u64 << 31, 1 << 40, u64::MAX] {
        for at in [GGTT, VRAM] {
            assert_eq!(
                try_load(&altered(at + 16, &size.to_le_bytes()), 1 << 20),
                Found::Write(Errno::ENOMEM)
            );
        }
    }
}

#[test]
fn a_bad_payload_is_eio_at_a_later_write_or_at_leaving() {
    let half_ggtt = {
        let mut stream = good();
        stream.drain(GGTT + 24 + 1024..GGTT + 24 + 2048);
        stream[GGTT + 16..GGTT + 24].copy_from_slice(&1024u64.to_le_bytes());
        stream
    };
    let short_mmio = {
        let mut stream = good();
        stream.drain(MMIO + 24..MMIO + 28);
        stream[MMIO + 16] = 12;
        stream
    };
    let cases = [
        ("GGTT of another size", half_ggtt),
        ("MMIO of another size", short_mmio),
        (
            "VRAM past the quota",
            altered(VRAM + 8, &(6 * MIB + 4096).to_le_bytes()),
        ),
        (
            "a VRAM offset that overflows",
            altered(VRAM + 8, &u64::MAX.to_le_bytes()),
        ),
        ("GuC state in its head", altered(GUC + 24, &[0x55])),
        ("GuC state at its end", {
            let mut stream = good();
            stream[GGTT - 1] ^= 1;
            stream
        }),
    ];
    for (what, stream) in cases {
        assert_eq!(
            try_load(&stream, stream.len()),
            Found::Leave(Errno::EIO),
            "{what}, in one write"
        );
        // By the write that completes the packet after it; a VRAM packet is followed by more of them.
        assert_eq!(
            try_load(&stream, 1 << 10),
            Found::Write(Errno::EIO),
            "{what}, in small writes"
        );
    }
}

#[test]
fn vram_past_the_quota_touches_nothing_beyond_it() {
    let host = TestHost::new(&HostConfig {
        vram: 5 * MIB,
        gts: 1,
        ..small()
    });
    let vf = host.opened(1);
    let id = begin_load(&vf);
    let size = MIB + 4096;
    let header = Header {
        version: 1,
        kind: 6,
        tile: 0,
        gt: 0,
        flags: 0,
        offset: 4 * MIB,
        size,
    };
    write_all(&vf, id, &header.encode(), 24);
    write_all(
        &vf,
        id,
        &vec![0xff; usize::try_from(size).expect("small")],
        1 << 16,
    );
    assert_eq!(vf.set_state(State::Stop as u32), Err(Errno::EIO));
    assert!(vram(&vf, 4 * MIB, 2 << 20).iter().all(|b| *b == 0));
}

#[test]
fn a_trailer_with_a_payload_is_einval_once_that_is_there() {
    let mut stream = altered(TRAILER + 16, &[1]);
    assert_eq!(try_load(&stream, 1 << 20), Found::Leave(Errno::ETIMEDOUT));
    stream.push(0);
    assert_eq!(try_load(&stream, 1 << 20), Found::Write(Errno::EINVAL));
}

#[test]
fn a_packet_of_unknown_type_is_skipped() {
    for (at, size) in [(GUC, 0), (VRAM, 100), (TRAILER, 5000)] {
        let header = Header {
            version: 1,
            kind: 77,
            tile: 0,
            gt: 0,
            flags: 0,
            offset: 0,
            size,
        };
        let mut stream = good();
        let packet = [
            &header.encode()[..],
            &vec![0xa5; usize::try_from(size).expect("small")],
        ]
        .concat();
        stream.splice(at..at, packet);
        for piece in [1 << 20, 999] {
            assert_eq!(try_load(&stream, piece), Found::Nowhere, "{size} at {at}");
        }
    }
}

#[test]
fn what_comes_after_the_trailer_is_taken_and_changes_nothing() {
    let host = TestHost::new(&config());
    let vf = host.opened(1);
    let good = good();
    let mut other = good[MMIO..VRAM].to_vec();
    other[24] ^= 0xff;
    load(&vf, &[&good[..], &other].concat());
    assert!(save(&vf) == good);
}

#[test]
fn a_cut_stream_times_out() {
    for len in [0, 23, GUC, VRAM + 100, TRAILER, TRAILER + 23] {
        assert_eq!(
            try_load(&good()[..len], 1 << 20),
            Found::Leave(Errno::ETIMEDOUT),
            "cut at {len}"
        );
    }
}
