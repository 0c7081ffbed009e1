// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Damaged and hostile streams: all refused, none decoded early, none paid for with memory.

mod support;

use proptest::prelude::*;
use support::*;
use xe_vfio_device::stream::crc::crc64;
use xe_vfio_device::stream::frame::{
    FRAME_HEADER_SIZE, FrameError, FrameHeader, FrameType, PREAMBLE_SIZE, Preamble,
};
use xe_vfio_device::stream::{
    AttemptId, DecodeError, DecodeFault, Decoder, Event, Flags, Limits, Manifest, Opening, Part,
    Place, SparseError, StreamError,
};

/// Decodes `bytes` as far as they go; answers the state that was handed out and how it ended.
fn decode(bytes: &[u8], limits: &Limits) -> (Vec<u8>, Result<(), DecodeError>) {
    let mut decoder = Decoder::new(limits);
    let (mut state, mut left) = (Vec::new(), bytes);
    loop {
        assert!(
            decoder.need() <= limits.frame.max(limits.manifest) as usize,
            "need is bounded"
        );
        let Some((piece, rest)) = left.split_at_checked(decoder.need()) else {
            return (state, Err(decoder.truncated(left.len())));
        };
        left = rest;
        match decoder.accept(piece) {
            Ok(Event::Data(pieces)) => pieces.append_to(&mut state),
            Ok(Event::Packed(packed)) => panic!("compressed out of nothing: {packed:?}"),
            Ok(Event::End(_)) if left.is_empty() => return (state, Ok(())),
            Ok(Event::End(_)) => return (state, decoder.accept(left).map(|_| ())),
            Ok(Event::More | Event::Manifest(_) | Event::Index | Event::HandOver) => {}
            Ok(Event::Abort(reason)) => panic!("an abort out of nothing: {reason}"),
            Err(error) => return (state, Err(error)),
        }
    }
}

fn fault(bytes: &[u8]) -> DecodeFault {
    decode(bytes, &Limits::default())
        .1
        .expect_err("a damaged stream")
        .fault
}

fn small() -> (Vec<u8>, Vec<u8>) {
    let mut packets = packets(&[]);
    packets.truncate(5);
    packets.extend([mmio(MEDIA), trailer()]);
    let state = packets.concat();
    (stream(&manifest(0), &state, 100), state)
}

/// A stream with zeros that did not travel.
fn small_sparse() -> (Vec<u8>, Vec<u8>) {
    let state = zero_vram().concat();
    (stream(&manifest(4), &state, 9000), state)
}

#[test]
fn every_flipped_bit_of_a_sparse_stream_is_refused() {
    let (stream, state) = small_sparse();
    assert!(stream.len() < state.len() * 2 / 3, "zeros do not travel");
    assert_eq!(decode(&stream, &Limits::default()), (state, Ok(())));
    for bit in 0..stream.len() * 8 {
        let mut damaged = stream.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (_, result) = decode(&damaged, &Limits::default());
        assert!(result.is_err(), "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn every_flipped_bit_is_refused_and_only_true_state_handed_out_before() {
    let (stream, state) = small();
    assert!(decode(&stream, &Limits::default()).1.is_ok());
    for bit in 0..stream.len() * 8 {
        let mut damaged = stream.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (handed_out, result) = decode(&damaged, &Limits::default());
        assert!(result.is_err(), "bit {} of byte {}", bit % 8, bit / 8);
        assert!(state.starts_with(&handed_out));
    }
}

#[test]
fn every_truncation_is_refused_where_it_is() {
    let (stream, state) = small();
    for end in 0..stream.len() {
        let (handed_out, result) = decode(&stream[..end], &Limits::default());
        let error = result.expect_err("cut short");
        assert!(
            matches!(error.fault, DecodeFault::Truncated { .. }),
            "{error:?}"
        );
        assert!(error.offset <= end as u64);
        assert!(state.starts_with(&handed_out));
        let mut buf = Vec::new();
        let read = Opening::read(&stream[..end], &Limits::default()).and_then(|(_, mut reader)| {
            while reader.next(&mut buf)?.is_some() {}
            Ok(())
        });
        assert!(matches!(
            read,
            Err(StreamError::Decode(DecodeError {
                fault: DecodeFault::Truncated { .. },
                ..
            }))
        ));
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let (mut stream, _) = small();
    let end = stream.len() as u64;
    stream.push(0);
    let error = decode(&stream, &Limits::default())
        .1
        .expect_err("one byte too many");
    assert_eq!(
        error,
        DecodeError {
            offset: end,
            place: Place::End,
            fault: DecodeFault::Ended
        }
    );
}

/// Where the frames of a stream begin.
fn frames(stream: &[u8]) -> Vec<std::ops::Range<usize>> {
    let manifest = u32::from_le_bytes(stream[20..24].try_into().expect("four bytes"));
    let mut at = PREAMBLE_SIZE + manifest as usize;
    let mut frames = Vec::new();
    while at < stream.len() {
        let length = u32::from_le_bytes(stream[at + 4..at + 8].try_into().expect("four bytes"));
        frames.push(at..at + FRAME_HEADER_SIZE + length as usize);
        at += FRAME_HEADER_SIZE + length as usize;
    }
    frames
}

#[test]
fn a_frame_left_out_repeated_or_moved_is_named() {
    let (stream, _) = small();
    let frames = frames(&stream);
    let build = |order: &[usize]| {
        let pieces = order.iter().map(|frame| &stream[frames[*frame].clone()]);
        [&stream[..frames[0].start]]
            .into_iter()
            .chain(pieces)
            .collect::<Vec<_>>()
            .concat()
    };
    assert_eq!(frames.len(), 4, "three data frames and the end");
    assert!(decode(&build(&[0, 1, 2, 3]), &Limits::default()).1.is_ok());
    for (order, found, expected) in [
        (vec![0, 2, 3], 2, 1),
        (vec![0, 0, 1, 2, 3], 0, 1),
        (vec![1, 0, 2, 3], 1, 0),
        (vec![0, 1, 3], 3, 2),
    ] {
        assert_eq!(
            fault(&build(&order)),
            DecodeFault::Sequence { found, expected }
        );
    }
}

#[test]
fn a_frame_of_another_stream_is_seen_by_the_digest() {
    let (stream, state) = small();
    let mut other_state = state;
    other_state[70] ^= 1;
    let other = support::stream(&manifest(0), &other_state, 100);
    let first = frames(&stream)[0].clone();
    let mut mixed = stream;
    mixed[first.clone()].copy_from_slice(&other[first]);
    assert!(matches!(fault(&mixed), DecodeFault::End { .. }));
}

#[test]
fn frames_behind_the_opening_of_another_attempt_are_seen_by_the_digest() {
    let (stream, _) = small();
    let attempt = PREAMBLE_SIZE - 24;
    let mut mixed = stream.clone();
    mixed[attempt] ^= 1;
    let checksum = crc64(&mixed[..48]);
    mixed[48..PREAMBLE_SIZE].copy_from_slice(&checksum.to_le_bytes());
    assert!(matches!(fault(&mixed), DecodeFault::End { .. }));
}

/// A preamble of any content whose checksum holds.
fn preamble(change: impl Fn(&mut [u8])) -> [u8; PREAMBLE_SIZE] {
    let blob = manifest(0).encode().expect("a good manifest");
    let mut bytes = Preamble {
        flags: Flags::NONE,
        frame_max: 1 << 20,
        manifest_version: 1,
        manifest_length: blob.len() as u32,
        manifest_checksum: 0,
        attempt: AttemptId::NONE,
        part: Part::WHOLE,
    }
    .encode();
    change(&mut bytes);
    let checksum = crc64(&bytes[..48]);
    bytes[48..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn another_format_a_newer_version_and_unknown_flags_are_called_by_their_names() {
    assert!(matches!(
        fault(&[b'{'; 64]),
        DecodeFault::Frame(FrameError::Magic(_))
    ));
    assert_eq!(
        fault(&preamble(|bytes| bytes[8] = 3)),
        FrameError::Version(3).into()
    );
    assert_eq!(
        fault(&preamble(|bytes| bytes[10] = 16)),
        FrameError::Flags(16).into()
    );
    assert_eq!(
        fault(&preamble(|bytes| bytes[18] = 1)),
        FrameError::Reserved(1).into()
    );
    for (flags, number, count) in [(2, 0, 0), (2, 0, 1), (2, 2, 2), (2, 0, 9), (6, 0, 2)] {
        let announced = |bytes: &mut [u8]| {
            bytes[10] = flags;
            (bytes[18], bytes[19]) = (number, count);
        };
        assert_eq!(
            fault(&preamble(announced)),
            FrameError::Announced {
                flags: flags.into(),
                number,
                count
            }
            .into()
        );
    }
    let unknown_type = |frame_type: u8, flags: u8| {
        let (mut stream, _) = small();
        let at = frames(&stream)[0].start;
        (stream[at], stream[at + 2]) = (frame_type, flags);
        fault(&stream)
    };
    assert_eq!(unknown_type(99, 0), FrameError::Type(99).into());
    assert_eq!(unknown_type(5, 0), DecodeFault::Misplaced(5));
    assert_eq!(unknown_type(0, 0), FrameError::Type(0).into());
    assert_eq!(unknown_type(1, 1), FrameError::Flags(1).into());
}

#[test]
fn the_version_before_this_one_is_refused_by_its_name() {
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/complete-v1.xevf");
    let old = std::fs::read(old).expect("the golden file of version 1");
    assert_eq!(fault(&old), FrameError::Version(1).into());
    let (_, result) = decode(&old, &Limits::default());
    let error = result.expect_err("another version");
    assert_eq!((error.offset, error.place), (0, Place::Preamble));
}

/// A stream of one sparse frame with this payload, whose checksum holds.
fn sparse(payload: &[u8]) -> DecodeFault {
    let (stream, _) = small();
    let header = FrameHeader {
        frame_type: FrameType::Sparse,
        length: payload.len() as u32,
        sequence: 0,
    }
    .encode(payload);
    fault(&[&stream[..frames(&stream)[0].start], &header, payload].concat())
}

/// A sparse payload of `bytes` bytes, with a table of these runs that tells of so many, and of so much state.
fn table(bytes: usize, runs: &[(u32, u32)], count: u32, state: u32) -> Vec<u8> {
    let numbers = runs.iter().flat_map(|(zeros, bytes)| [*zeros, *bytes]);
    let numbers: Vec<_> = numbers.chain([count, state]).collect();
    let tail = numbers.iter().flat_map(|number| number.to_le_bytes());
    vec![7; bytes].into_iter().chain(tail).collect()
}

#[test]
fn a_table_of_zero_runs_that_no_writer_writes_is_refused() {
    let run = |at, zeros, bytes| SparseError::Run { at, zeros, bytes };
    let sum = |told, found| SparseError::Sum { told, found };
    let max = 1 << 20;
    for (payload, refused) in [
        (table(8, &[(1, 8)], 0, 9), SparseError::Runs(0)),
        (table(8, &[(1, 8)], 3, 9), SparseError::Runs(3)),
        (
            table(8, &[(1, 8)], u32::MAX, 9),
            SparseError::Runs(u32::MAX),
        ),
        (table(8, &[(0, 0), (1, 8)], 2, 9), run(0, 0, 0)),
        (table(8, &[(1, 0), (1, 8)], 2, 10), run(0, 1, 0)),
        (table(8, &[(1, 4), (0, 4)], 2, 9), run(1, 0, 4)),
        (table(8, &[(1, 7)], 1, 8), sum(8, 7)),
        (table(8, &[(1, 9)], 1, 10), sum(8, 9)),
        (
            table(8, &[(u32::MAX, u32::MAX)], 1, 6),
            sum(8, u32::MAX.into()),
        ),
        (table(8, &[(1, 8)], 1, 8), sum(8, 9)),
        (
            table(8, &[(u32::MAX, 8)], 1, 7),
            sum(7, u64::from(u32::MAX) + 8),
        ),
        (
            table(0, &[(max + 1, 0)], 1, max + 1),
            SparseError::State {
                found: max + 1,
                most: max,
            },
        ),
    ] {
        assert_eq!(
            sparse(&payload),
            DecodeFault::Sparse(refused),
            "{payload:?}"
        );
    }
    // A good one is followed by nothing here.
    let good = sparse(&table(8, &[(0, 4), (max - 8, 4)], 2, max));
    assert!(matches!(good, DecodeFault::Truncated { .. }), "{good:?}");
}

#[test]
fn a_length_bomb_is_refused_before_memory_is_taken_for_it() {
    let big = |at: usize| {
        preamble(move |bytes| bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes()))
    };
    for (at, what) in [(12, "sender's largest frame"), (20, "manifest")] {
        let refused = fault(&big(at));
        assert!(
            matches!(refused, DecodeFault::Length { what: of, found: u32::MAX, .. } if of == what),
            "{refused:?}"
        );
    }
    let (stream, _) = small();
    let opening = &stream[..frames(&stream)[0].start];
    for (frame_type, length) in [
        (FrameType::Data, 0),
        (FrameType::Data, (1 << 20) + 1),
        (FrameType::Data, u32::MAX),
        (FrameType::Sparse, 15),
        (FrameType::Sparse, (1 << 20) + 1),
        (FrameType::Abort, 1025),
        (FrameType::End, 127),
        (FrameType::End, 129),
    ] {
        let header = FrameHeader {
            frame_type,
            length,
            sequence: 0,
        }
        .encode(&[]);
        let bytes = [opening, &header].concat();
        assert!(matches!(fault(&bytes), DecodeFault::Length { found, .. } if found == length));
        let mut reader = Opening::read(&bytes[..], &Limits::default())
            .expect("a good opening")
            .1;
        let mut buf = Vec::new();
        reader.next(&mut buf).expect_err("a length bomb");
        assert_eq!(buf.capacity(), 0);
    }
}

#[test]
fn a_sender_with_larger_frames_than_the_receiver_takes_is_refused_at_once() {
    let (stream, _) = small();
    let limits = Limits {
        frame: 4096,
        ..Limits::default()
    };
    let error = decode(&stream, &limits).1.expect_err("frames of 1 MiB");
    assert_eq!(error.place, Place::Preamble);
    assert!(matches!(
        error.fault,
        DecodeFault::Length {
            found: 0x10_0000,
            most: 4096,
            ..
        }
    ));
}

#[test]
fn a_manifest_is_decoded_only_when_its_checksum_holds() {
    let (stream, _) = small();
    for at in PREAMBLE_SIZE..frames(&stream)[0].start {
        let mut damaged = stream.clone();
        damaged[at] ^= 0xff;
        assert!(matches!(
            fault(&damaged),
            DecodeFault::Checksum {
                what: "manifest",
                ..
            }
        ));
    }
    // With a checksum that holds, what is wrong inside is the manifest's own error.
    let blob = vec![0xff; 300];
    let preamble = Preamble {
        flags: Flags::NONE,
        frame_max: 1,
        manifest_version: Manifest::newest_version(),
        manifest_length: 300,
        manifest_checksum: crc64(&blob),
        attempt: AttemptId::NONE,
        part: Part::WHOLE,
    };
    let refused = fault(&[&preamble.encode()[..], &blob].concat());
    assert!(matches!(refused, DecodeFault::Manifest(_)), "{refused:?}");
}

proptest! {
    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&noise, &Limits::default()).1.is_err());
    }

    #[test]
    fn noise_behind_a_good_opening_never_panics(noise in proptest::collection::vec(any::<u8>(), 1..400)) {
        let (mut stream, _) = small();
        stream.truncate(frames(&stream)[0].start);
        stream.extend(noise);
        let (handed_out, result) = decode(&stream, &Limits::default());
        prop_assert!(result.is_err());
        prop_assert!(handed_out.is_empty());
    }

    #[test]
    fn a_manifest_of_noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300), version in 0u16..4) {
        let _ = Manifest::decode(&noise, version);
    }
}
