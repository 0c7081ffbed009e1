// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two VMMs of one machine: the VFs' data fds are handed over, and whatever goes wrong the guest runs on at the source.

use std::time::{Duration, Instant};

use demo::host::SimulatedHost;
use e2e::{Rig, Setup, eventually};
use serde_json::Value;

fn local(more: Setup) -> Rig {
    Rig::new(&Setup {
        local: true,
        ..more
    })
}

#[track_caller]
fn fault(host: &SimulatedHost, options: &[&str]) {
    let mut arguments = vec!["--vf", "1"];
    arguments.extend_from_slice(options);
    host.command("fault", &arguments).expect("host-sim fault");
}

#[track_caller]
fn assert_handed_over(answer: &Value, vfs: usize) {
    let devices = answer["devices"].as_object().expect("devices");
    assert_eq!(devices.len(), vfs);
    for device in devices.values() {
        assert_eq!(device["handed_over"], true, "{answer}");
        assert!(device["state_bytes"].as_u64() > Some(16 << 20), "{answer}");
        assert!(device["wire_bytes"].as_u64() < Some(1000), "{answer}");
    }
}

/// The guest goes on at the source, and the destination has nothing of it.
#[track_caller]
fn assert_stayed(rig: &mut Rig, message: &str) {
    rig.guest_still_works_at_the_source();
    let here = rig.vf_status(&rig.source_host);
    assert_eq!(here["state"], "RUNNING", "{message}");
    let there = rig.vf_status(&rig.destination_host);
    assert!(
        there["opener"].is_null() || there["state"] == "RUNNING",
        "the destination's VF is left as {there}"
    );
}

#[test]
fn a_working_guest_moves_within_its_machine_and_no_state_goes_through_a_socket() {
    let mut rig = local(Setup::default());
    let beyond = ["--vf", "1", "--from", "4M"];
    let fill = ["--vf", "1", "random", "--from", "4M", "--seed", "7"];
    rig.source_host.command("fill", &fill).expect("fill");
    let before = rig.source_host.command("digest", &beyond).expect("digest");
    let url = rig.unix_url();
    let (destination, answer) = rig.migrates(&url);
    assert_handed_over(&answer, 1);
    assert!(destination.log().contains("handed_over=true"));
    let after = rig.destination_host.command("digest", &beyond);
    assert_eq!(before, after.expect("digest"));
}

#[test]
fn three_vfs_are_handed_over_at_a_time() {
    let mut rig = local(Setup {
        vfs: 3,
        vram: "16M",
        both_hosts: vec!["--gts", "2"],
        ..Setup::default()
    });
    let url = rig.unix_url();
    let (_destination, answer) = rig.migrates(&url);
    assert_handed_over(&answer, 3);
}

#[test]
fn a_hand_over_needs_a_unix_socket_and_is_refused_before_anything_stops() {
    let mut rig = local(Setup::default());
    let message = rig.fails_to_migrate("tcp:127.0.0.1:1");
    assert!(message.contains("is no unix socket"), "{message}");
    rig.guest_works(256);
}

#[test]
fn a_hand_over_that_is_cancelled_in_the_middle_gives_the_guest_its_gpu_back() {
    let mut rig = local(Setup {
        both_hosts: vec!["--device-rate", "40M", "--vram-chunk", "4M"],
        ..Setup::default()
    });
    let url = rig.unix_url();
    let destination = rig.destination(&url);
    let message = std::thread::scope(|scope| {
        let migration = scope.spawn(|| rig.source.remote(&rig.send_migration(&url)));
        eventually("the destination reads", || {
            rig.vf_status(&rig.destination_host)["state"] == "RESUMING"
        });
        std::thread::sleep(Duration::from_millis(300));
        rig.source.remote(&["cancel-migration"]).expect("cancel");
        let answer = migration.join().expect("no panic");
        format!("{:#}", answer.expect_err("cancelled"))
    });
    assert!(message.contains("cancelled"), "{message}");
    assert!(
        message.contains("all VFs have their GPU state"),
        "{message}"
    );
    assert_stayed(&mut rig, &message);
    drop(destination);
}

#[test]
fn a_load_that_fails_leaves_the_guest_at_the_source_and_the_next_one_succeeds() {
    let mut rig = local(Setup {
        both_hosts: vec!["--vram-chunk", "4M"],
        ..Setup::default()
    });
    fault(
        &rig.destination_host,
        &["--op", "write", "--nth", "20", "--errno", "EIO"],
    );
    let url = rig.unix_url();
    let destination = rig.destination(&url);
    let message = rig.fails_to_migrate(&url);
    assert!(message.contains("EIO"), "{message}");
    assert!(
        message.contains("all VFs have their GPU state"),
        "{message}"
    );
    assert_stayed(&mut rig, &message);
    drop(destination);
    let again = format!("{url}.again");
    let (_destination, answer) = rig.migrates_to("second", &again);
    assert_handed_over(&answer, 1);
}

#[test]
fn a_destination_killed_between_two_reads_leaves_the_guest_its_gpu() {
    let mut rig = local(Setup {
        both_hosts: vec!["--vram-chunk", "4M"],
        ..Setup::default()
    });
    // It is in its own VF then, and not in a read of the source's.
    fault(
        &rig.destination_host,
        &["--op", "write", "--nth", "20", "--delay-ms", "8000"],
    );
    let url = rig.unix_url();
    let mut destination = rig.destination(&url);
    let message = killed_in_the_middle(&rig, &url, &mut destination);
    assert!(
        message.contains("all VFs have their GPU state"),
        "{message}"
    );
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_destination_killed_in_a_read_costs_the_gpu_state_and_that_is_told() {
    let rig = local(Setup {
        both_hosts: vec!["--vram-chunk", "4M"],
        ..Setup::default()
    });
    fault(
        &rig.source_host,
        &["--op", "read", "--nth", "8", "--delay-ms", "8000"],
    );
    let url = rig.unix_url();
    let mut destination = rig.destination(&url);
    let message = killed_in_the_middle(&rig, &url, &mut destination);
    let lost = message.contains("reset") && message.contains("lost");
    assert!(lost, "the message hides that GPU state is lost: {message}");
    let status = rig.vf_status(&rig.source_host);
    assert_eq!(status["state"], "RUNNING", "{status}");
}

/// Kills the destination in the middle of a hand-over; answers what the source says.
#[track_caller]
fn killed_in_the_middle(rig: &Rig, url: &str, destination: &mut demo::vmm::Vmm) -> String {
    std::thread::scope(|scope| {
        let migration = scope.spawn(|| rig.source.remote(&rig.send_migration(url)));
        eventually("the destination loads", || {
            rig.vf_status(&rig.destination_host)["state"] == "RESUMING"
        });
        std::thread::sleep(Duration::from_millis(500));
        destination.kill().expect("kill");
        let answer = migration.join().expect("no panic");
        format!("{:#}", answer.expect_err("nobody is there"))
    })
}

#[test]
fn a_source_killed_in_the_middle_leaves_the_destination_clean() {
    let mut rig = local(Setup::default());
    fault(
        &rig.destination_host,
        &["--op", "write", "--nth", "20", "--delay-ms", "1000"],
    );
    let url = rig.unix_url();
    let destination = rig.destination(&url);
    let pid = rig.source.pid().to_string();
    std::thread::scope(|scope| {
        let migration = scope.spawn(|| rig.source.remote(&rig.send_migration(&url)));
        eventually("the destination loads", || {
            rig.vf_status(&rig.destination_host)["state"] == "RESUMING"
        });
        std::thread::sleep(Duration::from_millis(200));
        let killed = std::process::Command::new("kill")
            .args(["-KILL", &pid])
            .status();
        assert!(killed.expect("kill").success());
        assert!(migration.join().expect("no panic").is_err());
    });
    eventually("the destination's VF is not left in RESUMING", || {
        let status = rig.vf_status(&rig.destination_host);
        status["opener"].is_null() || status["state"] == "RUNNING"
    });
    drop(destination);
    let _ = rig.source.kill();
}

#[test]
fn a_stuck_producer_is_ended_by_the_destinations_deadline_and_its_cost_is_told() {
    let mut rig = local(Setup {
        both_hosts: vec!["--vram-chunk", "4M"],
        vmm: vec!["--device-timeout", "1"],
        ..Setup::default()
    });
    fault(
        &rig.source_host,
        &["--op", "producer", "--nth", "4", "--stuck"],
    );
    let url = rig.unix_url();
    let _destination = rig.destination(&url);
    let begun = Instant::now();
    let message = rig.fails_to_migrate(&url);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(
        message.contains("gave no state for 1s") && message.contains("lost"),
        "{message}"
    );
}
