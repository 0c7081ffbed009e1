// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a user gets: one test or more for each thing that Cloud Hypervisor could not do before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::cloud_hypervisor::{Rig, Setup, Watcher, vf_status};
use e2e::patched;

#[test]
fn precopy_works_although_the_vf_has_no_dirty_log() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    let moved = rig.migrates(&url, "");
    assert!(
        moved.source_log.contains("Precopy complete"),
        "{}",
        moved.source_log
    );
}

#[test]
fn device_state_streams_through_a_small_constant_of_memory() {
    let setup = Setup {
        vram: "256M",
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    rig.fill_vram();
    let url = rig.tcp_url();
    let moved = rig.migrates(&url, "");
    for (side, peak) in [
        ("source", moved.source_peak),
        ("destination", moved.destination_peak),
    ] {
        assert!(peak < 48 << 20, "the {side} took {} MiB", peak >> 20);
    }
}

#[test]
fn the_destination_opens_and_resets_its_vf_while_the_guest_still_runs() {
    let setup = Setup {
        destination_host: vec!["--flr-ms", "2000"],
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    let url = rig.tcp_url();
    let moved = rig.migrates(&url, "");
    assert!(moved.whole > Duration::from_secs(2), "{:?}", moved.whole);
    assert!(
        moved.downtime < Duration::from_millis(1500),
        "the reset is in the downtime of {:?}",
        moved.downtime
    );
}

#[test]
fn a_destination_that_cannot_open_its_vf_ends_the_migration_before_the_source_pauses() {
    let binaries = patched!();
    for (op, setup) in [
        ("open-group", Setup::default()),
        ("get-device-fd", Setup::default()),
        ("map-dma", Setup::default()),
        ("open-cdev", Setup::iommufd()),
        ("bind-iommufd", Setup::iommufd()),
        ("map-dma", Setup::iommufd()),
    ] {
        let mut rig = Rig::new(binaries.clone(), &setup);
        rig.fault(&rig.destination_host, op, &["--errno", "ENOMEM"]);
        let url = rig.tcp_url();
        let failed = rig.fails_to_migrate(&url, "");
        assert!(
            !rig.source.events().have("pausing"),
            "{op}: the source has paused: {failed:?}"
        );
        assert!(
            failed.message.contains("vf0"),
            "{op}: the source does not say which device: {failed:?}"
        );
    }
}

#[test]
fn receive_migration_takes_the_paths_of_the_destinations_vfs() {
    let binaries = patched!();
    for setup in [Setup::default(), Setup::iommufd()] {
        let mut rig = Rig::new(binaries.clone(), &setup);
        let url = rig.tcp_url();
        let path = rig.destination_host.vf_path(2);
        let receive = format!("receiver_url={url},vfio_paths=[vf0@{path}]");
        let destination = rig.destination(&receive);
        let _moved = rig.migrates_to(destination, &url, "");
        let status = vf_status(&rig.destination_host, 2);
        assert_eq!(status["state"], "RUNNING", "{status}");
        assert!(!status["opener"].is_null(), "{status}");
    }
}

#[test]
fn the_sources_path_is_taken_when_there_is_no_other_and_it_exists() {
    let binaries = patched!();
    for setup in [Setup::default(), Setup::iommufd()] {
        let mut rig = Rig::new(binaries.clone(), &setup);
        let url = rig.tcp_url();
        let _moved = rig.migrates(&url, "");
        let status = vf_status(&rig.destination_host, 1);
        assert!(!status["opener"].is_null(), "{status}");
    }
}

/// States of the first two VFs of a host.
type Pair = [String; 2];

#[test]
fn all_vfs_pass_through_p2p_before_any_of_them_stops() {
    let setup = Setup {
        vfs: 2,
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    // Long enough to be seen from outside.
    for number in ["1", "2"] {
        let slow = [
            "--vf",
            number,
            "--op",
            "arc:RUNNING_P2P->STOP",
            "--delay-ms",
            "300",
        ];
        rig.source_host.command("fault", &slow).expect("fault");
    }
    let url = rig.tcp_url();
    let destination = rig.destination(&format!("receiver_url={url}"));
    let over = AtomicBool::new(false);
    let host = Watcher::new(&rig.programs, &rig.source_host);
    let seen: Vec<Pair> = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                seen.push(host.states());
            }
            seen
        });
        let _moved = rig.migrates_to(destination, &url, "");
        over.store(true, Ordering::Relaxed);
        watch.join().expect("no panic")
    });
    let both_quiet = |pair: &Pair| pair.iter().all(|state| state == "RUNNING_P2P");
    assert!(
        seen.iter().any(both_quiet),
        "the VFs were never in RUNNING_P2P together"
    );
    assert!(
        seen.iter().any(|pair| pair[0].starts_with("STOP")),
        "the first VF was never seen stopped"
    );
    let mixed = |pair: &&Pair| {
        pair.iter().any(|state| state.starts_with("STOP"))
            && pair.iter().any(|state| state == "RUNNING")
    };
    assert_eq!(
        seen.iter().find(mixed),
        None,
        "one VF was stopped while the other worked"
    );
}

#[test]
fn events_and_log_lines_tell_phases_and_progress() {
    let setup = Setup {
        vram: "64M",
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    let url = rig.tcp_url();
    let moved = rig.migrates(&url, "");
    assert!(
        moved.source_log.contains("vf0"),
        "the source's log does not name the device: {}",
        moved.source_log
    );
    let events = rig.source.events();
    let about_devices: Vec<_> = events
        .0
        .iter()
        .filter(|event| event.name.contains("device-state"))
        .collect();
    assert!(
        about_devices
            .iter()
            .any(|event| event.properties.to_string().contains("vf0")),
        "{:?}",
        events.names()
    );
    let text = format!("{about_devices:?}");
    assert!(
        text.contains("bytes") && text.contains("ms"),
        "neither bytes nor times: {text}"
    );
}

#[test]
fn a_source_never_runs_a_vf_that_it_has_handed_over() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.unix_url();
    let _moved = rig.migrates(&url, "");
    let status = vf_status(&rig.source_host, 1);
    assert!(status["opener"].is_null(), "{status}");
    assert_ne!(
        status["state"], "RUNNING",
        "the VF was run again after it had been handed over"
    );
}

#[test]
fn a_paused_vm_is_resumed_with_its_gpu() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    rig.source.remote(&["pause"]).expect("pause");
    let status = vf_status(&rig.source_host, 1);
    assert_eq!(status["state"], "STOP", "{status}");
    rig.source.remote(&["resume"]).expect("resume");
    rig.guest_still_works_at_the_source();
    assert_eq!(vf_status(&rig.source_host, 1)["state"], "RUNNING");
}
