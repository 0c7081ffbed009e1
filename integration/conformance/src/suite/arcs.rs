// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arcs that fail, and walks longer than one SET.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, failed, holds, refuses, same, skipped, works};
use crate::stream::{bring_to, drain, encode, fill, overflows_the_ring, parse, save};
use crate::sys;
use crate::vf::{RESUMING, RUNNING, RUNNING_P2P, STOP, STOP_COPY, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["arc":
        undrained_save_that_waits_for_a_reader_cannot_be_left,
        undrained_save_that_fits_the_ring_can_be_left_soon,
        half_drained_save_can_be_drained_and_left,
        save_after_a_save_gives_a_fresh_fd,
        restore_without_a_byte_times_out,
        restore_without_trailer_times_out,
        restore_that_timed_out_can_only_be_reset,
        no_free_fd_is_emfile_and_the_state_is_reached,
        no_free_fd_for_a_restore_is_emfile_and_the_state_is_reached,
        state_lost_to_emfile_can_be_reset,
        pausing_and_resuming_again_and_again_works,
    ]
}

/// What of the VF's stream does not fit between the PF and user space decides how a save can be left.
fn has_more_than_the_ring(vf: &Vf) -> Outcome<bool> {
    Ok(overflows_the_ring(&parse(&save(vf)?)?))
}

fn undrained_save_that_waits_for_a_reader_cannot_be_left(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    if !has_more_than_the_ring(&vf)? {
        return skipped("the stream fits the ring of 5 packets per GT");
    }
    let fd = vf.set_for_fd(STOP_COPY)?;
    std::thread::sleep(Duration::from_millis(200));
    refuses("SET STOP", vf.set(STOP), libc::EIO)?;
    same("state", &vf.state()?, &STOP_COPY)?;
    refuses("read", sys::read(fd.as_fd(), &mut [0; 8]), libc::ENODEV)?;
    refuses("SET STOP again", vf.set(STOP), libc::EIO)?;
    same(
        "SET STOP_COPY answers no new fd",
        &works("SET STOP_COPY", vf.set(STOP_COPY))?.is_some(),
        &false,
    )?;
    works("reset", vf.reset())?;
    same("state after the reset", &vf.state()?, &RUNNING)?;
    save(&vf).map(drop)
}

fn undrained_save_that_fits_the_ring_can_be_left_soon(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    if has_more_than_the_ring(&vf)? {
        return skipped("the stream does not fit the ring of 5 packets per GT");
    }
    let _fd = vf.set_for_fd(STOP_COPY)?;
    let start = Instant::now();
    // EIO as long as the PF still produces.
    while let Err(errno) = vf.set(STOP) {
        same("errno", &errno, &sys::Errno(libc::EIO))?;
        holds(
            "it can be left within 10 s",
            start.elapsed() < Duration::from_secs(10),
        )?;
        std::thread::sleep(Duration::from_millis(10));
    }
    same("state", &vf.state()?, &STOP)?;
    works("SET RUNNING", vf.set(RUNNING)).map(drop)
}

fn half_drained_save_can_be_drained_and_left(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    works("read", sys::read(fd.as_fd(), &mut [0; 1000]))?;
    drain(fd.as_fd())?;
    works("SET STOP", vf.set(STOP))?;
    works("SET RUNNING", vf.set(RUNNING))?;
    same("state", &vf.state()?, &RUNNING)
}

fn save_after_a_save_gives_a_fresh_fd(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let first = vf.set_for_fd(STOP_COPY)?;
    drain(first.as_fd())?;
    works("SET STOP", vf.set(STOP))?;
    let second = vf.set_for_fd(STOP_COPY)?;
    refuses(
        "read of the first",
        sys::read(first.as_fd(), &mut [0; 8]),
        libc::ENODEV,
    )?;
    drop(first);
    holds(
        "the second gives a stream",
        !drain(second.as_fd())?.is_empty(),
    )
}

/// The VF in RESUMING, after leaving it has timed out.
fn timed_out(world: &World, stream: impl Fn(&Vf) -> Outcome<Vec<u8>>) -> Outcome<Vf> {
    let vf = Vf::open(&world.device)?;
    let bytes = stream(&vf)?;
    let fd = vf.set_for_fd(RESUMING)?;
    fill(fd.as_fd(), &bytes)?;
    refuses("SET STOP", vf.set(STOP), libc::ETIMEDOUT)?;
    same("state", &vf.state()?, &RESUMING)?;
    refuses("write", sys::write(fd.as_fd(), &[0; 8]), libc::ENODEV)?;
    Ok(vf)
}

fn restore_without_a_byte_times_out(world: &World) -> Outcome {
    timed_out(world, |_| Ok(Vec::new())).map(drop)
}

fn restore_without_trailer_times_out(world: &World) -> Outcome {
    let without_trailer = |vf: &Vf| {
        let mut packets = parse(&save(vf)?)?;
        packets.pop();
        Ok(encode(&packets))
    };
    timed_out(world, without_trailer).map(drop)
}

fn restore_that_timed_out_can_only_be_reset(world: &World) -> Outcome {
    let vf = timed_out(world, |_| Ok(Vec::new()))?;
    same(
        "SET RESUMING answers no new fd",
        &works("SET RESUMING", vf.set(RESUMING))?.is_some(),
        &false,
    )?;
    works("reset", vf.reset())?;
    same("state after the reset", &vf.state()?, &RUNNING)?;
    save(&vf).map(drop)
}

/// SET while the process may open no fd more.
fn set_without_fds(vf: &Vf, state: u32) -> Outcome<sys::Answer<()>> {
    let limit = works("setrlimit", sys::forbid_new_fds())?;
    let answer = vf.set(state).map(drop);
    works("setrlimit back", sys::set_fd_limit(limit))?;
    Ok(answer)
}

fn no_free_fd_is_emfile_and_the_state_is_reached(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "SET STOP_COPY",
        set_without_fds(&vf, STOP_COPY)?,
        libc::EMFILE,
    )?;
    same("state", &vf.state()?, &STOP_COPY)?;
    same(
        "a second SET answers an fd",
        &works("SET STOP_COPY", vf.set(STOP_COPY))?.is_some(),
        &false,
    )
}

fn no_free_fd_for_a_restore_is_emfile_and_the_state_is_reached(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "SET RESUMING",
        set_without_fds(&vf, RESUMING)?,
        libc::EMFILE,
    )?;
    same("state", &vf.state()?, &RESUMING)
}

fn state_lost_to_emfile_can_be_reset(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "SET STOP_COPY",
        set_without_fds(&vf, STOP_COPY)?,
        libc::EMFILE,
    )?;
    works("reset", vf.reset())?;
    same("state", &vf.state()?, &RUNNING)?;
    save(&vf).map(drop)
}

fn pausing_and_resuming_again_and_again_works(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for _ in 0..20 {
        for state in [RUNNING_P2P, STOP, RUNNING_P2P, RUNNING] {
            works("SET", vf.set(state))?;
        }
    }
    let fd = bring_to(&vf, STOP_COPY)?;
    if fd.is_none() {
        failed("no data fd")
    } else {
        Ok(())
    }
}
