// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_DEVICE_RESET, from every state.

use std::os::fd::{AsFd, OwnedFd};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, works};
use crate::stream::{bring_to, restore, same_stream, save, with_patterned_vram};
use crate::sys;
use crate::vf::{RESUMING, RUNNING, STATES, STOP_COPY, Vf, name};

pub(super) fn behaviours() -> Vec<Behaviour> {
    let each = STATES.into_iter().map(|state| {
        Behaviour::new(
            format!("reset/{}_becomes_RUNNING", name(state)),
            move |world| becomes_running(world, state),
        )
    });
    let others = behaviours!["reset":
        twice_works,
        clears_vram,
        of_an_undrained_save_works,
        of_an_unwritten_restore_works,
        of_a_half_written_restore_works,
    ];
    each.chain(others).collect()
}

fn dead(state: u32, fd: &OwnedFd) -> Outcome {
    if state == STOP_COPY {
        refuses("read", sys::read(fd.as_fd(), &mut [0; 8]), libc::ENODEV)
    } else {
        refuses("write", sys::write(fd.as_fd(), &[0; 8]), libc::ENODEV)
    }
}

fn becomes_running(world: &World, state: u32) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = bring_to(&vf, state)?;
    works("reset", vf.reset())?;
    same("state", &vf.state()?, &RUNNING)?;
    if let Some(fd) = &fd {
        dead(state, fd)?;
    }
    save(&vf).map(drop)
}

fn twice_works(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    works("reset", vf.reset())?;
    works("reset", vf.reset())?;
    same("state", &vf.state()?, &RUNNING)
}

fn clears_vram(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fresh = save(&vf)?;
    restore(&vf, &with_patterned_vram(&fresh, 21)?)?;
    works("reset", vf.reset())?;
    same_stream("what is saved", &save(&vf)?, &fresh)
}

fn after(world: &World, state: u32, bytes: usize) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let stream = save(&vf)?;
    let fd = vf.set_for_fd(state)?;
    if state == RESUMING {
        // In whole packets: see restore/half_a_packet_outlives_a_reset.
        crate::stream::fill(fd.as_fd(), &stream[..bytes])?;
    }
    works("reset", vf.reset())?;
    same("state", &vf.state()?, &RUNNING)?;
    dead(state, &fd)?;
    restore(&vf, &stream)?;
    works("SET RUNNING", vf.set(RUNNING)).map(drop)
}

fn of_an_undrained_save_works(world: &World) -> Outcome {
    after(world, STOP_COPY, 0)
}

fn of_an_unwritten_restore_works(world: &World) -> Outcome {
    after(world, RESUMING, 0)
}

fn of_a_half_written_restore_works(world: &World) -> Outcome {
    after(world, RESUMING, 40)
}
