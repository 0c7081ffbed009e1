// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a restore does to a VF, and errors that the PF notices only behind write.

use std::os::fd::AsFd;

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, failed, refuses, same, works};
use crate::stream::{
    GGTT, HEADER, MMIO, Packet, VRAM, encode, fill, parse, restore, same_stream, save,
    with_patterned_vram,
};
use crate::sys;
use crate::vf::{RESUMING, RUNNING, STOP, STOP_COPY, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["restore":
        state_of_one_vf_arrives_on_another,
        what_was_restored_is_saved_again,
        restored_vf_can_be_saved_from_stop,
        second_restore_replaces_the_first,
        ggtt_of_another_size_is_eio,
        mmio_of_another_size_is_eio,
        vram_beyond_the_quota_is_eio,
        vram_whose_end_wraps_is_eio,
        failed_restore_can_only_be_reset,
        half_a_packet_outlives_a_reset,
        half_a_packet_is_forgotten_by_a_save,
        undrained_bytes_do_not_outlive_a_reset,
    ]
}

fn state_of_one_vf_arrives_on_another(world: &World) -> Outcome {
    let target = Vf::open(world.peer()?)?;
    let source = Vf::open(&world.device)?;
    let patterned = with_patterned_vram(&save(&source)?, 3)?;
    restore(&source, &patterned)?;
    works("SET RUNNING", source.set(RUNNING))?;
    let stream = save(&source)?;
    restore(&target, &stream)?;
    works("SET RUNNING of the other", target.set(RUNNING))?;
    same_stream("stream of the other", &save(&target)?, &stream)
}

fn what_was_restored_is_saved_again(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let mut packets = parse(&save(&vf)?)?;
    for packet in packets
        .iter_mut()
        .filter(|p| p.kind == GGTT || p.kind == MMIO)
    {
        // Entries that are not valid say nothing to a device, so any of these do.
        packet
            .payload
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at as u8).wrapping_mul(6) & 0xfe);
    }
    let stream = with_patterned_vram(&encode(&packets), 5)?;
    restore(&vf, &stream)?;
    works("SET RUNNING", vf.set(RUNNING))?;
    same_stream("what is saved", &save(&vf)?, &stream)
}

fn restored_vf_can_be_saved_from_stop(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let stream = with_patterned_vram(&save(&vf)?, 7)?;
    restore(&vf, &stream)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    same_stream("what is saved", &crate::stream::drain(fd.as_fd())?, &stream)
}

fn second_restore_replaces_the_first(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fresh = save(&vf)?;
    restore(&vf, &with_patterned_vram(&fresh, 9)?)?;
    restore(&vf, &fresh)?;
    works("SET RUNNING", vf.set(RUNNING))?;
    same_stream("what is saved", &save(&vf)?, &fresh)
}

/// Writes a changed stream whose fault shows at a later write, or on leaving RESUMING at the latest.
fn fails_behind_write(world: &World, change: impl Fn(&mut Packet) -> bool) -> Outcome<Vf> {
    let vf = Vf::open(&world.device)?;
    let mut packets = parse(&save(&vf)?)?;
    if !packets.iter_mut().any(change) {
        return failed("there was nothing to change");
    }
    let fd = vf.set_for_fd(RESUMING)?;
    for packet in &packets {
        if let Err(errno) = sys::write(fd.as_fd(), &packet.encode()) {
            same("errno of a later write", &errno, &sys::Errno(libc::EIO))?;
        }
    }
    refuses("SET STOP", vf.set(STOP), libc::EIO)?;
    same("state", &vf.state()?, &RESUMING)?;
    refuses(
        "write to the fd",
        sys::write(fd.as_fd(), &[0; 8]),
        libc::ENODEV,
    )?;
    Ok(vf)
}

fn resized(kind: u8, by: usize) -> impl Fn(&mut Packet) -> bool {
    move |packet| {
        if packet.kind == kind {
            packet.payload.extend(vec![0; by]);
            packet.size += by as u64;
        }
        packet.kind == kind
    }
}

fn ggtt_of_another_size_is_eio(world: &World) -> Outcome {
    fails_behind_write(world, resized(GGTT, 8)).map(drop)
}

fn mmio_of_another_size_is_eio(world: &World) -> Outcome {
    fails_behind_write(world, resized(MMIO, 4)).map(drop)
}

fn moved_vram(offset: u64) -> impl Fn(&mut Packet) -> bool {
    move |packet| {
        if packet.kind == VRAM {
            packet.offset = offset;
        }
        packet.kind == VRAM
    }
}

fn vram_beyond_the_quota_is_eio(world: &World) -> Outcome {
    fails_behind_write(world, moved_vram(1 << 40)).map(drop)
}

fn vram_whose_end_wraps_is_eio(world: &World) -> Outcome {
    fails_behind_write(world, moved_vram(u64::MAX - 4095)).map(drop)
}

fn failed_restore_can_only_be_reset(world: &World) -> Outcome {
    let vf = fails_behind_write(world, resized(MMIO, 4))?;
    refuses("SET STOP again", vf.set(STOP), libc::EIO)?;
    refuses("SET RUNNING", vf.set(RUNNING), libc::EIO)?;
    works("reset", vf.reset())?;
    same("state after the reset", &vf.state()?, &RUNNING)?;
    restore(&vf, &save(&vf)?)
}

/// A VF that was reset in the middle of a header, and a stream for it.
fn reset_in_a_header(world: &World) -> Outcome<(Vf, Vec<u8>)> {
    let vf = Vf::open(&world.device)?;
    let stream = save(&vf)?;
    let fd = vf.set_for_fd(RESUMING)?;
    fill(fd.as_fd(), &stream[..HEADER / 2])?;
    works("reset", vf.reset())?;
    Ok((vf, stream))
}

/// The Xe PF keeps a half-written packet with the VF, not with the fd: neither reset nor a new RESUMING forgets it.
fn half_a_packet_outlives_a_reset(world: &World) -> Outcome {
    let (vf, stream) = reset_in_a_header(world)?;
    let fd = vf.set_for_fd(RESUMING)?;
    // The second half of the old header, so that what follows is in step again.
    fill(fd.as_fd(), &stream[HEADER / 2..])?;
    works("SET STOP", vf.set(STOP)).map(drop)
}

fn half_a_packet_is_forgotten_by_a_save(world: &World) -> Outcome {
    let (vf, stream) = reset_in_a_header(world)?;
    save(&vf)?;
    restore(&vf, &stream)
}

fn undrained_bytes_do_not_outlive_a_reset(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    works("read", sys::read(fd.as_fd(), &mut [0; 30]))?;
    works("reset", vf.reset())?;
    same_stream("a later save", &save(&vf)?, &whole)
}
