// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames that are sent together, and frames that are summed piece by piece as they come.

mod support;

use std::io::{self, IoSlice, Read, Write};

use support::manifest;
use xe_vfio_device::stream::crc::Crc64;
use xe_vfio_device::stream::{AttemptId, Encoder, Frame, Limits, Opening, Outlet, Raw, Writer};

const PIECE: usize = 512 << 10;
const BLOCK: usize = 4096;

/// Keeps what each call wrote.
#[derive(Default)]
struct Calls(Vec<Vec<u8>>);

impl Write for Calls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.write(&bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn frames_that_were_held_go_with_the_next_write_in_their_order() {
    let payloads = [
        vec![0; 2 * BLOCK],
        vec![0; 3 * BLOCK],
        vec![1; BLOCK],
        vec![0; BLOCK],
    ];
    let send = |hold: bool| {
        let (mut calls, mut frame) = (Calls::default(), Frame::new());
        let mut outlet = Outlet::new(&mut calls);
        let (mut encoder, _) = Encoder::new(&manifest(1), 1 << 20, AttemptId::NONE).unwrap();
        for payload in &payloads {
            encoder.frame(payload, &mut frame);
            if hold && frame.zeros() == payload.len() {
                outlet.hold(&frame, payload);
            } else {
                outlet.frame(&frame, payload).unwrap();
            }
        }
        assert_eq!(outlet.held(), usize::from(hold));
        outlet.flushed(b"end").unwrap();
        calls.0
    };
    let (each, together) = (send(false), send(true));
    assert_eq!((each.len(), together.len()), (5, 2));
    assert_eq!(each.concat(), together.concat());
}

/// Answers at most so many bytes a read.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

fn stream(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &manifest(1)).unwrap();
    writer.frame(payload).unwrap();
    drop(writer);
    bytes
}

/// Receives the first frame behind the opening.
fn first(bytes: &[u8], most: usize) -> (Raw, Vec<u8>) {
    let (_, reader) = Opening::read(Slow(bytes, most), &Limits::default()).unwrap();
    let (mut inlet, _) = reader.into_parts();
    let mut payload = vec![0; 1 << 20];
    let (mut raw, mut received) = (Raw::new(), 0);
    inlet.frame_summed(&mut raw, Crc64::update, |length| {
        received = length;
        &mut payload[..length]
    });
    payload.truncate(received);
    (raw, payload)
}

#[test]
fn a_frame_that_is_summed_as_it_comes_has_the_sum_of_the_whole_however_it_comes() {
    let state: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8 + 1).collect();
    for length in [1, PIECE - 1, PIECE, PIECE + 1, state.len()] {
        let bytes = stream(&state[..length]);
        for most in [usize::MAX, 65_521, PIECE] {
            let (mut raw, payload) = first(&bytes, most);
            assert!(raw.holds() && !raw.is_last(), "{length} bytes by {most}");
            assert_eq!(payload, &state[..length]);
            assert!(raw.sum(&payload));
        }
    }
}

#[test]
fn a_frame_that_was_cut_or_altered_does_not_hold() {
    let bytes = stream(&vec![7; PIECE + 9]);
    for cut in [1, 9, PIECE] {
        let (raw, _) = first(&bytes[..bytes.len() - cut], usize::MAX);
        assert!(!raw.holds() && raw.is_last(), "{cut} bytes cut off");
    }
    for at in [1, 10, PIECE] {
        let mut altered = bytes.clone();
        let last = altered.len() - at;
        altered[last] ^= 1;
        let (raw, _) = first(&altered, usize::MAX);
        assert!(!raw.holds() && !raw.is_last(), "{at} bytes before the end");
    }
}
