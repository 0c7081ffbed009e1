// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that is taken from the VFs, given back to the host, or given to the VFs in the middle of a migration: what a balloon and memory
//! hotplug do. What arrives is compared with the source's memory as it stood in the end, byte by byte.

use std::time::Duration;

use demo::vmm::Vmm;
use e2e::gate::Gate;
use e2e::guest_memory::GuestMemory;
use e2e::{ALL_CHECKED, Rig};
use serde_json::Value;

use crate::*;

/// Memory that the guest leaves alone.
const OTHER: std::ops::Range<u64> = 32 << 20..64 << 20;
/// Bytes that go through before memory changes: by then the first of the blocks below have been sent, and the last have not.
const SENT: u64 = 16 << 20;

/// A VM whose RAM is mapped in blocks of 4 MiB, its VF at work and raging.
#[track_caller]
fn rig(strategy: &str) -> Rig {
    let mut setup = setup(strategy);
    setup.vmm.extend(["--dma-block", "4M"]);
    let rig = Rig::new(&setup);
    storm(&rig.source_host, &["--iova", "32M", "--len", "32M"]);
    std::thread::sleep(RAGING);
    rig
}

#[track_caller]
fn take(vmm: &Vmm, gpa: &str, discard: bool) {
    let mut arguments = vec!["dma-unmap", gpa, "4M"];
    if discard {
        arguments.push("--discard");
    }
    vmm.remote(&arguments).expect("memory is taken");
}

#[track_caller]
fn give(vmm: &Vmm, gpa: &str) {
    vmm.remote(&["dma-map", gpa, "4M"])
        .expect("memory is given");
}

/// Begins to move the VM, does `change` in the middle of the first pass over memory, and answers the destination and what came of it.
#[track_caller]
fn moves_while(rig: &Rig, url: &str, change: impl FnOnce(&Vmm)) -> (Vmm, anyhow::Result<Value>) {
    let destination = rig.destination(url);
    let gate = Gate::new(url.trim_start_matches("tcp:"), SENT).expect("a gate");
    let through = gate.endpoint();
    let answer = std::thread::scope(|scope| {
        let moving = scope.spawn(|| rig.source.remote(&["send-migration", &through]));
        gate.wait_until_held();
        change(&rig.source);
        // The storm goes on for a while in what was given back.
        std::thread::sleep(Duration::from_millis(50));
        gate.open();
        moving.join().expect("it is asked")
    });
    (destination, answer)
}

#[track_caller]
fn arrives_as_it_was(strategy: &str) {
    let mut rig = rig(strategy);
    let source = GuestMemory::of(rig.source.pid()).expect("the source's memory");
    let (destination, answer) = moves_while(&rig, &rig.tcp_url(), |vmm| {
        // Written by DMA until now, and kept.
        take(vmm, "32M", false);
        take(vmm, "56M", false);
        // Given to the host.
        take(vmm, "36M", true);
        take(vmm, "60M", true);
        // And back again, where the VF goes on to write.
        take(vmm, "40M", true);
        give(vmm, "40M");
        take(vmm, "52M", false);
        give(vmm, "52M");
    });
    let answer = answer.unwrap_or_else(|error| panic!("{error:#}\n{}", rig.source.log_tail()));
    assert_eq!(answer["dirty"]["strategies"]["vf1"], strategy, "{answer}");
    let there = arrives(&mut rig, &source, &destination);
    let zeros = vec![0; 4 << 20];
    let read = |at: u64| there.read(at << 20, 4 << 20).expect("memory");
    assert!(read(36) == zeros && read(60) == zeros, "given up");
    assert!(read(32) != zeros && read(56) != zeros, "kept");
    assert!(read(40) != zeros, "no storm in what was given back");
}

/// The guest works at the destination, and no page of the rest of memory is another than at the source.
#[track_caller]
fn arrives(rig: &mut Rig, source: &GuestMemory, destination: &Vmm) -> GuestMemory {
    let there = GuestMemory::of(destination.pid()).expect("the destination's memory");
    let differs = source.first_difference(&there, OTHER);
    let differs = differs.expect("both are read").map(|at| format!("{at:#x}"));
    assert_eq!(differs, None);
    rig.serial
        .moved_to(destination.serial_path())
        .expect("serial files");
    rig.guest_works(ALL_CHECKED);
    there
}

#[test]
fn memory_that_changes_hands_arrives_as_it_was_by_the_devices_log() {
    arrives_as_it_was("device");
}

#[test]
fn memory_that_changes_hands_arrives_as_it_was_by_the_iommus_dirty_bits() {
    arrives_as_it_was("iommu");
}

#[test]
fn memory_that_changes_hands_arrives_as_it_was_by_content() {
    arrives_as_it_was("content");
}

#[test]
fn memory_that_changes_hands_arrives_as_it_was_when_all_is_sent_at_the_end() {
    arrives_as_it_was("all");
}

#[track_caller]
fn new_memory_is_refused(strategy: &str) {
    let mut rig = rig(strategy);
    take(&rig.source, "48M", true);
    let url = rig.tcp_url();
    let (destination, answer) = moves_while(&rig, &url, |vmm| give(vmm, "48M"));
    let error = format!("{:#}", answer.expect_err("its log does not cover 48M"));
    assert!(
        error.contains("0x3000000 was mapped for the VF's DMA after its log was started"),
        "{error}"
    );
    assert!(error.contains("never paused"), "{error}");
    rig.guest_still_works_at_the_source();
    // The next attempt begins with it.
    let source = GuestMemory::of(rig.source.pid()).expect("the source's memory");
    let answer = rig.source.remote(&["send-migration", &url]);
    answer.unwrap_or_else(|error| panic!("{error:#}\n{}", rig.source.log_tail()));
    arrives(&mut rig, &source, &destination);
}

#[test]
fn memory_that_is_new_to_the_devices_log_is_refused_by_its_address() {
    new_memory_is_refused("device");
}

#[test]
fn memory_that_is_new_to_the_iommus_log_is_refused_by_its_address() {
    new_memory_is_refused("iommu");
}

#[test]
fn memory_that_is_new_to_the_fingerprints_is_refused_by_its_address() {
    new_memory_is_refused("content");
}

#[test]
fn memory_that_is_new_arrives_when_all_is_sent_at_the_end() {
    let mut rig = rig("all");
    take(&rig.source, "48M", true);
    let source = GuestMemory::of(rig.source.pid()).expect("the source's memory");
    let (destination, answer) = moves_while(&rig, &rig.tcp_url(), |vmm| give(vmm, "48M"));
    answer.unwrap_or_else(|error| panic!("{error:#}\n{}", rig.source.log_tail()));
    let there = arrives(&mut rig, &source, &destination);
    let zeros = vec![0; 4 << 20];
    assert!(there.read(48 << 20, 4 << 20).expect("memory") != zeros);
}

#[test]
fn memory_is_taken_in_the_pieces_in_which_it_is_mapped() {
    let rig = rig("content");
    let refused = |arguments: &[&str]| format!("{:#}", rig.source.remote(arguments).unwrap_err());
    let cut = refused(&["dma-unmap", "34M", "4M"]);
    assert!(cut.contains("a mapping goes as a whole"), "{cut}");
    let outside = refused(&["dma-unmap", "64M", "4M"]);
    assert!(outside.contains("outside RAM"), "{outside}");
    let twice = refused(&["dma-map", "32M", "4M"]);
    assert!(twice.contains("could not be mapped"), "{twice}");
}
