// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest says is understood in any pieces, and what it does not say is not.

use guest::report::{Event, Failure, Kind, LINE_MAX, Parser};

fn failure(kind: Kind) -> Failure {
    Failure {
        vf: 1,
        job: 1234,
        kind,
        expected: 0xdead_beef,
        got: 0x17,
    }
}

#[test]
fn every_line_of_the_guest_is_an_event() {
    let text = "xe-guest: 2 VFs\nvf0 jobs 256\r\nvf1 jobs 4294967040\nFAIL no VF\nFAIL exception 13\n\
                FAIL vf1 job 1234 OLD_SUM expected 0xdeadbeef got 0x00000017\n";
    let events = [
        Event::Started { vfs: 2 },
        Event::Jobs { vf: 0, jobs: 256 },
        Event::Jobs {
            vf: 1,
            jobs: 0xffff_ff00,
        },
        Event::NoVf,
        Event::Exception { vector: 13 },
        Event::Failed(failure(Kind::OldSum)),
    ];
    assert_eq!(Parser::new().push(text.as_bytes()), events);
    for size in 1..20 {
        let mut parser = Parser::new();
        let pieces: Vec<Event> = text
            .as_bytes()
            .chunks(size)
            .flat_map(|piece| parser.push(piece))
            .collect();
        assert_eq!(pieces, events, "in pieces of {size}");
    }
}

#[test]
fn a_failure_of_any_kind_reads_back_as_it_is_shown() {
    for kind in Kind::ALL {
        let line = format!("FAIL {}\n", failure(kind));
        assert_eq!(
            Parser::new().push(line.as_bytes()),
            [Event::Failed(failure(kind))]
        );
    }
}

#[test]
fn lines_that_are_not_the_guests_are_passed_on_as_they_are() {
    for line in [
        "SeaBIOS (version 1.16)",
        "vf0 jobs +5",
        "vf0 jobs 4294967296",
        "vf jobs 1",
        "vf0 jobs",
        "vf0 jobs 1 2",
        "vf0 jobs ",
        "FAIL vf0 job 1 WHAT expected 0x0 got 0x1",
        "FAIL vf0 job 1 ACC expected 0 got 0x1",
        "FAIL vf0 job 1 ACC expected 0x+1 got 0x1",
        "FAIL no VF at all",
    ] {
        let events = Parser::new().push(format!("{line}\n").as_bytes());
        assert_eq!(events, [Event::Other(line.to_owned())]);
        assert!(!events[0].is_final());
    }
}

#[test]
fn a_line_without_end_takes_no_more_memory() {
    let mut parser = Parser::new();
    for _ in 0..1000 {
        assert_eq!(parser.push(&[0xff; 100]), []);
    }
    let events = parser.push(b"\nvf0 jobs 256\n");
    let [Event::Other(line), Event::Jobs { vf: 0, jobs: 256 }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(line.chars().count(), LINE_MAX);
}

#[test]
fn the_end_of_the_guest_is_known() {
    assert!(Event::Failed(failure(Kind::Vram)).is_final());
    assert!(Event::NoVf.is_final());
    assert!(Event::Exception { vector: 6 }.is_final());
    assert!(!Event::Jobs { vf: 0, jobs: 1 }.is_final());
}
