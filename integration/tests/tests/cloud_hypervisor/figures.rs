// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a migration and a snapshot cost: `cargo test --release -p e2e --test cloud_hypervisor figures -- --ignored --nocapture
//! --test-threads 1`.
//!
//! Downtime is from the source's event `pausing` to the destination's `resumed`, by the times in both logs. Memory is the highest
//! RssAnon, sampled every 5 ms: guest memory and simulated VRAM are shared memory and do not count. VRAM has random content, so
//! that nothing of it is a hole.

use std::time::Instant;

use e2e::cloud_hypervisor::{Moved, Rig, Setup};
use e2e::{patched, unpatched};

use super::unpatched::destination_with_files;

/// In MiB.
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn print_move(who: &str, vram: &str, moved: &Moved) {
    let said = moved
        .source_log
        .lines()
        .find_map(|line| line.split_once("Migration completed"))
        .map_or("", |(_, rest)| rest);
    println!(
        "figures: {who}, {vram} of VRAM, TCP: downtime {:.3} s, whole {:.1} s, peak memory {} at the source, {} at the \
         destination; it says: completed{said}",
        moved.downtime.as_secs_f64(),
        moved.whole.as_secs_f64(),
        mib(moved.source_peak),
        mib(moved.destination_peak),
    );
}

/// Saves and restores the VM and prints what that cost.
fn snapshot(who: &str, vram: &str, rig: &mut Rig) {
    let directory = rig.directory("snapshot");
    let url = format!("file://{}", directory.display());
    let peak = demo::memory::PeakSampler::start(rig.source.pid());
    rig.source.remote(&["pause"]).expect("pause");
    let begun = Instant::now();
    rig.source.remote(&["snapshot", &url]).expect("snapshot");
    let saved = begun.elapsed();
    let saving = peak.peak();
    rig.source.shut_down().expect("the source ends");
    let mut files: Vec<String> = std::fs::read_dir(&directory)
        .expect("the snapshot")
        .flatten()
        .map(|file| {
            let size = file.metadata().expect("its size").len();
            format!("{} {size} bytes", file.file_name().to_string_lossy())
        })
        .collect();
    files.sort();
    let begun = Instant::now();
    let restored = rig
        .restored("restored", &format!("source_url={url},resume=true"))
        .expect("restore");
    let loaded = begun.elapsed();
    rig.guest_works_on_in(&restored);
    println!(
        "figures: {who}, {vram} of VRAM: snapshot {:.1} s, peak memory {}; restore {:.1} s; {}",
        saved.as_secs_f64(),
        mib(saving),
        loaded.as_secs_f64(),
        files.join(", ")
    );
}

#[test]
#[ignore = "prints figures, takes a gigabyte of VRAM twice"]
fn a_gigabyte_moves_without_our_patches() {
    let setup = Setup {
        both_hosts: vec!["--dma-logging"],
        vram: "1G",
        ..Setup::iommufd()
    };
    let mut rig = Rig::new(unpatched!(), &setup);
    rig.fill_vram();
    let url = rig.tcp_url();
    let destination = destination_with_files(&rig, &url);
    let moved = rig.migrates_to(destination, &url, "");
    print_move("unpatched", "1 GiB", &moved);
}

#[test]
#[ignore = "prints figures, takes a gigabyte of VRAM twice"]
fn a_gigabyte_is_saved_without_our_patches() {
    let setup = Setup {
        vram: "1G",
        ..Setup::default()
    };
    let mut rig = Rig::new(unpatched!(), &setup);
    rig.fill_vram();
    snapshot("unpatched", "1 GiB", &mut rig);
}

#[test]
#[ignore = "prints figures, takes a gigabyte of VRAM twice"]
fn a_gigabyte_moves() {
    let setup = Setup {
        vram: "1G",
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    rig.fill_vram();
    let url = rig.tcp_url();
    let moved = rig.migrates(&url, "");
    print_move("patched", "1 GiB", &moved);
}

#[test]
#[ignore = "prints figures, takes a gigabyte of VRAM twice"]
fn a_gigabyte_is_saved() {
    let setup = Setup {
        vram: "1G",
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    rig.fill_vram();
    snapshot("patched", "1 GiB", &mut rig);
}

#[test]
#[ignore = "prints figures, takes eight gigabytes of VRAM twice"]
fn eight_gigabytes_move() {
    let setup = Setup {
        vram: "8G",
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    rig.fill_vram();
    let url = rig.tcp_url();
    let moved = rig.migrates(&url, "");
    print_move("patched", "8 GiB", &moved);
}
