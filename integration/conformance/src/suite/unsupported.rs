// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF of a platform without migration: it opens all the same.

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, skipped, works};
use crate::vf::feature::{GET, MIGRATION, PROBE};
use crate::vf::{STOP, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["unsupported":
        opens_and_resets,
        migration_features_are_enotty,
    ]
}

fn open(world: &World) -> Outcome<Vf> {
    world.plain.as_deref().map_or_else(
        || skipped("needs a VF without migration (--plain)"),
        Vf::open,
    )
}

fn opens_and_resets(world: &World) -> Outcome {
    works("reset", open(world)?.reset())
}

fn migration_features_are_enotty(world: &World) -> Outcome {
    let vf = open(world)?;
    refuses(
        "GET of MIGRATION",
        vf.feature(16, MIGRATION | GET, &mut [0; 8]),
        libc::ENOTTY,
    )?;
    refuses(
        "PROBE of MIGRATION",
        vf.feature(16, MIGRATION | GET | PROBE, &mut [0; 8]),
        libc::ENOTTY,
    )?;
    refuses("GET of the state", vf.get(), libc::ENOTTY)?;
    refuses("SET of the state", vf.set(STOP), libc::ENOTTY)?;
    refuses("MIG_DATA_SIZE", vf.data_size(), libc::ENOTTY)
}
