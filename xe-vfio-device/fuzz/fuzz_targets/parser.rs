// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes in any segmentation: what reaches the sink is a prefix of the input, and the same as in one piece but for
//! what an error cut off.

#![no_main]

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use xe_vfio_device::xe::{Expectation, Parser};

fn parse(input: &[u8], step: usize) -> (Vec<u8>, bool) {
    let mut parser = Parser::new(Expectation::any());
    let mut emitted = Vec::new();
    for piece in input.chunks(step) {
        let sink = |bytes: &[u8]| {
            emitted.extend_from_slice(bytes);
            Ok::<_, Infallible>(())
        };
        if parser.push(piece, sink).is_err() {
            return (emitted, false);
        }
    }
    (emitted, parser.finish().is_ok())
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, input) = (usize::from(input.0) + 1, input.1);
    let (whole, whole_is_good) = parse(input, input.len().max(1));
    let (cut, cut_is_good) = parse(input, step);
    assert_eq!(whole_is_good, cut_is_good);
    assert!(input.starts_with(&cut) && cut.starts_with(&whole));
    assert!(!whole_is_good || whole == input);
});
