// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes as the payload of a compressed frame, behind the checksum that a fuzzer does not find by itself: what comes out is refused, or as long as
//! it says, and never longer than a frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xe_vfio_device::stream::{Packed, Unpacker};

fuzz_target!(|input: &[u8]| {
    const MOST: u32 = 1 << 16;
    let Ok(packed) = Packed::read(input, MOST) else {
        return;
    };
    let length = packed.len();
    assert!(length <= MOST as usize && packed.after() < input.len());
    let mut unpacker = Unpacker::new();
    if let Ok(pieces) = packed.unpack(&mut unpacker) {
        let mut state = Vec::new();
        pieces.append_to(&mut state);
        assert_eq!(state.len(), length);
    }
});
