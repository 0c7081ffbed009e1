// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The index of a file: what it tells, how a damaged one is noticed, and that frames read out of their order make the same state.

mod support;

use std::fs::File;
use std::io::Write;
use std::thread;

use support::*;
use xe_vfio_device::stream::crc::crc64;
use xe_vfio_device::stream::frame::{FRAME_HEADER_SIZE, FrameHeader, FrameType, PREAMBLE_SIZE};
use xe_vfio_device::stream::index::{BEHIND, ENTRY_SIZE, Index, TAIL_SIZE, begins};
use xe_vfio_device::stream::{
    AttemptId, DecodeError, DecodeFault, IndexError, Limits, Opening, Piece, StreamError, Totals,
    Writer,
};
use xe_vfio_device::transfer::{FileFrames, Threads};
use xe_vfio_device::xe::Parser;

/// A stream with an index around `state`, in frames of `frame` bytes.
fn indexed(state: &[u8], frame: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::indexed(&mut bytes, &manifest(4), 1 << 20, AttemptId::NONE).unwrap();
    for payload in state.chunks(frame) {
        writer.frame(payload).unwrap();
    }
    let totals = writer.finish(&account(state)).unwrap();
    assert_eq!(totals.wire_bytes, bytes.len() as u64);
    bytes
}

fn state() -> Vec<u8> {
    zero_vram().concat()
}

fn opening(bytes: &[u8]) -> u64 {
    let manifest = u32::from_le_bytes(bytes[20..24].try_into().unwrap());
    PREAMBLE_SIZE as u64 + u64::from(manifest)
}

/// Where the index frame begins.
fn index_at(bytes: &[u8]) -> usize {
    let end = bytes.len() - BEHIND as usize;
    let tail = bytes[..end].last_chunk::<TAIL_SIZE>().unwrap();
    begins(tail, bytes.len() as u64).unwrap() as usize
}

type Read = (Vec<u8>, Result<Totals, StreamError>);

/// In order, on one thread, from anything.
fn read_in_order(bytes: &[u8]) -> Read {
    let mut state = Vec::new();
    let mut parser = Parser::new(expectation(4));
    let read = Opening::read(bytes, &Limits::default()).and_then(|(_, mut reader)| {
        let mut buf = Vec::new();
        while let Some(payload) = reader.next(&mut buf)? {
            state.extend_from_slice(payload);
            parser.observe(payload).unwrap();
        }
        reader.finish_file(&parser.finish().unwrap_or_default())
    });
    (state, read)
}

/// By several threads, from a file; answers whether its index was used too.
fn read_ahead(bytes: &[u8]) -> (Read, bool) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let file = File::open(file.path()).unwrap();
    let mut state = Vec::new();
    let mut parser = Parser::new(expectation(4));
    let mut used = false;
    let read = thread::scope(|scope| {
        let (_, mut frames) = FileFrames::open(scope, file, &Limits::default(), Threads::Two)?;
        used = frames.index().is_some();
        let mut take = |bytes: &[u8]| {
            state.extend_from_slice(bytes);
            parser.observe(bytes).unwrap();
        };
        while frames
            .next(|pieces| {
                for piece in pieces {
                    match piece {
                        Piece::Bytes(bytes) => take(bytes),
                        Piece::Zeros(count) => take(&vec![0; count]),
                    }
                }
            })?
            .is_some()
        {}
        frames.finish(&parser.finish().unwrap_or_default())
    });
    ((state, read), used)
}

#[track_caller]
fn fault(read: Read) -> DecodeFault {
    match read.1 {
        Err(StreamError::Decode(DecodeError { fault, .. })) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_read_ahead_are_those_that_are_read_in_order() {
    for frame in [100, 4096, 9000, 1 << 20] {
        let bytes = indexed(&state(), frame);
        let (there, totals) = read_in_order(&bytes);
        let ((ahead, ahead_totals), used) = read_ahead(&bytes);
        assert!(used, "{frame}");
        assert!(there == state() && ahead == state(), "{frame}");
        assert_eq!(totals.unwrap(), ahead_totals.unwrap());
    }
}

#[test]
fn the_index_tells_where_each_frame_is() {
    let bytes = indexed(&state(), 9000);
    let at = index_at(&bytes);
    let payload = &bytes[at + FRAME_HEADER_SIZE..bytes.len() - BEHIND as usize];
    let index = Index::decode(payload, opening(&bytes), 1 << 20).unwrap();
    assert_eq!(index.len(), state().len().div_ceil(9000));
    for number in 0..index.len() {
        let range = index.frame(number).unwrap();
        let frame = &bytes[range.start as usize..range.end as usize];
        let header = FrameHeader::decode(frame.first_chunk().unwrap()).unwrap();
        assert_eq!(header.sequence, number as u64);
        assert_eq!(header.length as usize, frame.len() - FRAME_HEADER_SIZE);
        assert_eq!(index.state(number).unwrap().start, 9000 * number as u64);
    }
    assert_eq!(index.frame(index.len()), None);
}

#[test]
fn every_flipped_bit_is_found_in_order_and_ahead() {
    let bytes = indexed(&state(), 9000);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let (there, result) = read_in_order(&damaged);
        assert!(result.is_err() && state().starts_with(&there), "byte {at}");
        // Each takes a file: all of what is not payload, and some of what is.
        let is_payload = (600..index_at(&bytes)).contains(&at);
        if !is_payload || at % 61 == 0 {
            let ((ahead, result), _) = read_ahead(&damaged);
            assert!(result.is_err() && state().starts_with(&ahead), "byte {at}");
        }
    }
}

#[test]
fn every_truncation_and_every_byte_too_many_is_found_in_order_and_ahead() {
    let bytes = indexed(&state(), 9000);
    for end in (0..bytes.len()).filter(|end| end % 41 == 0 || *end > index_at(&bytes) - 9) {
        assert!(read_in_order(&bytes[..end]).1.is_err(), "cut at {end}");
        assert!(read_ahead(&bytes[..end]).0.1.is_err(), "cut at {end}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(fault(read_in_order(&longer)), DecodeFault::Ended));
    assert!(matches!(fault(read_ahead(&longer).0), DecodeFault::Ended));
}

/// The stream with another index, its checksum and the end record's digest made good.
fn with_index(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let at = index_at(bytes);
    let end = bytes.len() - BEHIND as usize;
    let mut payload = bytes[at + FRAME_HEADER_SIZE..end].to_vec();
    let frames = payload.len() / ENTRY_SIZE - 1;
    change(&mut payload);
    let header = |frame_type, payload: &[u8], sequence| {
        FrameHeader {
            frame_type,
            length: payload.len() as u32,
            sequence,
        }
        .encode(payload)
    };
    let mut record = bytes[end + FRAME_HEADER_SIZE..].to_vec();
    let mut altered = bytes[..at].to_vec();
    altered.extend_from_slice(&header(FrameType::Index, &payload, frames as u64));
    altered.extend_from_slice(&payload);
    let digest = digest(&altered);
    record[112..].copy_from_slice(&digest.to_le_bytes());
    altered.extend_from_slice(&header(FrameType::End, &record, frames as u64 + 1));
    altered.extend_from_slice(&record);
    altered
}

/// The digest of all frame headers.
fn digest(bytes: &[u8]) -> u64 {
    let mut summed = bytes[..48].to_vec();
    let mut at = opening(bytes) as usize;
    while at < bytes.len() {
        summed.extend_from_slice(&bytes[at..at + FRAME_HEADER_SIZE]);
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        at += FRAME_HEADER_SIZE + length as usize;
    }
    crc64(&summed)
}

#[test]
fn an_index_that_tells_of_other_frames_is_refused_though_its_checksum_holds() {
    let bytes = indexed(&state(), 1000);
    assert_eq!(
        with_index(&bytes, |_| {}),
        bytes,
        "the way to alter it is right"
    );
    let entry = |payload: &mut [u8], number: usize, field: usize, add: i64| {
        let at = number * ENTRY_SIZE + 8 * field;
        let value = i64::from_le_bytes(payload[at..at + 8].try_into().unwrap()) + add;
        payload[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    for number in [0, 1, 3] {
        for field in [0, 1] {
            for add in [-1, 1, 5000, i64::MAX / 2] {
                let other = with_index(&bytes, |payload| entry(payload, number, field, add));
                let found = fault(read_in_order(&other));
                assert!(
                    matches!(found, DecodeFault::Index(IndexError::Frames)),
                    "{found:?}"
                );
                assert!(read_ahead(&other).0.1.is_err(), "{number} {field} {add}");
            }
        }
    }
    let shorter = with_index(&bytes, |payload| {
        payload.drain(..ENTRY_SIZE);
    });
    assert!(matches!(
        fault(read_in_order(&shorter)),
        DecodeFault::Index(IndexError::Length { .. })
    ));
    assert!(read_ahead(&shorter).0.1.is_err());
}

#[test]
fn an_index_that_was_not_announced_or_does_not_come_is_refused() {
    let bytes = indexed(&state(), 9000);
    let announced = |bytes: &[u8], flags: u16| {
        let mut bytes = bytes.to_vec();
        bytes[10..12].copy_from_slice(&flags.to_le_bytes());
        let checksum = crc64(&bytes[..48]);
        bytes[48..56].copy_from_slice(&checksum.to_le_bytes());
        bytes
    };
    assert_eq!(announced(&bytes, 4), bytes);
    assert!(matches!(
        fault(read_in_order(&announced(&bytes, 0))),
        DecodeFault::Index(IndexError::Unannounced)
    ));
    let plain = stream(&manifest(4), &state(), 9000);
    assert!(matches!(
        fault(read_in_order(&announced(&plain, 4))),
        DecodeFault::Index(IndexError::Missing)
    ));
    let at = index_at(&bytes);
    let end = bytes.len() - BEHIND as usize;
    let twice = [&bytes[..end], &bytes[at..]].concat();
    assert!(read_in_order(&twice).1.is_err());
}

#[test]
fn a_file_without_an_index_is_read_from_its_beginning() {
    let plain = stream(&manifest(4), &state(), 9000);
    let ((ahead, totals), used) = read_ahead(&plain);
    assert!(!used && ahead == state());
    assert_eq!(
        totals.unwrap().frames as usize,
        state().len().div_ceil(9000)
    );
    assert_eq!(read_in_order(&plain).0, state());
}
