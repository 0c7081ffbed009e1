// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SETs that no arc leads to: refused, and the VF is stopped in the PF although its state reads as before.

use super::{Behaviour, World};
use crate::check::{Outcome, refuses, same, works};
use crate::stream::bring_to;
use crate::vf::{FORBIDDEN, RESUMING, RUNNING, RUNNING_P2P, STATES, STOP, STOP_COPY, Vf, name};

pub(super) fn behaviours() -> Vec<Behaviour> {
    STATES
        .into_iter()
        .flat_map(|from| FORBIDDEN.map(|to| (from, to)))
        .map(|(from, to)| {
            Behaviour::new(
                format!("forbidden/{}->{}", name(from), name(to)),
                move |world| forbidden(world, from, to),
            )
        })
        .collect()
}

/// The SET that the PF has to take part in, and what it answers for a VF that it has stopped.
fn next_arc(from: u32) -> (u32, i32) {
    match from {
        RUNNING => (RUNNING_P2P, libc::EPERM),
        RUNNING_P2P => (RUNNING, libc::EPERM),
        STOP => (STOP_COPY, libc::EPERM),
        _ => (STOP, libc::EIO),
    }
}

fn forbidden(world: &World, from: u32, to: u32) -> Outcome {
    let vf = Vf::open(&world.device)?;
    // A restore that has ended in the PF is past being cut off: leave the fd unwritten.
    let _data = if from == RESUMING {
        works("SET RESUMING", vf.set(RESUMING))?
    } else {
        bring_to(&vf, from)?
    };
    refuses("SET", vf.set(to), libc::EINVAL)?;
    same("state", &vf.state()?, &from)?;
    let (next, errno) = next_arc(from);
    refuses(
        &format!("SET {} afterwards", name(next)),
        vf.set(next),
        errno,
    )?;
    same("state then", &vf.state()?, &from)?;
    works("reset", vf.reset())?;
    same("state after the reset", &vf.state()?, &RUNNING)?;
    works("SET STOP_COPY after the reset", vf.set(STOP_COPY)).map(drop)
}
