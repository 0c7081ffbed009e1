// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes: the decoder never asks for more than its limits and ends for good at the first error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xe_vfio_device::stream::{Decoder, Limits, Manifest};

fuzz_target!(|input: &[u8]| {
    let limits = Limits {
        manifest: 4096,
        frame: 4096,
    };
    let mut decoder = Decoder::new(&limits);
    let mut left = input;
    while let Some((piece, rest)) = left.split_at_checked(decoder.need()) {
        left = rest;
        if decoder.accept(piece).is_err() || decoder.has_ended() {
            assert_eq!(decoder.need(), 0);
            assert!(decoder.accept(&[]).is_err());
            break;
        }
        assert!(decoder.need() <= 4096);
    }
    // Behind a checksum that a fuzzer does not find by itself.
    let _ = Manifest::decode(input, 1);
});
