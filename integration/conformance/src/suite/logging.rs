// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA_LOGGING_* on a VF that offers it. No Xe VF does: on one of those it is `feature/dma_logging_is_enotty`. The rules are
//! those of the vfio core (drivers/vfio/vfio_main.c), and of mlx5 where it leaves them to the driver.

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, skipped, works};
use crate::sys::Answer;
use crate::vf::feature::{GET, LOGGING_REPORT, LOGGING_START, LOGGING_STOP, PROBE, SET};
use crate::vf::{RUNNING, RUNNING_P2P, STOP, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["logging":
        probe_says_what_can_be_done_and_starts_nothing,
        short_argsz_is_refused,
        start_answers_a_granularity,
        start_twice_is_refused,
        start_without_ranges_is_refused,
        start_with_more_ranges_than_a_page_holds_is_too_big,
        start_with_overlapping_ranges_is_refused,
        start_with_ranges_off_the_page_size_is_refused,
        start_past_the_end_of_addresses_overflows,
        report_before_start_and_after_stop_is_refused,
        report_of_a_bad_page_size_is_refused,
        report_past_the_end_of_addresses_overflows,
        report_clears_no_bit,
        stop_without_start_is_fine,
        goes_on_over_states_and_reset,
        ends_with_the_close,
    ]
}

const PAGE: u64 = 4096;

fn open(world: &World) -> Outcome<Vf> {
    world.logging.as_deref().map_or_else(
        || skipped("needs a VF that logs its DMA, which no Xe VF does (--logging)"),
        Vf::open,
    )
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// DMA_LOGGING_START of ranges (IOVA, bytes); the granularity taken.
fn start(vf: &Vf, page: u64, ranges: &[(u64, u64)]) -> Answer<u64> {
    let list: Vec<u64> = ranges.iter().flat_map(|&(iova, len)| [iova, len]).collect();
    let mut control = bytes(&[page, ranges.len() as u64, list.as_ptr() as u64]);
    vf.feature(32, LOGGING_START | SET, &mut control)?;
    Ok(u64::from_ne_bytes(
        control[..8].try_into().unwrap_or_default(),
    ))
}

fn stop(vf: &Vf) -> Answer<()> {
    vf.feature(8, LOGGING_STOP | SET, &mut [])
}

/// DMA_LOGGING_REPORT of 64 pages into a word that held `before`.
fn report(vf: &Vf, iova: u64, len: u64, page: u64, before: u64) -> Answer<u64> {
    let mut bitmap = [before; 2];
    let mut control = bytes(&[iova, len, page, bitmap.as_mut_ptr() as u64]);
    vf.feature(40, LOGGING_REPORT | GET, &mut control)?;
    Ok(std::hint::black_box(bitmap)[0])
}

fn probe_says_what_can_be_done_and_starts_nothing(world: &World) -> Outcome {
    let vf = open(world)?;
    for (feature, can, cannot) in [
        (LOGGING_START, SET, GET),
        (LOGGING_STOP, SET, GET),
        (LOGGING_REPORT, GET, SET),
    ] {
        works("PROBE", vf.feature(8, feature | can | PROBE, &mut []))?;
        works("PROBE alone", vf.feature(8, feature | PROBE, &mut []))?;
        refuses(
            "PROBE of the other direction",
            vf.feature(8, feature | cannot | PROBE, &mut []),
            libc::EINVAL,
        )?;
        refuses(
            "neither",
            vf.feature(40, feature, &mut [0; 32]),
            libc::EINVAL,
        )?;
    }
    refuses("REPORT", report(&vf, 0, 64 * PAGE, PAGE, 0), libc::EINVAL)
}

fn short_argsz_is_refused(world: &World) -> Outcome {
    let vf = open(world)?;
    let mut payload = [0; 32];
    for argsz in [8, 24, 31] {
        let answer = vf.feature(argsz, LOGGING_START | SET, &mut payload);
        refuses("START", answer, libc::EINVAL)?;
    }
    for argsz in [8, 32, 39] {
        let answer = vf.feature(argsz, LOGGING_REPORT | GET, &mut payload);
        refuses("REPORT", answer, libc::EINVAL)?;
    }
    Ok(())
}

fn start_answers_a_granularity(world: &World) -> Outcome {
    let vf = open(world)?;
    let page = works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    same("a power of two", &page.is_power_of_two(), &true)?;
    works("STOP", stop(&vf))?;
    works("START with it", start(&vf, page, &[(0, 1 << 30)])).map(drop)
}

fn start_twice_is_refused(world: &World) -> Outcome {
    let vf = open(world)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    refuses("START", start(&vf, PAGE, &[(0, 1 << 30)]), libc::EINVAL)?;
    works("STOP", stop(&vf))?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)])).map(drop)
}

fn start_without_ranges_is_refused(world: &World) -> Outcome {
    refuses("START", start(&open(world)?, PAGE, &[]), libc::EINVAL)
}

fn start_with_more_ranges_than_a_page_holds_is_too_big(world: &World) -> Outcome {
    let vf = open(world)?;
    let ranges: Vec<_> = (0..257).map(|i| (i << 30, PAGE)).collect();
    refuses("START of 257", start(&vf, PAGE, &ranges), libc::E2BIG)
}

fn start_with_overlapping_ranges_is_refused(world: &World) -> Outcome {
    let vf = open(world)?;
    for second in [(0, PAGE), (PAGE, PAGE), (0, 1 << 30), (PAGE, 1 << 30)] {
        let ranges = [(PAGE, 4 * PAGE), (1 << 32, PAGE), second];
        if second == (0, PAGE) {
            works("START of neighbours", start(&vf, PAGE, &ranges))?;
            works("STOP", stop(&vf))?;
        } else {
            refuses("START", start(&vf, PAGE, &ranges), libc::EINVAL)?;
        }
    }
    Ok(())
}

fn start_with_ranges_off_the_page_size_is_refused(world: &World) -> Outcome {
    let vf = open(world)?;
    for range in [(2048, PAGE), (0, PAGE + 2048)] {
        refuses("START", start(&vf, PAGE, &[range]), libc::EINVAL)?;
    }
    refuses(
        "START by 64 KiB",
        start(&vf, 16 * PAGE, &[(PAGE, 16 * PAGE)]),
        libc::EINVAL,
    )
}

fn start_past_the_end_of_addresses_overflows(world: &World) -> Outcome {
    let vf = open(world)?;
    refuses(
        "START",
        start(&vf, PAGE, &[(!(PAGE - 1), PAGE)]),
        libc::EOVERFLOW,
    )
}

fn report_before_start_and_after_stop_is_refused(world: &World) -> Outcome {
    let vf = open(world)?;
    let ask = || report(&vf, 0, 64 * PAGE, PAGE, 0);
    refuses("REPORT before START", ask(), libc::EINVAL)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    works("REPORT", ask())?;
    works("STOP", stop(&vf))?;
    refuses("REPORT after STOP", ask(), libc::EINVAL)
}

fn report_of_a_bad_page_size_is_refused(world: &World) -> Outcome {
    let vf = open(world)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    for page in [0, 1, 2048, 3 * PAGE] {
        let answer = report(&vf, 0, 64 * PAGE, page, 0);
        refuses(&format!("REPORT by {page}"), answer, libc::EINVAL)?;
    }
    works("REPORT by 64 KiB", report(&vf, 0, 64 * PAGE, 16 * PAGE, 0)).map(drop)
}

fn report_past_the_end_of_addresses_overflows(world: &World) -> Outcome {
    let vf = open(world)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    refuses(
        "REPORT",
        report(&vf, !(PAGE - 1), PAGE, PAGE, 0),
        libc::EOVERFLOW,
    )
}

fn report_clears_no_bit(world: &World) -> Outcome {
    let vf = open(world)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    let before = 0x8000_0000_0000_0005;
    let after = works("REPORT", report(&vf, 0, 64 * PAGE, PAGE, before))?;
    same("bits of the caller's", &(after & before), &before)
}

fn stop_without_start_is_fine(world: &World) -> Outcome {
    works("STOP", stop(&open(world)?))
}

fn goes_on_over_states_and_reset(world: &World) -> Outcome {
    let vf = open(world)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    for state in [RUNNING_P2P, STOP, RUNNING] {
        works("SET", vf.set(state))?;
        works("REPORT", report(&vf, 0, 64 * PAGE, PAGE, 0))?;
    }
    works("reset", vf.reset())?;
    works("REPORT", report(&vf, 0, 64 * PAGE, PAGE, 0)).map(drop)
}

fn ends_with_the_close(world: &World) -> Outcome {
    let vf = open(world)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)]))?;
    drop(vf);
    let vf = open(world)?;
    refuses("REPORT", report(&vf, 0, 64 * PAGE, PAGE, 0), libc::EINVAL)?;
    works("START", start(&vf, PAGE, &[(0, 1 << 30)])).map(drop)
}
