// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the packet parser refuses before a kernel sees it, packet by packet.

mod support;

use std::slice;

use support::*;
use xe_vfio_device::xe::klv::{Descriptor, KlvError};
use xe_vfio_device::xe::packet::HeaderError;
use xe_vfio_device::xe::{Expectation, PacketType, ParseError, Refusal};

#[test]
fn a_header_of_another_version_type_or_with_flags_is_refused_before_the_kernel_sees_it() {
    for (at, value, reason) in [
        (0, 2, HeaderError::Version(2)),
        (0, 0, HeaderError::Version(0)),
        (1, 0, HeaderError::Type(0)),
        (1, 7, HeaderError::Type(7)),
        (7, 0x80, HeaderError::Flags(0x8000_0000)),
    ] {
        let mut input = descriptor();
        input[at] = value;
        let (emitted, result) = parse(expectation(1), &input, &[1]);
        assert!(emitted.is_empty());
        let error = result.expect_err("a bad header");
        assert_eq!(
            error,
            ParseError {
                packet: 0,
                offset: 0,
                refusal: reason.into()
            }
        );
    }
}

#[test]
fn the_descriptor_comes_first_once_and_for_this_device() {
    let any = Expectation::any;
    assert_eq!(
        refusal(any(), &[trailer()]),
        Refusal::NoDescriptor(PacketType::Trailer)
    );
    assert_eq!(
        refusal(any(), &[guc(MAIN)]),
        Refusal::NoDescriptor(PacketType::Guc)
    );
    assert_eq!(
        refusal(any(), &[descriptor(), descriptor()]),
        Refusal::SecondDescriptor
    );
    let of = |device, revision| {
        let payload = Descriptor { device, revision }.encode();
        refusal(
            expectation(1),
            &[packet(PacketType::Descriptor, MAIN, 0, &payload)],
        )
    };
    let other = |what, found, expected| Refusal::OtherDevice {
        what,
        found,
        expected,
    };
    assert_eq!(
        of(Some(0xe20b), Some(REVISION)),
        other("device id", 0xe20b, 0xe211)
    );
    assert_eq!(of(Some(DEVICE), Some(3)), other("revision", 3, 2));
    assert_eq!(
        of(Some(DEVICE), None),
        Refusal::DescriptorWithout("revision")
    );
    assert_eq!(
        of(None, Some(REVISION)),
        Refusal::DescriptorWithout("device id")
    );
}

#[test]
fn klvs_that_are_unknown_are_skipped_and_malformed_ones_refused() {
    let dwords = |dwords: &[u32]| {
        dwords
            .iter()
            .flat_map(|dword| dword.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let decode = |words: &[u32]| Descriptor::decode(&dwords(words));
    let known = Descriptor {
        device: Some(DEVICE),
        revision: Some(REVISION),
    };
    assert_eq!(Descriptor::decode(&known.encode()), Ok(known));
    assert_eq!(known.encode().len(), 16);
    assert_eq!(
        decode(&[
            0xf0ff_0002,
            1,
            2,
            0xf001_0001,
            0xe211,
            0x0001_0000,
            0xf002_0001,
            2
        ]),
        Ok(known)
    );
    assert_eq!(decode(&[]), Ok(Descriptor::default()));
    assert_eq!(Descriptor::decode(&[0; 6]), Err(KlvError::Unaligned(6)));
    assert_eq!(
        decode(&[0xf001_0001]),
        Err(KlvError::Overrun {
            key: 0xf001,
            dwords: 1,
            left: 0
        })
    );
    assert_eq!(
        decode(&[0x1234_ffff, 0]),
        Err(KlvError::Overrun {
            key: 0x1234,
            dwords: 0xffff,
            left: 1
        })
    );
    assert_eq!(
        decode(&[0xf002_0001, 256]),
        Err(KlvError::Value {
            key: 0xf002,
            dwords: 1,
            value: 256,
            most: 255
        })
    );
    assert_eq!(
        decode(&[0xf001_0002, 1, 2]),
        Err(KlvError::Value {
            key: 0xf001,
            dwords: 2,
            value: 1,
            most: 0xffff
        })
    );
    assert_eq!(
        decode(&[0xf001_0001, 1, 0xf001_0001, 1]),
        Err(KlvError::Repeated(0xf001))
    );
}

#[test]
fn sizes_are_bounded_by_the_header_alone() {
    let ended = |kind, gt, size| {
        let refused = refusal(
            Expectation::any(),
            &[descriptor(), header(kind, gt, 0, size)],
        );
        assert!(
            matches!(refused, Refusal::Size { kind: of, size: found, .. } if of == kind && found == size),
            "{refused:?}"
        );
    };
    for size in [0, 6, (64 << 20) + 4, u64::MAX] {
        ended(PacketType::Guc, MAIN, size);
    }
    for size in [0, 8, 24, 4096 + 16, u64::MAX] {
        ended(PacketType::Mmio, MEDIA, size);
    }
    for size in [0, 4, 12, (8 << 20) + 8, u64::MAX - 7] {
        ended(PacketType::Ggtt, MAIN, size);
    }
    for size in [0, 1, PAGE + 1, (512 << 20) + PAGE, u64::MAX - 4095] {
        ended(PacketType::Vram, MAIN, size);
    }
    ended(PacketType::Trailer, MAIN, 1);
    for size in [1, 4100, u64::MAX] {
        let refused = refusal(
            Expectation::any(),
            &[header(PacketType::Descriptor, MAIN, 0, size)],
        );
        assert!(
            matches!(
                refused,
                Refusal::Size {
                    kind: PacketType::Descriptor,
                    ..
                }
            ),
            "{refused:?}"
        );
    }
}

#[test]
fn a_ggtt_of_another_size_than_the_destinations_is_refused() {
    let begin = [descriptor(), guc(MAIN)].concat();
    let ggtt = header(PacketType::Ggtt, MAIN, 0, 8 * (GGTT_ENTRIES + 1));
    assert_eq!(
        refusal(expectation(1), &[begin, ggtt]),
        Refusal::GgttSize {
            found: GGTT_ENTRIES + 1,
            expected: GGTT_ENTRIES
        }
    );
}

#[test]
fn gts_have_only_what_they_can_have() {
    let after = |packet| refusal(expectation(4), &[descriptor(), packet]);
    let far = xe_vfio_device::xe::Gt { tile: 0, id: 2 };
    let other_tile = xe_vfio_device::xe::Gt { tile: 1, id: 0 };
    for gt in [far, other_tile] {
        assert_eq!(
            after(guc(gt)),
            Refusal::NoSuchGt {
                kind: PacketType::Guc,
                gt
            }
        );
    }
    for (kind, size) in [
        (PacketType::Ggtt, 8 * GGTT_ENTRIES),
        (PacketType::Vram, PAGE),
    ] {
        assert_eq!(
            after(header(kind, MEDIA, 0, size)),
            Refusal::NotOnMainGt { kind, gt: MEDIA }
        );
    }
    for (kind, size) in [
        (PacketType::Guc, 4),
        (PacketType::Ggtt, 8),
        (PacketType::Mmio, 16),
        (PacketType::Trailer, 0),
    ] {
        assert_eq!(
            after(header(kind, MAIN, 8, size)),
            Refusal::Offset { kind, offset: 8 }
        );
    }
    assert_eq!(
        after(header(PacketType::Trailer, MEDIA, 0, 0)),
        Refusal::Misplaced {
            kind: PacketType::Trailer,
            gt: MEDIA
        }
    );
}

#[test]
fn each_gt_keeps_its_order_and_brings_nothing_twice() {
    let order = |packets: &[Vec<u8>]| {
        let refused = refusal(expectation(4), &[&[descriptor()], packets].concat());
        assert!(matches!(refused, Refusal::Order { .. }), "{refused:?}");
    };
    order(&[guc(MAIN), guc(MAIN)]);
    order(&[guc(MAIN), ggtt(), ggtt()]);
    order(&[guc(MAIN), ggtt(), mmio(MAIN), mmio(MAIN)]);
    order(&[ggtt(), guc(MAIN)]);
    order(&[guc(MAIN), mmio(MAIN), ggtt()]);
    order(&[guc(MAIN), ggtt(), vram(0, 1), mmio(MAIN)]);
    order(&[guc(MEDIA), guc(MAIN), mmio(MEDIA), guc(MEDIA)]);
}

#[test]
fn vram_is_contiguous_and_within_the_quota() {
    let begin = [descriptor(), guc(MAIN), ggtt(), mmio(MAIN)].concat();
    let gap = |found, expected| Refusal::VramGap {
        gt: MAIN,
        found: found * PAGE,
        expected: expected * PAGE,
    };
    let with =
        |packets: &[Vec<u8>]| refusal(expectation(4), &[slice::from_ref(&begin), packets].concat());
    assert_eq!(with(&[vram(1, 1)]), gap(1, 0));
    assert_eq!(with(&[vram(0, 1), vram(2, 1)]), gap(2, 1));
    assert_eq!(with(&[vram(0, 2), vram(1, 1)]), gap(1, 2));
    assert_eq!(with(&[vram(0, 2), vram(0, 2)]), gap(0, 2));
    let beyond = |offset, size, quota| Refusal::VramBeyondQuota {
        offset,
        size,
        quota,
    };
    assert_eq!(
        with(&[
            vram(0, 3),
            header(PacketType::Vram, MAIN, 3 * PAGE, 2 * PAGE)
        ]),
        beyond(3 * PAGE, 2 * PAGE, 4 * PAGE)
    );
    let wraps = header(PacketType::Vram, MAIN, u64::MAX - PAGE + 1, PAGE);
    assert_eq!(
        with(slice::from_ref(&wraps)),
        beyond(u64::MAX - PAGE + 1, PAGE, 4 * PAGE)
    );
    assert_eq!(
        refusal(Expectation::any(), &[begin, wraps]),
        beyond(u64::MAX - PAGE + 1, PAGE, i64::MAX as u64)
    );
}

#[test]
fn a_trailer_before_the_state_is_complete_never_reaches_the_kernel() {
    for left_out in 1..packets(&[1]).len() - 1 {
        let mut packets = packets(&[1]);
        packets.remove(left_out);
        let input = packets.concat();
        let (emitted, result) = parse(expectation(1), &input, &[17]);
        let error = result.expect_err("something is missing");
        assert!(
            matches!(
                error.refusal,
                Refusal::Missing { .. } | Refusal::VramSize { .. }
            ),
            "{error:?}"
        );
        assert_eq!(emitted, input[..input.len() - 24], "all but the trailer");
        assert_eq!(
            (error.packet, error.offset),
            (packets.len() as u64 - 1, input.len() as u64 - 24)
        );
    }
}
