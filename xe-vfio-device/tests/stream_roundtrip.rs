// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes into a stream comes out, whatever the frames and whatever the connection makes of reads and writes.

mod support;

use std::io::{self, IoSlice, Read, Write};

use proptest::prelude::*;
use support::*;
use xe_vfio_device::stream::{AttemptId, Limits, Opening, StreamError, Totals, Writer};
use xe_vfio_device::xe::{Account, Expectation, Parser};

/// Reads at most so many bytes at a time, with interruptions.
struct Slow<R>(R, usize, bool);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.2 = !self.2;
        if self.2 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buf.len().min(self.1);
        self.0.read(&mut buf[..most])
    }
}

/// Takes at most so many bytes at a time, across slices, and fails once it has `room` no more.
struct Tight {
    bytes: Vec<u8>,
    most: usize,
    room: usize,
}

impl Write for Tight {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let most = self.most.min(self.room);
        if most == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let before = self.bytes.len();
        for slice in slices {
            let left = most - (self.bytes.len() - before);
            self.bytes
                .extend_from_slice(&slice[..left.min(slice.len())]);
        }
        let taken = self.bytes.len() - before;
        self.room -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn receive(stream: impl Read) -> Result<(Vec<u8>, Account, Totals), StreamError> {
    let (source, mut reader) = Opening::read(stream, &Limits::default())?;
    let mut parser = Parser::new(Expectation::of(&source).sent_by(&source));
    assert_eq!(source.device_id, "vf0");
    let (mut buf, mut state) = (Vec::new(), Vec::new());
    while let Some(payload) = reader.next(&mut buf)? {
        parser.observe(payload).expect("a good packet stream");
        state.extend_from_slice(payload);
    }
    assert!(reader.next(&mut buf)?.is_none(), "the end stays the end");
    let account = parser.finish().expect("a good packet stream");
    let totals = reader.finish_file(&account)?;
    Ok((state, account, totals))
}

proptest! {
    #[test]
    fn any_frame_size_and_any_connection_give_the_same_state(
        frame in 1usize..9000, read in 1usize..5000, write in 1usize..5000,
        pages in proptest::collection::vec(1u64..4, 0..5),
    ) {
        let state = packets(&pages).concat();
        let sent = account(&state);
        let mut connection = Tight { bytes: Vec::new(), most: write, room: usize::MAX };
        let mut writer = Writer::new(&mut connection, &manifest(pages.iter().sum())).expect("room");
        for payload in state.chunks(frame) {
            writer.frame(payload).expect("room");
        }
        let written = writer.finish(&sent).expect("room");
        prop_assert_eq!(written.payload_bytes, state.len() as u64);
        prop_assert_eq!(written.frames, state.len().div_ceil(frame) as u64);
        prop_assert_eq!(written.wire_bytes, connection.bytes.len() as u64);
        let (received, account, read) = receive(Slow(&connection.bytes[..], read, false)).expect("a good stream");
        prop_assert_eq!(received, state);
        prop_assert_eq!(account, sent);
        prop_assert_eq!(read, written);
    }
}

#[test]
fn a_payload_larger_than_a_frame_is_sent_as_several() {
    let state = packets(&[3]).concat();
    let mut bytes = Vec::new();
    let mut writer = Writer::for_attempt(&mut bytes, &manifest(1), 1000, AttemptId(7))
        .expect("a vector takes all");
    writer.frame(&state).expect("a vector takes all");
    writer.frame(&[]).expect("nothing to send");
    assert_eq!(writer.totals().frames, state.len().div_ceil(1000) as u64);
    writer.finish(&account(&state)).expect("a vector takes all");
    let mut reader = Opening::read(&bytes[..], &Limits::default())
        .expect("a good stream")
        .1;
    let mut buf = Vec::new();
    assert_eq!(
        reader.next(&mut buf).expect("a frame"),
        Some(&state[..1000])
    );
    assert_eq!(reader.attempt(), AttemptId(7));
}

#[test]
fn the_manifest_arrives_before_any_state_is_sent() {
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, &manifest(7)).expect("a vector takes all");
    let (received, _) = Opening::read(&bytes[..], &Limits::default()).expect("a good opening");
    assert_eq!(received, manifest(7));
}

#[test]
fn an_aborting_sender_is_quoted() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &manifest(1)).expect("a vector takes all");
    writer.frame(&descriptor()).expect("a vector takes all");
    writer
        .abort("The GPU of the source hung")
        .expect("a vector takes all");
    let mut reader = Opening::read(&bytes[..], &Limits::default())
        .expect("a good opening")
        .1;
    let mut buf = Vec::new();
    reader.next(&mut buf).expect("a frame");
    let error = reader.next(&mut buf).expect_err("an abort");
    assert_eq!(
        error.to_string(),
        "The sender stopped after 40 bytes of device state: The GPU of the source hung"
    );
    assert!(matches!(reader.next(&mut buf), Err(StreamError::Over)));
    assert!(matches!(
        reader.finish(&Account::default()),
        Err(StreamError::Unfinished)
    ));
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut bytes = Vec::new();
    let reason = format!("x{}", "é".repeat(4000));
    Writer::new(&mut bytes, &manifest(1))
        .and_then(|writer| writer.abort(&reason))
        .expect("a vector takes all");
    let mut reader = Opening::read(&bytes[..], &Limits::default())
        .expect("a good opening")
        .1;
    let StreamError::Aborted { reason, .. } = reader.next(&mut Vec::new()).expect_err("an abort")
    else {
        panic!("another error");
    };
    assert_eq!(reason, format!("x{}", "é".repeat(511)));
}

#[test]
fn a_writer_whose_connection_broke_says_so_and_sends_nothing_more() {
    let mut connection = Tight {
        bytes: Vec::new(),
        most: 100,
        room: 500,
    };
    let mut writer = Writer::new(&mut connection, &manifest(1)).expect("room for the opening");
    let error = writer.frame(&pattern(1000, 0)).expect_err("no room");
    assert!(
        matches!(
            error,
            StreamError::Io {
                doing: "Sending",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(matches!(writer.frame(&[1]), Err(StreamError::Over)));
    assert!(matches!(writer.abort("It broke"), Err(StreamError::Over)));
    assert_eq!(connection.bytes.len(), 500);
}

#[test]
fn accounts_that_differ_are_told() {
    let state = packets(&[1]).concat();
    let bytes = stream(&manifest(1), &state, 4096);
    let mut reader = Opening::read(&bytes[..], &Limits::default())
        .expect("a good opening")
        .1;
    let mut buf = Vec::new();
    while reader.next(&mut buf).expect("a good stream").is_some() {}
    let error = reader
        .finish(&Account::default())
        .expect_err("another account");
    assert!(
        error
            .to_string()
            .contains("1 VRAM (4096 bytes), but no packets came through"),
        "{error}"
    );
}

#[test]
fn a_file_has_nothing_after_its_end() {
    let mut bytes = stream(&manifest(1), &packets(&[1]).concat(), 4096);
    receive(&bytes[..]).expect("a good file");
    bytes.push(0);
    let error = receive(&bytes[..]).expect_err("one byte too many");
    assert_eq!(
        error.to_string(),
        format!(
            "The device state stream is refused at byte {} (after the end)",
            bytes.len() - 1
        )
    );
}
