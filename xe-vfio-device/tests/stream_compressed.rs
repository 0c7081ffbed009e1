// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compressed frames: what goes in comes out, and what is no compressed frame is refused before it costs memory.

mod support;

use proptest::prelude::*;
use support::*;
use xe_vfio_device::stream::frame::{FrameHeader, FrameType};
use xe_vfio_device::stream::{
    AttemptId, Codec, DecodeError, DecodeFault, Flags, Limits, Opening, Packed, PackedError,
    SparseError, StreamError, Totals, Unpacker, Writer,
};

/// Text-like bytes, which every codec makes shorter.
fn text(length: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "queue ", "fence ", "batch ", "ring ", "vram ", "page ", "reset ", "guc ",
    ];
    let mut state = seed | 1;
    let mut text = Vec::with_capacity(length + 8);
    while text.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        text.extend_from_slice(WORDS[(state >> 61) as usize].as_bytes());
    }
    text.truncate(length);
    text
}

/// Bytes that no codec makes shorter.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ word >> 31).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A stream of these payloads, compressed where that pays; with its totals.
fn compressed(payloads: &[Vec<u8>], codec: Codec, flags: Flags) -> (Vec<u8>, Totals) {
    let state = payloads.concat();
    let (mut bytes, manifest) = (Vec::new(), manifest(64));
    let flags = flags.with(Flags::COMPRESSED);
    let mut writer = Writer::with_flags(&mut bytes, &manifest, 1 << 20, AttemptId::NONE, flags)
        .expect("a vector takes all");
    writer.compress(Some(codec));
    for payload in payloads {
        writer.frame(payload).expect("a vector takes all");
    }
    // What the state is is not looked at here.
    let account = xe_vfio_device::xe::Account::default();
    let totals = writer.finish(&account).expect("a vector takes all");
    assert_eq!(totals.wire_bytes, bytes.len() as u64);
    assert_eq!(totals.payload_bytes, state.len() as u64);
    (bytes, totals)
}

fn receive(stream: &[u8]) -> Result<(Vec<u8>, Totals), StreamError> {
    let (_, mut reader) = Opening::read(stream, &Limits::default())?;
    let (mut buf, mut state) = (Vec::new(), Vec::new());
    while let Some(payload) = reader.next(&mut buf)? {
        state.extend_from_slice(payload);
    }
    let totals = reader.finish_file(&xe_vfio_device::xe::Account::default())?;
    Ok((state, totals))
}

/// A stream whose opening announces compressed frames, with one frame of this payload behind it.
fn with_frame(flags: Flags, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::with_flags(&mut bytes, &manifest(1), 1 << 20, AttemptId::NONE, flags)
        .expect("a vector takes all");
    let header = FrameHeader {
        frame_type: FrameType::Compressed,
        length: payload.len() as u32,
        sequence: 0,
    };
    bytes.extend_from_slice(&header.encode(payload));
    bytes.extend_from_slice(payload);
    bytes
}

#[track_caller]
fn fault(stream: &[u8]) -> DecodeFault {
    match receive(stream) {
        Err(StreamError::Decode(DecodeError { fault, .. })) => fault,
        other => panic!("{other:?}"),
    }
}

#[cfg(not(feature = "compression"))]
#[test]
fn a_build_without_codecs_refuses_the_stream_at_its_preamble_and_says_what_to_do() {
    let (stream, _) = compressed(&[text(9000, 1)], Codec::Lz4, Flags::NONE);
    let fault = fault(&stream);
    assert_eq!(fault, DecodeFault::Packed(PackedError::NotBuilt));
    assert!(fault.to_string().contains("feature `compression`"));
}

#[test]
fn a_compressed_frame_that_was_not_announced_is_refused() {
    let payload = payload(&[0; 40], &[(0, 5000)], 5000, 0, 1);
    let unannounced = DecodeFault::Packed(PackedError::Unannounced);
    assert_eq!(fault(&with_frame(Flags::NONE, &payload)), unannounced);
}

#[test]
fn a_data_fd_that_is_handed_over_is_not_compressed() {
    let mut bytes = Vec::new();
    let flags = Flags::HAND_OVER.with(Flags::COMPRESSED);
    Writer::with_flags(&mut bytes, &manifest(1), 1 << 20, AttemptId::NONE, flags)
        .expect("a vector takes all");
    let refused = fault(&bytes);
    assert!(
        matches!(refused, DecodeFault::Frame(_)),
        "refused by its flags: {refused}"
    );
}

/// The payload of a compressed frame.
fn payload(packed: &[u8], runs: &[(u32, u32)], state: u32, crc: u64, codec: u32) -> Vec<u8> {
    let mut bytes = packed.to_vec();
    for (zeros, stay) in runs {
        bytes.extend_from_slice(&zeros.to_le_bytes());
        bytes.extend_from_slice(&stay.to_le_bytes());
    }
    bytes.extend_from_slice(&(runs.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&state.to_le_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&codec.to_le_bytes());
    bytes
}

#[cfg(feature = "compression")]
mod built {
    use xe_vfio_device::stream::crc::crc64;

    use super::*;

    fn unpacked(payload: &[u8], most: u32) -> Result<Vec<u8>, PackedError> {
        let mut unpacker = Unpacker::new();
        let mut state = Vec::new();
        let pieces = Packed::read(payload, most)?.unpack(&mut unpacker)?;
        pieces.append_to(&mut state);
        Ok(state)
    }

    #[test]
    fn text_is_compressed_and_comes_out_as_it_was() {
        for codec in Codec::ALL {
            let payloads = [text(1 << 20, 1), text(5000, 2), text(777, 3)];
            let (stream, written) = compressed(&payloads, codec, Flags::NONE);
            let (state, read) = receive(&stream).expect("a good stream");
            assert!(state == payloads.concat());
            assert_eq!(read, written);
            let all = written.compressed();
            assert_eq!((all.frames, all.before), (2, (1 << 20) + 5000), "{codec}");
            assert!(all.after < all.before / 2, "{codec}: {all:?}");
            let (used, unused) = match codec {
                Codec::Lz4 => (read.lz4, read.zstd),
                Codec::Zstd => (read.zstd, read.lz4),
            };
            assert_eq!((used, unused.frames), (all, 0));
        }
    }

    #[test]
    fn noise_travels_as_it_is() {
        for codec in Codec::ALL {
            let payloads = [noise(1 << 20, 1), noise(100_000, 2)];
            let (stream, written) = compressed(&payloads, codec, Flags::NONE);
            assert_eq!(written.compressed().frames, 0, "{codec}");
            assert!(receive(&stream).expect("a good stream").0 == payloads.concat());
        }
    }

    #[test]
    fn zeros_are_left_out_before_the_rest_is_compressed() {
        for codec in Codec::ALL {
            let mut payload = text(16 * 4096, 4);
            payload[4096..5 * 4096].fill(0);
            payload[9 * 4096..12 * 4096].fill(0);
            let (stream, written) = compressed(std::slice::from_ref(&payload), codec, Flags::NONE);
            assert_eq!(written.zero_bytes, 7 * 4096);
            assert_eq!(written.compressed().before, 9 * 4096);
            let (state, read) = receive(&stream).expect("a good stream");
            assert!(state == payload && read == written);
        }
    }

    #[test]
    fn nothing_but_zeros_is_not_compressed() {
        let (stream, written) = compressed(&[vec![0; 1 << 20]], Codec::Zstd, Flags::NONE);
        assert_eq!(written.compressed().frames, 0);
        assert!(receive(&stream).expect("a good stream").0 == vec![0; 1 << 20]);
    }

    #[test]
    fn a_stream_that_does_not_announce_it_is_not_compressed() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &manifest(1)).expect("a vector takes all");
        writer.compress(Some(Codec::Lz4));
        writer.frame(&text(9000, 1)).expect("a vector takes all");
        assert_eq!(writer.totals().compressed().frames, 0);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_of_a_compressed_stream_is_refused() {
        for codec in Codec::ALL {
            let mut payload = text(6 * 4096, 5);
            payload[..4096].fill(0);
            let (stream, _) = compressed(&[payload], codec, Flags::INDEXED);
            assert!(receive(&stream).is_ok());
            for bit in 0..stream.len() * 8 {
                let mut damaged = stream.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(receive(&damaged).is_err(), "bit {bit}, {codec}");
            }
            for end in 0..stream.len() {
                assert!(receive(&stream[..end]).is_err(), "{end} bytes, {codec}");
            }
        }
    }

    /// The payload of the first frame of a stream.
    fn first_payload(stream: &[u8]) -> Vec<u8> {
        let length = |at: usize| {
            u32::from_le_bytes(stream[at..at + 4].try_into().expect("four bytes")) as usize
        };
        let frame = 56 + length(20);
        stream[frame + 24..][..length(frame + 4)].to_vec()
    }

    #[test]
    fn what_stands_behind_a_good_checksum_is_checked_too() {
        let plain = text(9000, 6);
        let good =
            first_payload(&compressed(std::slice::from_ref(&plain), Codec::Lz4, Flags::NONE).0);
        let packed = &good[..good.len() - 28];
        let crc = crc64(&plain);
        let of = |runs: &[(u32, u32)], state, crc, codec| payload(packed, runs, state, crc, codec);
        assert_eq!(of(&[(0, 9000)], 9000, crc, 1), good);
        assert_eq!(unpacked(&good, 1 << 20), Ok(plain.clone()));

        let refused = |payload: &[u8], most| unpacked(payload, most).expect_err("refused");
        for number in [0, 3, u32::MAX] {
            let unknown = of(&[(0, 9000)], 9000, crc, number);
            assert_eq!(refused(&unknown, 1 << 20), PackedError::Codec(number));
        }
        let large = SparseError::State {
            found: 9000,
            most: 8999,
        };
        assert_eq!(refused(&good, 8999), PackedError::Runs(large));
        let sum = refused(&of(&[(0, 9001)], 9000, crc, 1), 1 << 20);
        assert!(
            matches!(sum, PackedError::Runs(SparseError::Sum { .. })),
            "{sum}"
        );
        for (runs, state) in [
            ([(0, 8999)], 8999),
            ([(0, 9001)], 9001),
            ([(0, 1 << 20)], 1 << 20),
        ] {
            let other = refused(&of(&runs, state, crc, 1), 1 << 20);
            assert!(matches!(other, PackedError::Bytes { .. }), "{other}");
        }
        let disagree = refused(&of(&[(0, 9000)], 9000, crc ^ 1, 1), 1 << 20);
        assert!(
            matches!(disagree, PackedError::Checksum { .. }),
            "{disagree}"
        );
        let other_codec = refused(&of(&[(0, 9000)], 9000, crc, 2), 1 << 20);
        assert!(
            matches!(other_codec, PackedError::Bytes { .. }),
            "{other_codec}"
        );
        let zeros = refused(&payload(packed, &[(9000, 0)], 9000, crc, 1), 1 << 20);
        assert_eq!(zeros, PackedError::Empty(good.len()));
        let empty = refused(&payload(&[], &[(0, 9000)], 9000, crc, 1), 1 << 20);
        assert_eq!(empty, PackedError::Empty(28));

        let damaged = of(&[(0, 9000)], 9000, crc ^ 1, 1);
        let DecodeFault::Packed(PackedError::Checksum { .. }) =
            fault(&with_frame(Flags::COMPRESSED, &damaged))
        else {
            panic!("refused for another reason")
        };
    }

    #[test]
    fn nothing_more_is_read_after_a_frame_that_does_not_decompress() {
        let damaged = payload(&[9; 100], &[(0, 9000)], 9000, 0, 2);
        let stream = with_frame(Flags::COMPRESSED, &damaged);
        let (_, mut reader) = Opening::read(&stream[..], &Limits::default()).expect("an opening");
        let error = reader.next(&mut Vec::new()).expect_err("no zstd frame");
        assert!(error.to_string().ends_with("(frame 0)"), "{error}");
        assert!(matches!(
            reader.next(&mut Vec::new()),
            Err(StreamError::Over)
        ));
    }

    #[derive(Debug, Clone, Copy)]
    enum Kind {
        Zeros,
        Text,
        Noise,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Any mixture of contents, cut anywhere, with an index or not.
        #[test]
        fn any_content_comes_out_as_it_was(
            pieces in proptest::collection::vec(
                (prop_oneof![Just(Kind::Zeros), Just(Kind::Text), Just(Kind::Noise)], 1usize..40_000),
                1..12,
            ),
            frame in 1000usize..300_000,
            zstd in any::<bool>(),
            indexed in any::<bool>(),
        ) {
            let state: Vec<u8> = pieces
                .iter()
                .enumerate()
                .flat_map(|(seed, (kind, length))| match kind {
                    Kind::Zeros => vec![0; *length],
                    Kind::Text => text(*length, seed as u64),
                    Kind::Noise => noise(*length, seed as u64),
                })
                .collect();
            let payloads: Vec<_> = state.chunks(frame).map(<[u8]>::to_vec).collect();
            let codec = if zstd { Codec::Zstd } else { Codec::Lz4 };
            let flags = if indexed { Flags::INDEXED } else { Flags::NONE };
            let (stream, written) = compressed(&payloads, codec, flags);
            let (received, read) = receive(&stream).expect("a good stream");
            prop_assert!(received == state);
            prop_assert_eq!(read, written);
        }

        /// Bytes that no writer has written never panic, and never come to more than they tell of.
        #[test]
        fn any_payload_is_refused_or_bounded(
            packed in proptest::collection::vec(any::<u8>(), 0..300),
            zeros in 0u32..5000, stay in 0u32..5000, state in 0u32..10_000,
            codec in 0u32..4, most in 0u32..10_000,
        ) {
            let bytes = payload(&packed, &[(zeros, stay)], state, 0, codec);
            if let Ok(state) = unpacked(&bytes, most) {
                prop_assert!(state.len() <= most as usize);
            }
        }

        /// The same for bytes that a codec has written and somebody has altered.
        #[test]
        fn altered_bytes_never_pass(
            at in any::<prop::sample::Index>(), bit in 0u8..8, zstd in any::<bool>(), seed in any::<u64>(),
        ) {
            let plain = [text(6000, seed), noise(3000, seed)].concat();
            let codec = if zstd { Codec::Zstd } else { Codec::Lz4 };
            let good = first_payload(&compressed(std::slice::from_ref(&plain), codec, Flags::NONE).0);
            prop_assert_eq!(unpacked(&good, 9000).expect("good"), &plain[..]);
            let mut altered = good;
            let at = at.index(altered.len());
            altered[at] ^= 1 << bit;
            // A codec may have two ways to say the same.
            if let Ok(state) = unpacked(&altered, 9000) {
                prop_assert!(state == plain, "byte {}", at);
            }
        }
    }
}
