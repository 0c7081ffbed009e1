// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest finds its VFs and works them, job after job.

use std::time::{Duration, Instant};

use guest::layout::{MAX_VFS, SLOTS};
use guest::report::Event;

use super::super::{Exit, SoftVcpu};
use super::model::board::bar0;
use super::model::engine::Engine;
use super::model::run::{Machine, last_count};

#[test]
fn thousands_of_jobs_are_verified_across_several_laps_of_the_ring() {
    let mut machine = Machine::new(1);
    let begin = Instant::now();
    machine.run_to(5 * SLOTS);
    let rate = f64::from(5 * SLOTS) / begin.elapsed().as_secs_f64();
    println!("soft vCPU: {rate:.0} jobs/s");
    assert_eq!(machine.board.events()[0], Event::Started { vfs: 1 });
}

#[test]
fn eight_vfs_are_worked_in_turn() {
    let mut machine = Machine::new(MAX_VFS);
    machine.run_to(512);
    assert_eq!(machine.board.events()[0], Event::Started { vfs: MAX_VFS });
    let events = machine.board.events();
    let counts: Vec<u32> = (0..MAX_VFS).map(|vf| last_count(&events, vf)).collect();
    let (least, most) = (counts.iter().min(), counts.iter().max());
    assert!(
        most.zip(least)
            .is_some_and(|(most, least)| most - least <= 256),
        "{counts:?}"
    );
}

#[test]
fn a_machine_without_a_vf_is_told_so() {
    let mut machine = Machine::new(0);
    assert_eq!(
        machine.run(Duration::from_secs(10), |_| false),
        Exit::HaltedForever
    );
    assert_eq!(machine.board.events(), [Event::NoVf]);
}

#[test]
fn the_image_boots_again_in_used_memory() {
    let mut machine = Machine::new(2);
    machine.run_to(SLOTS + 256);
    let said = machine.board.events().len();
    machine.vcpu = SoftVcpu::new(machine.board.boot(), 0);
    for (index, engine) in (0..).zip(&mut machine.engines) {
        *engine = Engine::reset(&machine.board.memory, bar0(index), index, 0);
    }
    let exit = machine.run(Duration::from_secs(60), |events| {
        (0..2).all(|vf| last_count(&events[said..], vf) >= SLOTS + 256)
    });
    assert_eq!(exit, Exit::Stopped, "{:?}", machine.board.events().last());
    assert_eq!(machine.board.events()[said], Event::Started { vfs: 2 });
}

#[test]
fn job_numbers_wrap_around() {
    let mut machine = Machine::new(1);
    let first = 0u32.wrapping_sub(SLOTS + 512);
    machine.engines[0] = Engine::reset(&machine.board.memory, bar0(0), 0, first);
    let exit = machine.run(Duration::from_secs(60), |events| {
        (2048..u32::MAX / 2).contains(&last_count(events, 0))
    });
    assert_eq!(exit, Exit::Stopped, "{:?}", machine.board.events().last());
    let events = machine.board.events();
    assert!(events.contains(&Event::Jobs { vf: 0, jobs: 0 }));
    assert!(last_count(&events, 0) >= 2048, "{:?}", events.last());
}
