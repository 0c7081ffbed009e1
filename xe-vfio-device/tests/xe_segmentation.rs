// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parser under any segmentation and any damage: same result, and never an unchecked header at the sink.

mod support;

use proptest::prelude::*;
use support::*;
use xe_vfio_device::xe::{Expectation, PacketType};

/// Walks what reached a sink, knowing only sizes: each header that is there as a whole has to be one of version 1 that
/// is bounded, and none may be there in part.
fn only_checked_headers(emitted: &[u8]) {
    let mut left = emitted;
    while !left.is_empty() {
        let (header, rest) = left
            .split_at_checked(24)
            .expect("no part of a header is handed on");
        assert_eq!(header[0], 1);
        assert!((1..=6).contains(&header[1]));
        assert_eq!(header[4..8], [0; 4]);
        let size = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
        assert!(size <= 512 << 20);
        left = &rest[(size as usize).min(rest.len())..];
    }
}

fn pages() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(1u64..4, 0..5)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1usize..40, 1usize..6000], 1..20)
}

proptest! {
    #[test]
    fn any_segmentation_gives_the_same_bytes_and_the_same_account(pages in pages(), cuts in cuts()) {
        let input = packets(&pages).concat();
        let expectation = expectation(pages.iter().sum());
        let whole = parse(expectation.clone(), &input, &[input.len()]);
        let cut = parse(expectation, &input, &cuts);
        prop_assert_eq!(&whole.0, &input);
        prop_assert_eq!(&cut, &whole);
        prop_assert!(whole.1.is_ok());
    }

    #[test]
    fn any_segmentation_refuses_a_damaged_stream_for_the_same_reason(
        pages in pages(), cuts in cuts(), at in any::<prop::sample::Index>(), bit in 0u32..8,
    ) {
        let mut input = packets(&pages).concat();
        let at = at.index(input.len());
        input[at] ^= 1 << bit;
        let (whole, reason) = parse(Expectation::any(), &input, &[input.len()]);
        let (cut, cut_reason) = parse(Expectation::any(), &input, &cuts);
        prop_assert_eq!(reason, cut_reason);
        prop_assert!(input.starts_with(&cut));
        prop_assert!(cut.starts_with(&whole));
        only_checked_headers(&cut);
    }

    #[test]
    fn noise_never_panics_nor_reaches_the_kernel(noise in proptest::collection::vec(any::<u8>(), 0..200), cuts in cuts()) {
        let (emitted, result) = parse(expectation(1), &noise, &cuts);
        prop_assert!(result.is_err());
        only_checked_headers(&emitted);
    }

    #[test]
    fn packets_in_any_order_never_panic_and_only_checked_ones_pass(
        order in proptest::collection::vec((0usize..9, any::<u64>(), 0u64..3), 0..12), cuts in cuts(),
    ) {
        let build = |(which, number, page): (usize, u64, u64)| match which {
            0 => descriptor(),
            1 => guc(MAIN),
            2 => guc(MEDIA),
            3 => ggtt(),
            4 => mmio(MAIN),
            5 => mmio(MEDIA),
            6 => vram(page, 1),
            7 => header(PacketType::Vram, MAIN, number, number.rotate_left(7)),
            _ => trailer(),
        };
        let mut input = descriptor();
        input.extend(order.into_iter().flat_map(build));
        let (emitted, _) = parse(Expectation::any(), &input, &cuts);
        prop_assert!(input.starts_with(&emitted));
        only_checked_headers(&emitted);
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_refused_by_a_destination_that_knows_its_vf() {
    let packets = packets(&[2, 1]);
    let input = packets.concat();
    let mut at = 0;
    for packet in &packets {
        for bit in 0..24 * 8 {
            let mut damaged = input.clone();
            damaged[at + bit / 8] ^= 1 << (bit % 8);
            let (emitted, result) = parse(expectation(3), &damaged, &[input.len()]);
            assert!(result.is_err(), "bit {bit} of the packet at byte {at}");
            only_checked_headers(&emitted);
        }
        at += packet.len();
    }
}
