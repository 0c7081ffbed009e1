// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading a save: any segmentation, the order of packets, the end.

use std::os::fd::AsFd;

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, failed, holds, same, works};
use crate::stream::{
    DESCRIPTOR, GGTT, GUC, HEADER, MMIO, TRAILER, VRAM, drain, parse, same_stream, save,
};
use crate::sys;
use crate::vf::{STOP_COPY, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["read":
        descriptor_comes_first_and_names_the_pf,
        trailer_comes_last_and_is_empty,
        each_gt_has_guc_ggtt_mmio_vram_in_this_order,
        vram_chunks_cover_vram_without_gaps,
        fills_the_whole_buffer_across_packets,
        larger_than_the_stream_gives_the_stream,
        byte_by_byte_gives_the_same,
        odd_pieces_give_the_same,
        end_of_stream_is_0_again_and_again,
        two_saves_of_a_stopped_vf_are_the_same,
    ]
}

fn packets(world: &World) -> Outcome<Vec<crate::stream::Packet>> {
    parse(&save(&Vf::open(&world.device)?)?)
}

fn descriptor_comes_first_and_names_the_pf(world: &World) -> Outcome {
    let packets = packets(world)?;
    let first = &packets[0];
    same("type", &first.kind, &DESCRIPTOR)?;
    same(
        "tile, GT, offset, size",
        &(first.tile, first.gt, first.offset, first.size),
        &(0, 0, 0, 16),
    )?;
    let dword = |at: usize| {
        u32::from_le_bytes(
            first.payload[at * 4..at * 4 + 4]
                .try_into()
                .unwrap_or_default(),
        )
    };
    same(
        "keys and lengths",
        &(dword(0), dword(2)),
        &(0xf001 << 16 | 1, 0xf002 << 16 | 1),
    )?;
    let number = |name: &str| {
        let text =
            std::fs::read_to_string(world.device.join("physfn").join(name)).unwrap_or_default();
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    same("device id", &Some(dword(1)), &number("device"))?;
    same("revision", &Some(dword(3)), &number("revision"))
}

fn trailer_comes_last_and_is_empty(world: &World) -> Outcome {
    let packets = packets(world)?;
    let trailers: Vec<_> = packets.iter().filter(|p| p.kind == TRAILER).collect();
    let Some(last) = packets.last() else {
        return failed("the stream is empty");
    };
    same("trailers", &trailers.len(), &1)?;
    same(
        "type, tile, GT, offset, size",
        &(last.kind, last.tile, last.gt, last.offset, last.size),
        &(TRAILER, 0, 0, 0, 0),
    )
}

fn each_gt_has_guc_ggtt_mmio_vram_in_this_order(world: &World) -> Outcome {
    let packets = packets(world)?;
    holds(
        "all are of version 1",
        packets.iter().all(|p| p.version == 1),
    )?;
    for gt in 0..=u8::MAX {
        let mut kinds: Vec<u8> = packets
            .iter()
            .filter(|p| p.kind > TRAILER && p.gt == gt)
            .map(|p| p.kind)
            .collect();
        kinds.dedup();
        match gt {
            0 => same("main GT", &kinds, &vec![GUC, GGTT, MMIO, VRAM])?,
            _ if kinds.is_empty() => {}
            _ => same("media GT", &kinds, &vec![GUC, MMIO])?,
        }
    }
    Ok(())
}

fn vram_chunks_cover_vram_without_gaps(world: &World) -> Outcome {
    let mut end = 0;
    for packet in packets(world)?.iter().filter(|p| p.kind == VRAM) {
        same("offset", &packet.offset, &end)?;
        holds("a chunk is at most 512 MiB", packet.size <= 512 << 20)?;
        end += packet.size;
    }
    holds("VRAM is whole pages", end > 0 && end % 4096 == 0)
}

fn fills_the_whole_buffer_across_packets(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    for len in [1, HEADER, 40, 100_000, 1 << 20] {
        same(
            "bytes",
            &works("read", sys::read(fd.as_fd(), &mut vec![0; len]))?,
            &len,
        )?;
    }
    Ok(())
}

fn larger_than_the_stream_gives_the_stream(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let mut buffer = vec![0; whole.len() + 4096];
    same(
        "bytes",
        &works("read", sys::read(fd.as_fd(), &mut buffer))?,
        &whole.len(),
    )?;
    same_stream("stream", &buffer[..whole.len()], &whole)
}

fn byte_by_byte_gives_the_same(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let mut bytes = vec![0; 2000];
    for byte in bytes.chunks_mut(1) {
        same("bytes", &works("read", sys::read(fd.as_fd(), byte))?, &1)?;
    }
    bytes.extend(drain(fd.as_fd())?);
    same_stream("stream", &bytes, &whole)
}

fn odd_pieces_give_the_same(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let mut bytes = vec![0; whole.len()];
    for piece in bytes.chunks_mut(40_961) {
        same(
            "bytes",
            &works("read", sys::read(fd.as_fd(), piece))?,
            &piece.len(),
        )?;
    }
    same_stream("stream", &bytes, &whole)
}

fn end_of_stream_is_0_again_and_again(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    drain(fd.as_fd())?;
    for _ in 0..3 {
        same(
            "bytes",
            &works("read", sys::read(fd.as_fd(), &mut [0; 8]))?,
            &0,
        )?;
    }
    Ok(())
}

fn two_saves_of_a_stopped_vf_are_the_same(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let first = drain(fd.as_fd())?;
    works("SET STOP", vf.set(crate::vf::STOP))?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    same_stream("second stream", &drain(fd.as_fd())?, &first)
}
