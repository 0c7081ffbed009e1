// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any failure gives the source guest back, running and with its GPU state, or says that it could not.

use std::time::{Duration, Instant};

use e2e::cloud_hypervisor::{Failed, Rig, Setup, vf_status};
use e2e::{eventually, patched};

#[derive(Clone, Copy)]
enum At {
    Source,
    Destination,
}

/// Breaks a host with a fault, tries to migrate, and checks that the guest goes on at the source.
#[track_caller]
fn survives(mut rig: Rig, at: At, op: &str, effect: &[&str]) -> Failed {
    let host = match at {
        At::Source => &rig.source_host,
        At::Destination => &rig.destination_host,
    };
    rig.fault(host, op, effect);
    let url = rig.tcp_url();
    let failed = rig.fails_to_migrate(&url, "");
    let status = vf_status(&rig.source_host, 1);
    assert_eq!(status["state"], "RUNNING", "{failed:?}");
    let clean = vf_status(&rig.destination_host, 1);
    assert!(
        clean["opener"].is_null() || clean["state"] == "RUNNING",
        "the destination's VF is left as {clean}"
    );
    failed
}

#[track_caller]
fn says(failed: &Failed, words: &[&str]) {
    for word in words {
        assert!(
            failed.message.contains(word),
            "the source does not say {word:?}: {failed:?}"
        );
    }
}

#[test]
fn a_vf_that_cannot_be_quiesced_keeps_running() {
    let rig = Rig::new(patched!(), &Setup::default());
    let effect = ["--errno", "ETIMEDOUT"];
    let failed = survives(rig, At::Source, "arc:RUNNING->RUNNING_P2P", &effect);
    says(&failed, &["ETIMEDOUT", "RUNNING_P2P"]);
}

#[test]
fn a_vf_that_cannot_be_stopped_goes_back_to_running() {
    let rig = Rig::new(patched!(), &Setup::default());
    let effect = ["--errno", "EIO"];
    let failed = survives(rig, At::Source, "arc:RUNNING_P2P->STOP", &effect);
    says(&failed, &["EIO"]);
}

#[test]
fn a_vf_that_cannot_enter_stop_copy_goes_back_to_running() {
    let rig = Rig::new(patched!(), &Setup::default());
    let effect = ["--errno", "EIO"];
    let failed = survives(rig, At::Source, "arc:STOP->STOP_COPY", &effect);
    says(&failed, &["EIO", "STOP_COPY"]);
}

#[test]
fn a_save_that_fails_in_the_middle_leaves_the_guest_its_gpu() {
    let rig = Rig::new(patched!(), &Setup::default());
    // All packets of so small a VF are in the kernel's ring by then, so STOP_COPY can still be left.
    let effect = ["--nth", "5", "--errno", "EIO"];
    let failed = survives(rig, At::Source, "read", &effect);
    says(&failed, &["EIO"]);
}

#[test]
fn a_destination_vf_that_cannot_enter_resuming_leaves_the_guest_at_the_source() {
    let rig = Rig::new(patched!(), &Setup::default());
    let effect = ["--errno", "ENOMEM"];
    let failed = survives(rig, At::Destination, "arc:STOP->RESUMING", &effect);
    says(&failed, &["ENOMEM"]);
}

#[test]
fn a_load_that_fails_in_the_middle_leaves_the_guest_at_the_source() {
    let rig = Rig::new(patched!(), &Setup::default());
    let effect = ["--nth", "10", "--errno", "EIO"];
    let failed = survives(rig, At::Destination, "write", &effect);
    says(&failed, &["EIO"]);
}

#[test]
fn a_load_that_fails_at_its_end_leaves_the_guest_at_the_source() {
    let rig = Rig::new(patched!(), &Setup::default());
    let effect = ["--errno", "EIO"];
    let failed = survives(rig, At::Destination, "arc:RESUMING->STOP", &effect);
    says(&failed, &["EIO"]);
}

#[test]
fn a_destination_vf_that_does_not_start_is_told_and_the_guest_goes_on_at_the_source() {
    let rig = Rig::new(patched!(), &Setup::default());
    let effect = ["--errno", "EIO"];
    let failed = survives(rig, At::Destination, "arc:STOP->RUNNING_P2P", &effect);
    says(&failed, &["EIO"]);
}

#[test]
fn after_a_failed_migration_the_next_one_succeeds() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    rig.fault(
        &rig.destination_host,
        "write",
        &["--nth", "10", "--errno", "EIO"],
    );
    let url = rig.tcp_url();
    drop(rig.fails_to_migrate(&url, ""));
    let again = rig.unix_url();
    rig.migrates(&again, "");
}

#[test]
fn a_destination_killed_during_the_stream_leaves_the_guest_at_the_source() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let stuck = ["--nth", "8", "--delay-ms", "10000"];
    rig.fault(&rig.destination_host, "write", &stuck);
    let url = rig.tcp_url();
    let mut destination = rig.destination(&format!("receiver_url={url}"));
    rig.begin_to_send(&url, "").expect("it begins");
    eventually("the destination loads", || {
        vf_status(&rig.destination_host, 1)["state"] == "RESUMING"
    });
    std::thread::sleep(Duration::from_millis(200));
    destination.kill().expect("kill");
    rig.sent().expect_err("nobody has the VM");
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_source_killed_during_the_stream_leaves_the_destination_clean() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let stuck = ["--nth", "8", "--delay-ms", "10000"];
    rig.fault(&rig.source_host, "read", &stuck);
    let url = rig.tcp_url();
    let mut destination = rig.destination(&format!("receiver_url={url}"));
    rig.begin_to_send(&url, "").expect("it begins");
    eventually("the source saves", || {
        vf_status(&rig.source_host, 1)["state"] == "STOP_COPY"
    });
    std::thread::sleep(Duration::from_millis(200));
    rig.source.kill().expect("kill");
    destination.answer().expect_err("there is no VM");
    eventually("the destination's VF is not left in RESUMING", || {
        let status = vf_status(&rig.destination_host, 1);
        status["opener"].is_null() || status["state"] == "RUNNING"
    });
}

#[test]
fn a_stuck_producer_is_ended_and_the_loss_is_told() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    rig.fault(&rig.source_host, "producer", &["--stuck"]);
    let url = rig.tcp_url();
    let _destination = rig.destination(&format!("receiver_url={url}"));
    let begun = Instant::now();
    let message = rig.send(&url, "").expect_err("nothing comes");
    assert!(
        begun.elapsed() < Duration::from_secs(90),
        "took {:?}",
        begun.elapsed()
    );
    let told = format!("{message}\n{}", rig.source.complaints());
    assert!(
        told.contains("lost"),
        "the loss of GPU state is hidden: {told}"
    );
    eventually("the VF can be used again", || {
        vf_status(&rig.source_host, 1)["state"] == "RUNNING"
    });
}
