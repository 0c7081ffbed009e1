// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One SET for every pair of states that a VF can be in: the kernel walks, and answers an fd where the last state has one.

use super::{Behaviour, World};
use crate::check::{Outcome, refuses, same, works};
use crate::stream::bring_to;
use crate::sys;
use crate::vf::{RESUMING, STATES, STOP_COPY, Vf, name};
use std::os::fd::AsFd;

pub(super) fn behaviours() -> Vec<Behaviour> {
    STATES
        .into_iter()
        .flat_map(|from| STATES.map(|to| (from, to)))
        .map(|(from, to)| {
            Behaviour::new(format!("pair/{}->{}", name(from), name(to)), move |world| {
                walk(world, from, to)
            })
        })
        .collect()
}

fn walk(world: &World, from: u32, to: u32) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let old = bring_to(&vf, from)?;
    let new = works("SET", vf.set(to))?;
    same("state", &vf.state()?, &to)?;
    same(
        "a new data fd",
        &new.is_some(),
        &(from != to && matches!(to, STOP_COPY | RESUMING)),
    )?;
    match old {
        Some(old) if from == STOP_COPY && to != from => refuses(
            "read of the old fd",
            sys::read(old.as_fd(), &mut [0; 8]),
            libc::ENODEV,
        ),
        Some(old) if from == RESUMING && to != from => refuses(
            "write to the old fd",
            sys::write(old.as_fd(), &[0; 8]),
            libc::ENODEV,
        ),
        Some(old) if from == STOP_COPY => same(
            "the old fd goes on",
            &works("read", sys::read(old.as_fd(), &mut [0; 8]))?,
            &0,
        ),
        _ => Ok(()),
    }
}
