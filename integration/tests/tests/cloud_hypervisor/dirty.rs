// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that a VF writes at full rate arrives whole, however it is found; the choice is the user's and is told.
//!
//! `XE_DIRTY_MIGRATIONS=100` has each strategy move a VM so many times. `figures`, `--ignored --nocapture --test-threads 1`, prints
//! what each of them costs.

use std::time::Duration;

use demo::host::SimulatedHost;
use e2e::cloud_hypervisor::{Binaries, CloudHypervisor, Destination, Moved, Rig, Setup, vf_status};
use e2e::patched;
use serde_json::Value;

/// Where storms rage: memory that the guest leaves alone.
const STORM: [&str; 4] = ["--iova", "32M", "--len", "24M"];
/// Long enough for a storm to have written most of its pages.
const RAGING: Duration = Duration::from_millis(300);

fn setup(strategy: &str) -> Setup {
    match strategy {
        "device" => Setup {
            both_hosts: vec!["--dma-logging"],
            ..Setup::default()
        },
        "iommu" => Setup {
            both_hosts: vec!["--iommu-dirty-tracking"],
            ..Setup::iommufd()
        },
        _ => Setup::default(),
    }
}

#[track_caller]
fn host_sim(rig: &Rig, host: &SimulatedHost, verb: &str, more: &[&str]) -> String {
    let host = host.directory().to_str().expect("ASCII");
    let arguments = [&["storm", verb, host, "--vf", "1"], more].concat();
    demo::host::run(&rig.programs.host_sim, &arguments).expect("host-sim storm")
}

#[track_caller]
fn storm(rig: &Rig, more: &[&str]) {
    host_sim(rig, &rig.source_host, "start", more);
    std::thread::sleep(RAGING);
}

/// Every page of the storm at the source is at the destination as it was written last.
#[track_caller]
fn storm_is_whole(rig: &Rig) {
    let source = rig.source_host.directory().to_str().expect("ASCII");
    let told = host_sim(
        rig,
        &rig.destination_host,
        "check",
        &["--written-by", source],
    );
    assert!(!told.starts_with("0 pages intact"), "no storm: {told}");
}

/// The property `key` of the event `name`.
fn property(vmm: &CloudHypervisor, name: &str, key: &str) -> Option<String> {
    let events = vmm.events();
    let value = events.first(name)?.properties[key].clone();
    Some(match value {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

#[track_caller]
fn number(vmm: &CloudHypervisor, name: &str, key: &str) -> u64 {
    let text = property(vmm, name, key);
    let text = text.unwrap_or_else(|| panic!("no event {name}: {}", vmm.last_words()));
    text.parse().expect("a number")
}

/// Moves a VM whose VF writes at full rate, and compares every page.
#[track_caller]
fn storm_arrives_whole(rig: &mut Rig, url: &str, send: &str) -> Moved {
    storm(rig, &STORM);
    let moved = rig.migrates(url, send);
    storm_is_whole(rig);
    moved
}

fn migrations() -> u32 {
    let set = std::env::var("XE_DIRTY_MIGRATIONS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The same `migrations()` times, to and fro.
#[track_caller]
fn storms_arrive_whole(binaries: Binaries, strategy: &str, send: &str) {
    let mut rig = Rig::new(binaries, &setup(strategy));
    for round in 0..migrations() {
        let seed = (round + 1).to_string();
        storm(&rig, &[&STORM[..], &["--seed", &seed]].concat());
        let url = rig.tcp_url();
        let vmm = rig.empty_vmm(&format!("vmm{round}"), &rig.destination_host);
        let destination = Destination::new(vmm.expect("a VMM"), &format!("receiver_url={url}"));
        let moved = rig.migrates_to(destination.expect("it waits"), &url, send);
        storm_is_whole(&rig);
        let chosen = property(&rig.source, "migration-dirty-strategy", "strategy");
        assert_eq!(chosen.as_deref(), Some(strategy));
        rig.source = moved.destination.into_vmm();
        std::mem::swap(&mut rig.source_host, &mut rig.destination_host);
    }
}

#[test]
fn a_storm_of_dma_arrives_whole_by_content() {
    storms_arrive_whole(patched!(), "content", "");
}

#[test]
fn a_storm_of_dma_arrives_whole_by_content_over_several_connections() {
    storms_arrive_whole(patched!(), "content", ",connections=4");
}

#[test]
fn a_storm_of_dma_arrives_whole_by_the_devices_log() {
    storms_arrive_whole(patched!(), "device", "");
}

#[test]
fn a_storm_of_dma_arrives_whole_by_the_iommus_dirty_bits() {
    storms_arrive_whole(patched!(), "iommu", "");
}

#[test]
fn a_storm_of_dma_arrives_whole_when_all_is_sent_in_the_pause() {
    storms_arrive_whole(patched!(), "all", ",dirty_strategy=all");
}

#[test]
fn three_vfs_share_the_fingerprints_and_the_storm_of_one_arrives_whole() {
    let setup = Setup {
        vfs: 3,
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    let url = rig.unix_url();
    storm_arrives_whole(&mut rig, &url, "");
}

#[test]
fn memory_is_compared_before_the_pause_and_nothing_of_it_in_the_pause() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    let moved = storm_arrives_whole(&mut rig, &url, ",gpu_pause_ms=60000");
    assert!(
        moved
            .source_log
            .contains("The VFs stand still while the VM runs")
    );
    number(&rig.source, "migration-gpu-pause", "ms");
    let events = rig.source.events();
    for name in ["migration-dirty-after-pause", "migration-compared-in-pause"] {
        assert!(!events.have(name), "{name}: {}", rig.source.last_words());
    }
}

#[test]
fn vfs_that_may_not_stand_still_are_followed_by_a_comparison_in_the_pause() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    storm_arrives_whole(&mut rig, &url, ",gpu_pause_ms=0");
    let why = property(&rig.source, "migration-dirty-after-pause", "reason");
    assert!(why.is_some_and(|why| why.contains("may not pause")));
    number(&rig.source, "migration-compared-in-pause", "ms");
    assert!(!rig.source.events().have("migration-gpu-pause"));
}

#[test]
fn a_limit_that_is_too_short_leaves_the_rest_to_the_pause() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    storm_arrives_whole(&mut rig, &url, ",gpu_pause_ms=2");
}

#[test]
fn a_paused_vm_with_what_its_vf_wrote_arrives_whole() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    storm(&rig, &STORM);
    rig.source.remote(&["pause"]).expect("pause");
    let url = rig.tcp_url();
    let mut destination = rig.destination(&format!("receiver_url={url}"));
    rig.send(&url, "").expect("the migration");
    destination.answer().expect("it is received");
    destination.remote(&["resume"]).expect("resume");
    storm_is_whole(&rig);
    rig.guest_works_on_in(&destination);
}

#[test]
fn an_iommu_goes_before_content_and_the_reason_is_told() {
    let mut rig = Rig::new(patched!(), &setup("iommu"));
    let url = rig.tcp_url();
    rig.migrates(&url, "");
    let told = |key| property(&rig.source, "migration-dirty-strategy", key);
    assert_eq!(told("id").as_deref(), Some("vf0"));
    assert_eq!(told("strategy").as_deref(), Some("iommu"));
    let reason = told("reason").expect("a reason");
    assert!(reason.contains("no device: ") && reason.contains("ENOTTY"));
}

#[test]
fn a_strategy_that_is_named_goes_before_all_that_there_are() {
    let mut setup = setup("iommu");
    setup.both_hosts.push("--dma-logging");
    let mut rig = Rig::new(patched!(), &setup);
    let url = rig.tcp_url();
    storm_arrives_whole(&mut rig, &url, ",dirty_strategy=content");
    let chosen = property(&rig.source, "migration-dirty-strategy", "strategy");
    assert_eq!(chosen.as_deref(), Some("content"));
}

#[test]
fn a_strategy_that_is_named_and_not_there_ends_the_migration_before_it_begins() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    let destination = rig.destination(&format!("receiver_url={url}"));
    let error = rig
        .send(&url, ",dirty_strategy=iommu")
        .expect_err("refused");
    assert!(
        error.contains("vf0") && error.contains("iommufd"),
        "{error}"
    );
    assert!(!rig.source.events().have("pausing"));
    rig.guest_still_works_at_the_source();
    // Nobody has called: it waits for another.
    rig.send(&url, "").expect("the migration");
    rig.guest_works_on_in(&destination);
}

#[test]
fn a_name_that_no_strategy_has_is_refused_at_once() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    let error = rig.begin_to_send(&url, ",dirty_strategy=some");
    let error = error.expect_err("refused");
    assert!(error.contains("content"), "{error}");
}

#[test]
fn a_log_that_cannot_be_read_while_the_vf_stands_still_gives_the_gpu_back() {
    let mut rig = Rig::new(patched!(), &setup("iommu"));
    // The first reading is in precopy.
    let second = ["--nth", "2", "--errno", "EIO"];
    rig.fault(&rig.source_host, "get-dirty-bitmap", &second);
    let url = rig.tcp_url();
    let failed = rig.fails_to_migrate(&url, "");
    assert!(
        failed.message.contains("IOMMU_HWPT_GET_DIRTY_BITMAP"),
        "{failed:?}"
    );
    let log = rig.source.log();
    assert!(log.contains("The VFs stand still"), "{log}");
    assert!(!rig.source.events().have("pausing"));
    assert_eq!(vf_status(&rig.source_host, 1)["state"], "RUNNING");
    // And the next attempt is whole.
    let url = rig.tcp_url();
    let vmm = rig.empty_vmm("second", &rig.destination_host);
    let second = Destination::new(vmm.expect("a VMM"), &format!("receiver_url={url}"));
    storm(&rig, &STORM);
    let _moved = rig.migrates_to(second.expect("it waits"), &url, "");
    storm_is_whole(&rig);
}

#[test]
#[ignore = "prints figures, takes a gigabyte of VRAM twice"]
fn figures() {
    println!("| VRAM | memory | DMA | strategy | downtime, ms | GPU pause, ms | whole, s |");
    println!("|---|---|---|---|---|---|---|");
    for (vram, memory) in [("16M", "64M"), ("16M", "1G"), ("1G", "64M"), ("1G", "1G")] {
        for storming in [false, true] {
            for strategy in ["device", "iommu", "content", "all"] {
                let mut setup = setup(strategy);
                (setup.vram, setup.memory) = (vram, memory);
                let mut rig = Rig::new(patched!(), &setup);
                rig.fill_vram();
                if storming {
                    storm(&rig, &STORM);
                }
                let url = rig.tcp_url();
                let send = format!(",dirty_strategy={strategy}");
                let moved = rig.migrates(&url, &send);
                let pause = property(&rig.source, "migration-gpu-pause", "ms");
                println!(
                    "| {vram} | {memory} | {} | {strategy} | {} | {} | {:.1} |",
                    if storming { "full" } else { "none" },
                    moved.downtime.as_millis(),
                    pause.unwrap_or_else(|| "-".into()),
                    moved.whole.as_secs_f64()
                );
            }
        }
    }
}
