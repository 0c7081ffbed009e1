// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Closing a VF in every state, with its data fd still open.

use std::os::fd::{AsFd, OwnedFd};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, failed, refuses, same, works};
use crate::stream::{bring_to, restore, same_stream, save, with_patterned_vram};
use crate::sys;
use crate::vf::{RESUMING, RUNNING, STATES, STOP_COPY, Vf, name};

pub(super) fn behaviours() -> Vec<Behaviour> {
    let each = STATES.into_iter().map(|state| {
        Behaviour::new(
            format!("close/in_{}_reopens_in_RUNNING", name(state)),
            move |world| reopens(world, state),
        )
    });
    let others = behaviours!["close":
        device_stays_open_with_any_of_its_fds,
        data_fd_is_dead_without_its_device,
        unread_save_can_be_closed,
        reopened_vf_has_lost_its_state,
        data_fd_may_outlive_the_next_owner,
    ];
    each.chain(others).collect()
}

fn reopens(world: &World, state: u32) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fd = bring_to(&vf, state)?;
    drop((fd, vf));
    let vf = Vf::open(&world.device)?;
    same("state", &vf.state()?, &RUNNING)?;
    save(&vf).map(drop)
}

fn device_stays_open_with_any_of_its_fds(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    works("SET STOP", vf.set(crate::vf::STOP))?;
    let twin = works("dup", sys::dup(vf.fd()))?;
    let Vf { device, group, .. } = vf;
    drop(device);
    same(
        "state",
        &works("GET", crate::vf::state_of(twin.as_fd()))?.0,
        &crate::vf::STOP,
    )?;
    drop(group);
    same(
        "state without group and container fds",
        &works("GET", crate::vf::state_of(twin.as_fd()))?.0,
        &crate::vf::STOP,
    )
}

fn orphan(world: &World, state: u32) -> Outcome<OwnedFd> {
    let vf = Vf::open(&world.device)?;
    vf.set_for_fd(state)
}

fn data_fd_is_dead_without_its_device(world: &World) -> Outcome {
    let fd = orphan(world, STOP_COPY)?;
    refuses("read", sys::read(fd.as_fd(), &mut [0; 8]), libc::ENODEV)?;
    let fd = orphan(world, RESUMING)?;
    refuses("write", sys::write(fd.as_fd(), &[0; 8]), libc::ENODEV)
}

fn unread_save_can_be_closed(world: &World) -> Outcome {
    drop(orphan(world, STOP_COPY)?);
    save(&Vf::open(&world.device)?).map(drop)
}

fn reopened_vf_has_lost_its_state(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let fresh = save(&vf)?;
    restore(&vf, &with_patterned_vram(&fresh, 31)?)?;
    drop(vf);
    same_stream("what is saved", &save(&Vf::open(&world.device)?)?, &fresh)
}

fn data_fd_may_outlive_the_next_owner(world: &World) -> Outcome {
    let old = orphan(world, STOP_COPY)?;
    let vf = Vf::open(&world.device)?;
    let Some(_new) = works("SET STOP_COPY", vf.set(STOP_COPY))? else {
        return failed("no data fd");
    };
    refuses(
        "read of the old one",
        sys::read(old.as_fd(), &mut [0; 8]),
        libc::ENODEV,
    )
}
