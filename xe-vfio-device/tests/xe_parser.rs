// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the packet parser hands bytes on, counts them, and stops.

mod support;

use std::io;

use support::*;
use xe_vfio_device::xe::{Expectation, PacketType, ParseError, Parser, PushError, Refusal, Tally};

#[test]
fn a_whole_save_is_accounted_by_kind_and_gt() {
    let input = packets(&[2, 1]).concat();
    let (emitted, account) = parse(expectation(3), &input, &[input.len()]);
    let account = account.expect("a good stream");
    assert_eq!(emitted, input);
    assert_eq!(account.stream_bytes(), input.len() as u64);
    assert_eq!(account.vram_bytes(), 3 * PAGE);
    let tally = |kind| account.by_kind().get(kind);
    assert_eq!(
        tally(PacketType::Descriptor),
        Tally {
            packets: 1,
            bytes: 16
        }
    );
    assert_eq!(
        tally(PacketType::Trailer),
        Tally {
            packets: 1,
            bytes: 0
        }
    );
    assert_eq!(
        tally(PacketType::Guc),
        Tally {
            packets: 2,
            bytes: 40
        }
    );
    assert_eq!(
        tally(PacketType::Vram),
        Tally {
            packets: 2,
            bytes: 3 * PAGE
        }
    );
    let media = account
        .by_gt()
        .find(|(gt, _)| *gt == MEDIA)
        .expect("packets of the media GT")
        .1;
    assert_eq!(media.stream_bytes(), 2 * 24 + 20 + 16);
}

#[test]
fn a_good_stream_reaches_the_sink_in_the_slices_it_came_in() {
    let input = packets(&[4]).concat();
    let mut parser = Parser::new(expectation(4));
    let mut slices = Vec::new();
    let sink = |bytes: &[u8]| {
        slices.push(bytes.as_ptr_range());
        Ok::<_, io::Error>(())
    };
    parser.push(&input, sink).expect("a good stream");
    assert_eq!(slices, [input.as_ptr_range()], "one slice, and not a copy");
}

#[test]
fn a_header_waits_for_its_last_byte_and_a_descriptor_for_its_payload() {
    let input = packets(&[1]).concat();
    let mut parser = Parser::new(expectation(1));
    let mut emitted = 0;
    for (at, byte) in input.iter().enumerate() {
        let sink = |bytes: &[u8]| {
            emitted += bytes.len();
            Ok::<_, io::Error>(())
        };
        parser
            .push(std::slice::from_ref(byte), sink)
            .expect("a good stream");
        let pushed = at + 1;
        let expected = match pushed {
            0..40 => Some(0),   // the descriptor is checked as a whole
            40..64 => Some(40), // a header too
            64..84 => Some(pushed),
            _ => None,
        };
        assert!(
            expected.is_none_or(|expected| expected == emitted),
            "{emitted} of {pushed}"
        );
    }
    assert_eq!(emitted, input.len());
    assert!(parser.is_complete());
}

#[test]
fn the_saving_side_takes_any_device() {
    let input = packets(&[1]).concat();
    let mut parser = Parser::new(Expectation::any());
    parser.observe(&input).expect("a good stream");
    assert_eq!(parser.account().vram_bytes(), PAGE);
    parser.finish().expect("complete");
}

#[test]
fn a_stream_ends_with_its_trailer_and_not_before_or_after() {
    let input = packets(&[1]).concat();
    for end in 0..input.len() {
        let (_, result) = parse(expectation(1), &input[..end], &[input.len()]);
        assert_eq!(result.expect_err("cut short").refusal, Refusal::NoTrailer);
    }
    let mut longer = input.clone();
    longer.push(0);
    for cuts in [longer.len(), 1, input.len()] {
        let (_, result) = parse(expectation(1), &longer, &[cuts]);
        let error = result.expect_err("bytes after the trailer");
        assert_eq!(
            (error.refusal, error.offset),
            (Refusal::AfterTrailer, input.len() as u64)
        );
    }
}

#[test]
fn a_parser_that_refused_hands_on_nothing_more() {
    let mut parser = Parser::new(expectation(1));
    parser.observe(&descriptor()).expect("a good descriptor");
    parser.observe(&descriptor()).expect_err("a second one");
    let sink = |_: &[u8]| -> Result<(), io::Error> { panic!("nothing may reach the sink") };
    let error = parser.push(&guc(MAIN), sink).expect_err("poisoned");
    assert!(matches!(
        error,
        PushError::Refused(ParseError {
            refusal: Refusal::Poisoned,
            ..
        })
    ));
    assert_eq!(
        parser.finish().expect_err("poisoned").refusal,
        Refusal::Poisoned
    );
}

#[test]
fn a_sink_that_failed_is_not_asked_again() {
    let mut parser = Parser::new(expectation(1));
    let error = parser
        .push(&descriptor(), |_| {
            Err(io::Error::other("the kernel said no"))
        })
        .expect_err("a failed sink");
    assert!(matches!(&error, PushError::Sink(_)));
    assert_eq!(error.to_string(), "the kernel said no");
    parser.observe(&guc(MAIN)).expect_err("poisoned");
}
