// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_DEVICE_FEATURE: sizes, flags, and which features there are.

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, works};
use crate::stream;
use crate::sys;
use crate::vf::feature::{
    DATA_SIZE, GET, LOGGING_REPORT, LOGGING_START, LOGGING_STOP, MIGRATION, PROBE, SET, STATE,
};
use crate::vf::{DEVICE_FEATURE, RUNNING, STATES, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["feature":
        migration_is_stop_copy_and_p2p,
        migration_cannot_be_set,
        probe_says_what_can_be_done,
        probe_needs_no_room_for_a_payload,
        probe_of_an_unknown_feature_is_enotty,
        probe_with_a_direction_that_is_not_there_is_refused,
        get_and_set_together_are_refused,
        neither_get_nor_set_nor_probe_is_refused,
        short_argsz_is_refused,
        argsz_below_the_header_is_refused,
        larger_argsz_is_fine,
        unknown_feature_is_enotty,
        dma_logging_is_enotty,
        reserved_flags_are_refused,
        bad_address_is_efault,
        get_of_the_state_says_no_fd_in_any_state,
        data_size_cannot_be_set,
    ]
}

fn migration_is_stop_copy_and_p2p(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let mut payload = [0; 8];
    works("GET", vf.feature(16, MIGRATION | GET, &mut payload))?;
    same("flags", &u64::from_ne_bytes(payload), &3)
}

fn migration_cannot_be_set(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "SET",
        vf.feature(16, MIGRATION | SET, &mut [0; 8]),
        libc::EINVAL,
    )
}

fn probe_says_what_can_be_done(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for flags in [
        MIGRATION | GET,
        STATE | GET,
        STATE | SET,
        STATE | GET | SET,
        DATA_SIZE | GET,
    ] {
        works(
            &format!("PROBE of {flags:#x}"),
            vf.feature(16, flags | PROBE, &mut [0; 8]),
        )?;
    }
    same("state", &vf.state()?, &RUNNING)
}

fn probe_needs_no_room_for_a_payload(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    works("PROBE", vf.feature(8, STATE | SET | PROBE, &mut []))
}

fn probe_of_an_unknown_feature_is_enotty(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "PROBE",
        vf.feature(8, 0x7f | GET | PROBE, &mut []),
        libc::ENOTTY,
    )
}

fn probe_with_a_direction_that_is_not_there_is_refused(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for flags in [MIGRATION | SET, DATA_SIZE | SET, MIGRATION | GET | SET] {
        refuses(
            &format!("PROBE of {flags:#x}"),
            vf.feature(16, flags | PROBE, &mut [0; 8]),
            libc::EINVAL,
        )?;
    }
    Ok(())
}

fn get_and_set_together_are_refused(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for feature in [MIGRATION, STATE, DATA_SIZE] {
        refuses(
            "GET | SET",
            vf.feature(16, feature | GET | SET, &mut [2, 0, 0, 0, 0, 0, 0, 0]),
            libc::EINVAL,
        )?;
    }
    Ok(())
}

fn neither_get_nor_set_nor_probe_is_refused(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for feature in [MIGRATION, STATE, DATA_SIZE] {
        refuses(
            "no flags",
            vf.feature(16, feature, &mut [2, 0, 0, 0, 0, 0, 0, 0]),
            libc::EINVAL,
        )?;
    }
    Ok(())
}

fn short_argsz_is_refused(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for flags in [MIGRATION | GET, STATE | GET, STATE | SET, DATA_SIZE | GET] {
        for argsz in [8, 12, 15] {
            refuses(
                &format!("{flags:#x} with argsz {argsz}"),
                vf.feature(argsz, flags, &mut [2, 0, 0, 0, 0, 0, 0, 0]),
                libc::EINVAL,
            )?;
        }
    }
    Ok(())
}

fn argsz_below_the_header_is_refused(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for argsz in [0, 4, 7] {
        refuses(
            &format!("argsz {argsz}"),
            vf.feature(argsz, MIGRATION | GET, &mut [0; 8]),
            libc::EINVAL,
        )?;
    }
    Ok(())
}

fn larger_argsz_is_fine(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let mut payload = [0xff; 64];
    works("GET", vf.feature(72, STATE | GET, &mut payload))?;
    same("what follows is untouched", &payload[8..], &[0xff; 56][..])
}

fn unknown_feature_is_enotty(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses("GET", vf.feature(16, 0x7f | GET, &mut [0; 8]), libc::ENOTTY)?;
    refuses(
        "SET",
        vf.feature(16, 0xffff | SET, &mut [0; 8]),
        libc::ENOTTY,
    )
}

fn dma_logging_is_enotty(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    for flags in [
        LOGGING_START | SET,
        LOGGING_STOP | SET,
        LOGGING_REPORT | GET,
        LOGGING_START | SET | PROBE,
    ] {
        refuses(
            &format!("{flags:#x}"),
            vf.feature(40, flags, &mut [0; 32]),
            libc::ENOTTY,
        )?;
    }
    Ok(())
}

fn reserved_flags_are_refused(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "bit 19",
        vf.feature(16, STATE | GET | 1 << 19, &mut [0; 8]),
        libc::EINVAL,
    )?;
    refuses(
        "bit 31",
        vf.feature(16, STATE | GET | 1 << 31, &mut [0; 8]),
        libc::EINVAL,
    )
}

fn bad_address_is_efault(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "VFIO_DEVICE_FEATURE",
        sys::ioctl(vf.fd(), DEVICE_FEATURE, 16),
        libc::EFAULT,
    )
}

fn get_of_the_state_says_no_fd_in_any_state(world: &World) -> Outcome {
    for state in STATES {
        let vf = Vf::open(&world.device)?;
        let _data = stream::bring_to(&vf, state)?;
        same("state and data_fd", &works("GET", vf.get())?, &(state, -1))?;
    }
    Ok(())
}

fn data_size_cannot_be_set(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    refuses(
        "SET",
        vf.feature(16, DATA_SIZE | SET, &mut [0; 8]),
        libc::EINVAL,
    )
}
