// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The adversary: a VF and a vCPU that write between any two steps of a migration, and what arrives.
//!
//! The source is a list of steps; between any two of them the schedule lets the VF (as long as it makes DMA) and the vCPU
//! write. Reads are steps too and a page is read in halves, so torn copies, writes that are taken back and writes between a fingerprint and
//! its send are all among the schedules. Every wrong order that suggests itself is tried as well, and has to be caught.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::key::PAGE;
use super::{Fingerprints, GuestPages};
use crate::dirty::{GuestRange, Moment, PAGE_SIZE, Strategy as _};

const PAGES: usize = 3;
/// Few contents, so that a page often comes back to one that it had.
const CONTENTS: u8 = 3;

/// Memory as two bytes a page: what its first and its second half are filled with.
type Memory = [[u8; 2]; PAGES];

/// Writes of the VF or the vCPU between two steps: page, half, content.
#[derive(Debug, Clone)]
struct Write {
    by_vf: bool,
    page: usize,
    half: usize,
    content: u8,
}

/// What the source does, right or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Right,
    /// The fingerprint is of memory, read again after the page was sent.
    FingerprintAfterTheSend,
    /// The fingerprint is of memory, read before the page is.
    FingerprintBeforeTheSend,
    /// Only the first pass has fingerprints.
    FingerprintOfTheFirstPassOnly,
    /// Memory is compared while the VF still writes.
    ComparedWhileItRuns,
    /// What KVM's log says after the comparison is dropped.
    LogOfTheEndDropped,
}

struct World {
    memory: Arc<Mutex<Memory>>,
    kvm: [bool; PAGES],
    dma: bool,
    vcpu: bool,
    schedule: std::vec::IntoIter<Vec<Write>>,
}

fn expand(halves: [u8; 2]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..PAGE / 2].fill(halves[0]);
    page[PAGE / 2..].fill(halves[1]);
    page
}

struct Pages(Arc<Mutex<Memory>>);

impl GuestPages for Pages {
    fn read(&self, gpa: u64, to: &mut [u8]) -> anyhow::Result<()> {
        let memory = self.0.lock().unwrap();
        for (page, halves) in to.chunks_mut(PAGE).zip(&memory[gpa as usize / PAGE..]) {
            page.copy_from_slice(&expand(*halves));
        }
        Ok(())
    }
}

impl World {
    /// Between two steps anything may be written by whoever still can.
    fn step(&mut self) {
        for write in self.schedule.next().unwrap_or_default() {
            if if write.by_vf { self.dma } else { self.vcpu } {
                self.memory.lock().unwrap()[write.page][write.half] = write.content;
                self.kvm[write.page] |= !write.by_vf;
            }
        }
    }

    fn read(&mut self, page: usize) -> [u8; 2] {
        let mut copy = [0; 2];
        for (half, byte) in copy.iter_mut().enumerate() {
            self.step();
            *byte = self.memory.lock().unwrap()[page][half];
        }
        self.step();
        copy
    }

    fn kvm_log(&mut self) -> [bool; PAGES] {
        self.step();
        std::mem::take(&mut self.kvm)
    }
}

/// A migration by `source`; what is at the destination and what was at the source in the end.
fn migrate(source: Source, first: Memory, schedule: Vec<Vec<Write>>) -> (Memory, Memory) {
    let memory = Arc::new(Mutex::new(first));
    let threads = NonZeroUsize::MIN;
    let fingerprints = Fingerprints::new(Pages(memory.clone()), threads).unwrap();
    let mut vf = fingerprints.member();
    let all = GuestRange {
        gpa: 0,
        length: (PAGES * PAGE) as u64,
    };
    let mut world = World {
        memory,
        kvm: [false; PAGES],
        dma: true,
        vcpu: true,
        schedule: schedule.into_iter(),
    };
    let mut there: Memory = [[0; 2]; PAGES];
    let mut passes = 0;
    let mut send = |world: &mut World, dirty: [bool; PAGES]| {
        passes += 1;
        for page in (0..PAGES).filter(|page| dirty[*page]) {
            let note = |halves| fingerprints.sent((page * PAGE) as u64, &expand(halves));
            if source == Source::FingerprintBeforeTheSend {
                let before = world.read(page);
                note(before);
            }
            there[page] = world.read(page);
            match source {
                Source::FingerprintAfterTheSend => note(world.read(page)),
                Source::FingerprintBeforeTheSend => {}
                Source::FingerprintOfTheFirstPassOnly if passes > 1 => {}
                _ => note(there[page]),
            }
            world.step();
        }
    };
    vf.start(&[all]).unwrap();
    world.kvm_log();
    send(&mut world, [true; PAGES]);
    let mut dirty = world.kvm_log();
    send(&mut world, dirty);
    world.step();
    let compare = |world: &mut World, vf: &mut super::Content| {
        world.step();
        let mut found = [false; PAGES];
        for range in vf.dirty(Moment::Still, &[all]).unwrap() {
            let first = (range.gpa / PAGE_SIZE) as usize;
            found[first..first + (range.length / PAGE_SIZE) as usize].fill(true);
        }
        world.step();
        found
    };
    let union = |a: [bool; PAGES], b: [bool; PAGES]| std::array::from_fn(|i| a[i] || b[i]);
    // RUNNING_P2P.
    if source == Source::ComparedWhileItRuns {
        dirty = compare(&mut world, &mut vf);
        world.dma = false;
    } else {
        world.dma = false;
        dirty = compare(&mut world, &mut vf);
    }
    dirty = union(dirty, world.kvm_log());
    send(&mut world, dirty);
    dirty = world.kvm_log();
    world.step();
    world.vcpu = false;
    if source != Source::LogOfTheEndDropped {
        dirty = union(dirty, world.kvm_log());
    }
    dirty = union(dirty, compare(&mut world, &mut vf));
    send(&mut world, dirty);
    let here = *world.memory.lock().unwrap();
    (there, here)
}

fn memory() -> impl Strategy<Value = Memory> {
    proptest::array::uniform3(proptest::array::uniform2(0..CONTENTS))
}

fn schedules() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let write = (any::<bool>(), 0..PAGES, 0..2usize, 0..CONTENTS);
    let write = write.prop_map(|(by_vf, page, half, content)| Write {
        by_vf,
        page,
        half,
        content,
    });
    proptest::collection::vec(proptest::collection::vec(write, 0..3), 0..64)
}

fn cases(cases: u32) -> TestRunner {
    let failure_persistence = None;
    TestRunner::new(Config {
        cases,
        failure_persistence,
        max_shrink_iters: 0,
        ..Config::default()
    })
}

#[test]
fn no_write_slips_between_fingerprint_send_and_log_at_any_moment() {
    let run = cases(20_000).run(&(memory(), schedules()), |(first, schedule)| {
        let (there, here) = migrate(Source::Right, first, schedule);
        prop_assert_eq!(there, here);
        Ok(())
    });
    run.unwrap();
}

/// Every single write, and every pair of writes to one page, at every two points of the migration.
#[test]
fn no_pair_of_writes_at_any_two_points_is_lost() {
    assert_eq!(pairs_lost(Source::Right), 0);
}

fn pairs_lost(source: Source) -> usize {
    const POINTS: usize = 36;
    let mut lost = 0;
    for (first, second) in (0..POINTS).flat_map(|a| (a..POINTS).map(move |b| (a, b))) {
        for writers in 0..4 {
            for back in [0, 2] {
                let write = |by_vf, content| Write {
                    by_vf,
                    page: 0,
                    half: 0,
                    content,
                };
                let mut schedule = vec![Vec::new(); POINTS];
                schedule[first].push(write(writers & 1 != 0, 1));
                schedule[second].push(write(writers & 2 != 0, back));
                let (there, here) = migrate(source, [[0; 2]; PAGES], schedule);
                lost += usize::from(there != here);
            }
        }
    }
    lost
}

#[test]
fn a_fingerprint_of_memory_after_the_send_is_caught() {
    assert!(pairs_lost(Source::FingerprintAfterTheSend) > 0);
}

#[test]
fn a_fingerprint_of_memory_before_the_send_is_caught_by_a_write_that_is_taken_back() {
    assert!(pairs_lost(Source::FingerprintBeforeTheSend) > 0);
}

#[test]
fn a_page_that_is_sent_again_without_its_fingerprint_is_caught() {
    assert!(pairs_lost(Source::FingerprintOfTheFirstPassOnly) > 0);
}

#[test]
fn a_comparison_while_the_vf_writes_is_caught() {
    assert!(pairs_lost(Source::ComparedWhileItRuns) > 0);
}

#[test]
fn a_last_log_that_is_dropped_is_caught() {
    assert!(pairs_lost(Source::LogOfTheEndDropped) > 0);
}
