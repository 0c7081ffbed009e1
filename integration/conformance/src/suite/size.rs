// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MIG_DATA_SIZE: an estimate, in any state.

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, holds, same, works};
use crate::stream::{HEADER, VRAM, bring_to, parse, save};
use crate::vf::{STATES, Vf, name};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["size":
        is_the_same_in_any_state,
        leaves_out_descriptor_trailer_and_headers_of_further_chunks,
    ]
}

fn is_the_same_in_any_state(world: &World) -> Outcome {
    let running = works("MIG_DATA_SIZE", Vf::open(&world.device)?.data_size())?;
    holds("it is no errno in disguise", running < 1 << 63)?;
    for state in STATES {
        let vf = Vf::open(&world.device)?;
        let _data = bring_to(&vf, state)?;
        same(
            name(state),
            &works("MIG_DATA_SIZE", vf.data_size())?,
            &running,
        )?;
    }
    Ok(())
}

fn leaves_out_descriptor_trailer_and_headers_of_further_chunks(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let size = works("MIG_DATA_SIZE", vf.data_size())?;
    let stream = save(&vf)?;
    let chunks = parse(&stream)?.iter().filter(|p| p.kind == VRAM).count();
    let left_out = HEADER + 16 + HEADER + chunks.saturating_sub(1) * HEADER;
    same("bytes", &size, &((stream.len() - left_out) as u64))
}
