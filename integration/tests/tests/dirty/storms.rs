// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A storm under each strategy, below and above 4 GiB, and what the guest's downtime has of it.

use e2e::{ALL_CHECKED, Rig, Setup};

use crate::*;

fn migrations() -> u32 {
    let set = std::env::var("XE_DIRTY_MIGRATIONS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(2)
}

#[track_caller]
fn storms_arrive_whole(strategy: &str, setup: &Setup) {
    let mut rig = Rig::new(setup);
    for number in 0..migrations() {
        let seed = (number + 1).to_string();
        storm(&rig.source_host, &[&STORM[..], &["--seed", &seed]].concat());
        std::thread::sleep(RAGING);
        let answer = moves(&mut rig, &format!("vmm{number}"));
        assert_eq!(answer["dirty"]["strategies"]["vf1"], strategy, "{answer}");
    }
    rig.guest_works(ALL_CHECKED);
}

#[test]
fn a_storm_of_dma_arrives_whole_by_the_devices_log() {
    storms_arrive_whole("device", &setup("device"));
}

#[test]
fn a_storm_of_dma_arrives_whole_by_the_iommus_dirty_bits() {
    storms_arrive_whole("iommu", &setup("iommu"));
}

#[test]
fn a_storm_of_dma_arrives_whole_by_content() {
    storms_arrive_whole("content", &setup("content"));
}

#[test]
fn a_storm_of_dma_arrives_whole_when_all_is_sent_at_the_end() {
    storms_arrive_whole("all", &setup("all"));
}

#[test]
fn a_storm_of_dma_arrives_whole_when_memory_is_compared_after_the_stop() {
    let mut setup = setup("content");
    setup.vmm = vec!["--gpu-pause", "0"];
    let mut rig = Rig::new(&setup);
    storm(&rig.source_host, &STORM);
    std::thread::sleep(RAGING);
    let answer = moves(&mut rig, "destination");
    assert!(answer["phases"].get("settle").is_none(), "{answer}");
    assert!(answer["dirty"]["fallback"].is_string(), "{answer}");
    assert!(answer["dirty"]["scan_bytes"].as_u64() > Some(0), "{answer}");
}

#[test]
fn a_limit_that_is_too_short_for_the_comparison_leaves_the_rest_to_the_stop() {
    let mut setup = setup("content");
    setup.vmm = vec!["--gpu-pause", "0.002"];
    let mut rig = Rig::new(&setup);
    storm(&rig.source_host, &STORM);
    std::thread::sleep(RAGING);
    moves(&mut rig, "destination");
}

#[test]
fn the_guests_downtime_has_no_comparison_of_memory_in_it() {
    let mut setup = setup("content");
    setup.vmm = vec!["--gpu-pause", "60"];
    let mut rig = Rig::new(&setup);
    storm(&rig.source_host, &STORM);
    std::thread::sleep(RAGING);
    let answer = moves(&mut rig, "destination");
    assert!(answer["dirty"]["fallback"].is_null(), "{answer}");
    let dirty = answer["dirty"]["dirty_bytes"].as_u64().expect("bytes");
    let last = answer["last_pass_bytes"].as_u64().expect("bytes");
    assert!(dirty > 8 << 20 && last <= 4 << 20, "{answer}");
}

/// RAM beyond the hole below 4 GiB: another memory slot, another DMA mapping, another place in the file.
#[track_caller]
fn storms_above_4_gib_arrive_whole(strategy: &str) {
    let mut setup = setup(strategy);
    setup.memory = "3100M";
    let mut rig = Rig::new(&setup);
    for number in 0..2 {
        // Around the end of RAM: what is beyond it is refused by the IOMMU and counts as nothing.
        let range = ["--iova", "4G", "--len", "40M", "--seed", "3"];
        storm(&rig.source_host, &range);
        std::thread::sleep(RAGING);
        let answer = moves(&mut rig, &format!("vmm{number}"));
        assert_eq!(answer["dirty"]["strategies"]["vf1"], strategy, "{answer}");
    }
    rig.guest_works(ALL_CHECKED);
}

#[test]
fn a_storm_above_4_gib_arrives_whole_by_the_devices_log() {
    storms_above_4_gib_arrive_whole("device");
}

#[test]
fn a_storm_above_4_gib_arrives_whole_by_the_iommus_dirty_bits() {
    storms_above_4_gib_arrive_whole("iommu");
}

#[test]
fn a_storm_above_4_gib_arrives_whole_by_content() {
    storms_above_4_gib_arrive_whole("content");
}

#[test]
fn a_storm_above_4_gib_arrives_whole_when_all_is_sent_at_the_end() {
    storms_above_4_gib_arrive_whole("all");
}
