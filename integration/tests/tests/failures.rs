// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whatever fails on the way, the guest runs on at the source with its GPU state, or is told that it could not be kept.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use demo::host::SimulatedHost;
use e2e::{Rig, Setup, eventually};

#[track_caller]
fn fault(host: &SimulatedHost, options: &[&str]) {
    let mut arguments = vec!["--vf", "1"];
    arguments.extend_from_slice(options);
    host.command("fault", &arguments).expect("host-sim fault");
}

/// Breaks `host` with a fault, tries to migrate, and checks that the guest goes on at the source.
#[track_caller]
fn survives(at_the_source: bool, options: &[&str]) -> String {
    let mut rig = Rig::new(&Setup::default());
    fault(
        if at_the_source {
            &rig.source_host
        } else {
            &rig.destination_host
        },
        options,
    );
    let url = rig.tcp_url();
    let destination = rig.destination(&url);
    let message = rig.fails_to_migrate(&url);
    rig.guest_still_works_at_the_source();
    assert_eq!(
        rig.vf_status(&rig.source_host)["state"],
        "RUNNING",
        "{message}"
    );
    let clean = rig.vf_status(&rig.destination_host);
    assert!(
        clean["opener"].is_null() || clean["state"] == "RUNNING",
        "the destination's VF is left as {clean}"
    );
    drop(destination);
    message
}

#[test]
fn a_vf_that_cannot_be_quiesced_keeps_running() {
    let message = survives(
        true,
        &["--op", "arc:RUNNING->RUNNING_P2P", "--errno", "ETIMEDOUT"],
    );
    assert!(
        message.contains("ETIMEDOUT") && message.contains("RUNNING_P2P"),
        "{message}"
    );
}

#[test]
fn a_vf_that_cannot_be_stopped_goes_back_to_running() {
    let message = survives(true, &["--op", "arc:RUNNING_P2P->STOP", "--errno", "EIO"]);
    assert!(message.contains("EIO"), "{message}");
}

#[test]
fn a_vf_that_cannot_enter_stop_copy_goes_back_to_running() {
    let message = survives(true, &["--op", "arc:STOP->STOP_COPY", "--errno", "EIO"]);
    assert!(
        message.contains("STOP_COPY") && message.contains("EIO"),
        "{message}"
    );
}

#[test]
fn a_destination_vf_that_cannot_enter_resuming_leaves_the_guest_at_the_source() {
    let message = survives(false, &["--op", "arc:STOP->RESUMING", "--errno", "ENOMEM"]);
    assert!(message.contains("ENOMEM"), "{message}");
}

#[test]
fn a_load_that_fails_in_the_middle_leaves_the_guest_at_the_source() {
    let message = survives(false, &["--op", "write", "--nth", "20", "--errno", "EIO"]);
    assert!(message.contains("EIO"), "{message}");
}

#[test]
fn a_load_that_fails_at_its_end_leaves_the_guest_at_the_source() {
    let message = survives(false, &["--op", "arc:RESUMING->STOP", "--errno", "EIO"]);
    assert!(message.contains("EIO"), "{message}");
}

#[test]
fn a_dma_mapping_that_fails_is_found_before_the_source_pauses() {
    let mut rig = Rig::new(&Setup::default());
    fault(
        &rig.destination_host,
        &["--op", "map-dma", "--errno", "ENOMEM"],
    );
    let url = rig.tcp_url();
    // Whether the VMM refuses to start or the migration is refused, the guest never stops.
    if rig.try_destination(&url).is_ok() {
        rig.fails_to_migrate(&url);
    }
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_destination_killed_during_the_stream_leaves_the_guest_at_the_source() {
    let mut rig = Rig::new(&Setup {
        vram: "256M",
        ..Setup::default()
    });
    fault(
        &rig.destination_host,
        &["--op", "write", "--nth", "30", "--delay-ms", "5000"],
    );
    let url = rig.tcp_url();
    let mut destination = rig.destination(&url);
    let host = rig.destination_host.directory().to_owned();
    let loading = |rig: &Rig| rig.vf_status(&rig.destination_host)["state"] == "RESUMING";
    std::thread::scope(|scope| {
        let migration = scope.spawn(|| rig.source.remote(&["send-migration", &url]));
        eventually("the destination loads", || loading(&rig));
        std::thread::sleep(Duration::from_millis(200));
        destination.kill().expect("kill");
        let answer = migration.join().expect("no panic");
        assert!(answer.is_err(), "{answer:?}");
    });
    assert!(host.exists());
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_source_killed_during_the_stream_leaves_the_destination_clean() {
    let mut rig = Rig::new(&Setup {
        vram: "256M",
        ..Setup::default()
    });
    fault(
        &rig.source_host,
        &["--op", "read", "--nth", "30", "--delay-ms", "5000"],
    );
    let url = rig.tcp_url();
    let destination = rig.destination(&url);
    std::thread::scope(|scope| {
        let migration = scope.spawn(|| rig.source.remote(&["send-migration", &url]));
        eventually("the source saves", || {
            rig.vf_status(&rig.source_host)["state"] == "STOP_COPY"
        });
        std::thread::sleep(Duration::from_millis(200));
        let pid = rig.source.pid().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-KILL", &pid])
                .status()
                .expect("kill")
                .success()
        );
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
fn a_read_that_fails_with_the_producer_done_keeps_the_gpu() {
    // All packets of so small a VF are in the kernel's ring by then, so STOP_COPY can still be left.
    let message = survives(true, &["--op", "read", "--nth", "10", "--errno", "EIO"]);
    assert!(message.contains("EIO"), "{message}");
}

#[test]
fn a_gpu_that_cannot_be_read_out_nor_drained_is_said_to_be_lost() {
    let mut rig = Rig::new(&Setup {
        both_hosts: vec!["--vram-chunk", "4M"],
        ..Setup::default()
    });
    fault(
        &rig.source_host,
        &["--op", "read", "--nth", "10", "--errno", "EIO"],
    );
    let url = rig.tcp_url();
    let _destination = rig.destination(&url);
    let message = rig.fails_to_migrate(&url);
    assert!(message.contains("EIO"), "{message}");
    let lost = message.contains("reset") && message.contains("lost");
    assert!(lost, "the message hides that GPU state is lost: {message}");
    let status = rig.vf_status(&rig.source_host);
    assert_eq!(
        status["state"], "RUNNING",
        "the VF is not left in a state it cannot leave: {status}"
    );
}

#[test]
fn a_stuck_producer_is_ended_by_its_deadline() {
    let mut rig = Rig::new(&Setup {
        vmm: vec!["--device-timeout", "1"],
        ..Setup::default()
    });
    fault(&rig.source_host, &["--op", "producer", "--stuck"]);
    let url = rig.tcp_url();
    let _destination = rig.destination(&url);
    let begun = std::time::Instant::now();
    let message = rig.fails_to_migrate(&url);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "took {:?}",
        begun.elapsed()
    );
    assert!(
        message.contains("gave no state for 1s") && message.contains("lost"),
        "{message}"
    );
}

#[test]
fn an_altered_byte_on_the_wire_is_found_and_the_guest_stays() {
    let mut rig = Rig::new(&Setup::default());
    let to = rig.tcp_url();
    let destination = rig.destination(&to);
    // Zeros do not travel: VRAM has content where the byte is.
    rig.source_host
        .command("fill", &["--vf", "1", "random", "--from", "4M"])
        .expect("host-sim fill");
    let relay = Relay::new(to.trim_start_matches("tcp:").to_owned(), Some(24 << 20));
    let message = rig.fails_to_migrate(&relay.url);
    assert!(message.to_lowercase().contains("checksum"), "{message}");
    rig.guest_still_works_at_the_source();
    drop(destination);
}

#[test]
fn a_peer_that_goes_away_is_said_and_the_guest_stays() {
    let mut rig = Rig::new(&Setup::default());
    // Accepts and closes at once.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("port");
    let url = format!("tcp:{}", listener.local_addr().expect("address"));
    let closer = std::thread::spawn(move || drop(listener.accept()));
    let message = rig.fails_to_migrate(&url);
    assert!(!message.is_empty());
    closer.join().expect("no panic");
    rig.guest_still_works_at_the_source();
}

#[test]
fn after_a_failed_migration_the_next_one_succeeds() {
    let mut rig = Rig::new(&Setup::default());
    fault(
        &rig.destination_host,
        &["--op", "write", "--nth", "20", "--errno", "EIO"],
    );
    let url = rig.tcp_url();
    let destination = rig.destination(&url);
    rig.fails_to_migrate(&url);
    drop(destination);
    rig.guest_works(256);
    let again = rig.unix_url();
    rig.migrates(&again);
}

#[test]
fn a_destination_that_starts_late_is_not_joined_by_a_second_guest() {
    let mut rig = Rig::new(&Setup {
        vmm: vec!["--lease", "2", "--answer-timeout", "1"],
        ..Setup::default()
    });
    fault(
        &rig.destination_host,
        &["--op", "arc:RUNNING_P2P->RUNNING", "--delay-ms", "6000"],
    );
    let url = rig.tcp_url();
    let destination = rig.destination(&url);
    let message = rig.fails_to_migrate(&url);
    assert!(message.contains("stays paused"), "{message}");
    // Longer than the lease, and the destination is still on its way to running.
    std::thread::sleep(Duration::from_secs(3));
    let refused = rig.source.remote(&["resume"]).expect_err("two guests");
    assert!(refused.to_string().contains("--force"), "{refused}");
    eventually("the destination has given the guest up", || {
        destination.log().contains("The guest could not run within")
    });
    eventually("its VF is clean", || {
        let status = rig.vf_status(&rig.destination_host);
        status["opener"].is_null() || status["state"] == "RUNNING"
    });
    rig.source.remote(&["resume", "--force"]).expect("resume");
    rig.guest_still_works_at_the_source();
}

/// Passes connections on to an address; of the one that carries the most, flips a bit after `alter` bytes.
struct Relay {
    url: String,
}

impl Relay {
    fn new(to: String, alter: Option<usize>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("port");
        let url = format!("tcp:{}", listener.local_addr().expect("address"));
        std::thread::spawn(move || {
            // The main connection comes first, the device stream second; nothing follows.
            for index in 0..2 {
                let Ok((from, _)) = listener.accept() else {
                    return;
                };
                let Ok(onward) = TcpStream::connect(&to) else {
                    return;
                };
                let (back_from, back_to) = (onward.try_clone(), from.try_clone());
                let flip = if index == 1 { alter } else { None };
                std::thread::spawn(move || pass(from, onward, flip));
                if let (Ok(back_from), Ok(back_to)) = (back_from, back_to) {
                    std::thread::spawn(move || pass(back_from, back_to, None));
                }
            }
        });
        Self { url }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, flip_after: Option<usize>) {
    let mut buffer = vec![0; 1 << 16];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(at) = flip_after
            && (passed..passed + count).contains(&at)
        {
            buffer[at - passed] ^= 0x10;
        }
        passed += count;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
