// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whatever goes wrong in the VF or on the way, the guest finds it, and says what it was.

use std::time::Duration;

use guest::abi::{STATUS_ERROR, reg, status};
use guest::layout::{IN_FLIGHT, SLOTS, context};
use guest::report::{Event, Kind};

use super::super::Exit;
use super::model::board::bar0;
use super::model::run::{Machine, last_count};
use super::model::sabotage::Sabotage;
use super::model::store;

/// In the second lap, so that every kind of check is at work. Its record and its block are the last in their pages:
/// what is lost with them belongs to jobs before, which are verified before the slots are used again.
const JOB: u32 = SLOTS + 512;

/// The kind found, and the job it is found at, when one of two VFs goes wrong.
#[track_caller]
fn found(how: Sabotage) -> (Kind, u32) {
    found_among(2, how)
}

#[track_caller]
fn found_among(vfs: u32, how: Sabotage) -> (Kind, u32) {
    let mut machine = Machine::new(vfs);
    let last = vfs - 1;
    machine.engines[last as usize].sabotage(JOB, how);
    let failure = machine.run_to_failure();
    assert_eq!(failure.vf, last, "{failure}");
    assert_ne!(failure.expected, failure.got, "{failure}");
    (failure.kind, failure.job)
}

#[test]
fn a_lost_dma_page_with_a_fresh_block_is_found() {
    let found = found_among(1, Sabotage::LostDestinationPage);
    assert_eq!(found, (Kind::Destination, JOB));
}

#[test]
fn a_lost_dma_page_with_a_fresh_record_is_found() {
    let found = found_among(1, Sabotage::LostRecordPage);
    assert_eq!(found, (Kind::Sequence, JOB));
}

/// Old enough that the page of the lost block or record holds none that is still to be verified.
const AGO: u32 = 300;

#[test]
fn a_lost_dma_page_with_verified_blocks_is_found_a_lap_later() {
    let (kind, job) = found(Sabotage::LostOldDestinationPage(AGO));
    assert_eq!(kind, Kind::OldSum);
    assert!((JOB..JOB - AGO + SLOTS + IN_FLIGHT).contains(&job), "{job}");
}

#[test]
fn a_lost_dma_page_with_verified_records_is_found_a_lap_later() {
    let (kind, job) = found(Sabotage::LostOldRecordPage(AGO));
    assert_eq!(kind, Kind::OldSequence);
    assert!((JOB..JOB - AGO + SLOTS + IN_FLIGHT).contains(&job), "{job}");
}

#[test]
fn a_lost_ring_page_stops_the_vf() {
    assert_eq!(found(Sabotage::LostRingPage).0, Kind::Status);
}

#[test]
fn a_repeated_job_is_found() {
    assert_eq!(found(Sabotage::RepeatedJob), (Kind::Accumulator, JOB));
}

#[test]
fn a_skipped_job_is_found() {
    assert_eq!(found(Sabotage::SkippedJob), (Kind::Sequence, JOB));
}

#[test]
fn a_torn_record_is_found() {
    assert_eq!(found(Sabotage::TornRecord), (Kind::NotSequence, JOB));
}

#[test]
fn a_flipped_bit_in_vram_is_found() {
    assert_eq!(found(Sabotage::FlippedVram), (Kind::Vram, JOB));
}

#[test]
fn a_flipped_bit_in_old_vram_is_found() {
    assert_eq!(found(Sabotage::FlippedOldVram), (Kind::Destination, JOB));
}

#[test]
fn a_wrong_order_is_found() {
    assert_eq!(found(Sabotage::WrongOrder), (Kind::Sequence, JOB));
}

#[test]
fn a_head_beyond_the_doorbell_is_found() {
    assert_eq!(found(Sabotage::HeadAhead).0, Kind::Head);
}

#[test]
fn a_changed_accumulator_is_found() {
    assert_eq!(found(Sabotage::Accumulator), (Kind::Accumulator, JOB));
}

#[test]
fn a_wrong_sum_is_found() {
    assert_eq!(found(Sabotage::WrongSum), (Kind::Sum, JOB));
}

#[test]
fn a_changed_scratch_register_is_found() {
    assert_eq!(found(Sabotage::Scratch).0, Kind::Scratch);
}

#[test]
fn a_cleared_ggtt_stops_the_vf() {
    let mut machine = Machine::new(1);
    machine.engines[0].sabotage(JOB, Sabotage::ClearedGgtt);
    let failure = machine.run_to_failure();
    assert_eq!(failure.kind, Kind::Status);
    assert_eq!(
        (failure.expected, failure.got),
        (0, STATUS_ERROR | status::GGTT_FAULT)
    );
}

#[test]
fn two_swapped_ggtt_pages_are_found() {
    assert_eq!(found(Sabotage::SwappedGgtt).0, Kind::Destination);
}

#[test]
fn without_msix_nothing_goes_on() {
    let mut machine = Machine::new(1);
    machine.engines[0].sabotage(JOB, Sabotage::LostInterrupts);
    let exit = machine.run(Duration::from_secs(2), |_| false);
    assert_eq!(exit, Exit::Stopped, "{:?}", machine.board.events().last());
    assert!(machine.vcpu.state(&machine.interrupts).halted);
    assert!(last_count(&machine.board.events(), 0) <= JOB);
}

#[test]
fn a_device_that_is_not_the_vf_is_refused() {
    let mut machine = Machine::new(1);
    store(&machine.board.memory, bar0(0) + reg::ID, 0xdead_beef);
    let failure = machine.run_to_failure();
    assert_eq!(
        (failure.kind, failure.job, failure.got),
        (Kind::Id, 0, 0xdead_beef)
    );
}

#[test]
fn a_vf_without_msix_is_refused() {
    let mut machine = Machine::new(1);
    machine.board.change_config(0, |config| config[0x41] = 0);
    assert_eq!(machine.run_to_failure().kind, Kind::Msix);
}

#[test]
fn an_msix_table_in_another_bar_is_refused() {
    let mut machine = Machine::new(1);
    machine.board.change_config(0, |config| config[0x54] |= 2);
    let failure = machine.run_to_failure();
    assert_eq!((failure.kind, failure.got), (Kind::MsixBar, 2));
}

#[test]
fn a_ggtt_quota_that_is_too_small_is_refused() {
    let mut machine = Machine::new(1);
    store(
        &machine.board.memory,
        bar0(0) + reg::GGTT_ENTRIES,
        context::DMA_PAGES - 1,
    );
    assert_eq!(machine.run_to_failure().kind, Kind::GgttQuota);
    assert!(!machine.board.events().contains(&Event::Started { vfs: 1 }));
}
