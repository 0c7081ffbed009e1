// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writing a restore: any segmentation, and what write itself refuses.
//!
//! A descriptor header of a wrong version is never written: some kernels fall over it.

use std::os::fd::AsFd;

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, works};
use crate::stream::{
    DESCRIPTOR, HEADER, MMIO, Packet, TRAILER, encode, fill, parse, restore, same_stream, save,
    with_patterned_vram,
};
use crate::sys;
use crate::vf::{RESUMING, RUNNING, STOP, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["write":
        takes_a_whole_stream_at_once,
        takes_headers_byte_by_byte,
        takes_odd_pieces,
        wrong_version_is_einval,
        unknown_gt_is_einval,
        unknown_tile_is_einval,
        type_0_is_einval,
        unknown_type_is_skipped,
        trailer_with_an_offset_is_einval,
        trailer_with_a_payload_is_einval,
        trailer_of_another_gt_is_einval,
        descriptor_of_another_device_is_enodev,
        descriptor_of_another_revision_is_enodev,
        descriptor_with_a_cut_key_is_einval,
        descriptor_of_odd_length_is_einval,
        descriptor_with_unknown_keys_is_fine,
        descriptor_on_another_tile_is_einval,
        missing_descriptor_is_not_noticed,
        payload_beyond_all_memory_is_enomem,
        zero_sized_packet_of_unknown_type_is_fine,
    ]
}

fn takes_in_pieces(world: &World, cut: impl Fn(&[u8]) -> Vec<&[u8]>) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let stream = with_patterned_vram(&save(&vf)?, 11)?;
    let fd = vf.set_for_fd(RESUMING)?;
    for piece in cut(&stream) {
        same(
            "bytes",
            &works("write", sys::write(fd.as_fd(), piece))?,
            &piece.len(),
        )?;
    }
    works("SET STOP", vf.set(STOP))?;
    works("SET RUNNING", vf.set(RUNNING))?;
    same_stream("what is saved then", &save(&vf)?, &stream)
}

fn takes_a_whole_stream_at_once(world: &World) -> Outcome {
    takes_in_pieces(world, |stream| vec![stream])
}

fn takes_headers_byte_by_byte(world: &World) -> Outcome {
    takes_in_pieces(world, |stream| {
        let (head, rest) = stream.split_at(HEADER + 16 + HEADER);
        head.chunks(1).chain([rest]).collect()
    })
}

fn takes_odd_pieces(world: &World) -> Outcome {
    takes_in_pieces(world, |stream| stream.chunks(40_961).collect())
}

/// A write that fails leaves RESUMING, and a reset makes the VF whole.
fn refused(world: &World, packet: &Packet, errno: i32) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(RESUMING)?;
    refuses("write", sys::write(fd.as_fd(), &packet.encode()), errno)?;
    same("state", &vf.state()?, &RESUMING)?;
    works("reset", vf.reset())?;
    same("state after the reset", &vf.state()?, &RUNNING)?;
    restore(&vf, &save(&vf)?)
}

fn wrong_version_is_einval(world: &World) -> Outcome {
    refused(
        world,
        &Packet {
            version: 2,
            ..Packet::new(MMIO, vec![0; 16])
        },
        libc::EINVAL,
    )
}

fn unknown_gt_is_einval(world: &World) -> Outcome {
    refused(
        world,
        &Packet {
            gt: 9,
            ..Packet::new(MMIO, vec![0; 16])
        },
        libc::EINVAL,
    )
}

fn unknown_tile_is_einval(world: &World) -> Outcome {
    refused(
        world,
        &Packet {
            tile: 3,
            ..Packet::new(MMIO, vec![0; 16])
        },
        libc::EINVAL,
    )
}

fn type_0_is_einval(world: &World) -> Outcome {
    refused(world, &Packet::new(0, vec![0; 16]), libc::EINVAL)
}

fn trailer_with_an_offset_is_einval(world: &World) -> Outcome {
    refused(
        world,
        &Packet {
            offset: 8,
            ..Packet::new(TRAILER, vec![])
        },
        libc::EINVAL,
    )
}

fn trailer_with_a_payload_is_einval(world: &World) -> Outcome {
    refused(world, &Packet::new(TRAILER, vec![0; 8]), libc::EINVAL)
}

fn trailer_of_another_gt_is_einval(world: &World) -> Outcome {
    refused(
        world,
        &Packet {
            tile: 1,
            ..Packet::new(TRAILER, vec![])
        },
        libc::EINVAL,
    )
}

fn klv(key: u32, value: u32) -> Vec<u8> {
    [(key << 16 | 1).to_le_bytes(), value.to_le_bytes()].concat()
}

fn descriptor_of_another_device_is_enodev(world: &World) -> Outcome {
    refused(
        world,
        &Packet::new(DESCRIPTOR, klv(0xf001, 0x1234)),
        libc::ENODEV,
    )
}

fn descriptor_of_another_revision_is_enodev(world: &World) -> Outcome {
    refused(
        world,
        &Packet::new(DESCRIPTOR, klv(0xf002, 0xfe)),
        libc::ENODEV,
    )
}

fn descriptor_with_a_cut_key_is_einval(world: &World) -> Outcome {
    refused(
        world,
        &Packet::new(DESCRIPTOR, (0xf003u32 << 16 | 2).to_le_bytes().to_vec()),
        libc::EINVAL,
    )
}

fn descriptor_of_odd_length_is_einval(world: &World) -> Outcome {
    refused(world, &Packet::new(DESCRIPTOR, vec![0; 6]), libc::EINVAL)
}

fn descriptor_on_another_tile_is_einval(world: &World) -> Outcome {
    refused(
        world,
        &Packet {
            tile: 1,
            ..Packet::new(DESCRIPTOR, vec![])
        },
        libc::EINVAL,
    )
}

fn payload_beyond_all_memory_is_enomem(world: &World) -> Outcome {
    refused(
        world,
        &Packet {
            size: 1 << 52,
            ..Packet::new(MMIO, vec![])
        },
        libc::ENOMEM,
    )
}

/// The stream of a VF, changed, is restored without complaint.
fn accepted(world: &World, change: impl Fn(&mut Vec<Packet>)) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let mut packets = parse(&save(&vf)?)?;
    change(&mut packets);
    let fd = vf.set_for_fd(RESUMING)?;
    fill(fd.as_fd(), &encode(&packets))?;
    works("SET STOP", vf.set(STOP)).map(drop)
}

fn unknown_type_is_skipped(world: &World) -> Outcome {
    accepted(world, |packets| {
        packets.insert(1, Packet::new(77, vec![1; 100]));
    })
}

fn zero_sized_packet_of_unknown_type_is_fine(world: &World) -> Outcome {
    accepted(world, |packets| {
        packets.insert(1, Packet::new(77, vec![]));
    })
}

fn descriptor_with_unknown_keys_is_fine(world: &World) -> Outcome {
    accepted(world, |packets| {
        packets[0].payload.extend(klv(0xf0aa, 7));
        packets[0].size += 8;
    })
}

fn missing_descriptor_is_not_noticed(world: &World) -> Outcome {
    accepted(world, |packets| {
        packets.remove(0);
    })
}
