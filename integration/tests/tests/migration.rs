// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM with an Xe VF moves between two VMM processes, and its guest finds nothing lost.

use e2e::{Rig, Setup, eventually};

fn phase_names(answer: &serde_json::Value) -> Vec<&str> {
    answer["phases"]
        .as_object()
        .expect("phases")
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn a_working_guest_moves_over_tcp_and_finds_nothing_lost() {
    let mut rig = Rig::new(&Setup::default());
    let url = rig.tcp_url();
    let (_destination, answer) = rig.migrates(&url);
    for phase in [
        "connect", "precopy", "quiesce", "stop", "stream", "load", "resume",
    ] {
        assert!(
            phase_names(&answer).contains(&phase),
            "no time for {phase} in {answer}"
        );
    }
    assert!(answer["state_bytes"].as_u64().expect("bytes") > 64 << 20);
}

#[test]
fn a_working_guest_moves_over_a_unix_socket() {
    let mut rig = Rig::new(&Setup::default());
    let url = rig.unix_url();
    rig.migrates(&url);
}

#[test]
fn a_vf_used_through_iommufd_moves() {
    let mut rig = Rig::new(&Setup {
        vmm: vec!["--iommufd"],
        ..Setup::default()
    });
    let url = rig.unix_url();
    rig.migrates(&url);
}

#[test]
fn the_software_vcpu_runs_the_same_guest_and_moves_it() {
    let mut rig = Rig::new(&Setup {
        vmm: vec!["--accel", "soft"],
        ..Setup::default()
    });
    let url = rig.tcp_url();
    let (destination, _) = rig.migrates(&url);
    assert_eq!(
        destination.remote(&["info"]).expect("info")["accel"],
        "soft"
    );
}

#[test]
fn three_vfs_of_one_vm_move_together() {
    let mut rig = Rig::new(&Setup {
        vfs: 3,
        vram: "16M",
        ..Setup::default()
    });
    let url = rig.tcp_url();
    rig.migrates(&url);
}

#[test]
fn a_vf_with_a_media_gt_moves() {
    let mut rig = Rig::new(&Setup {
        both_hosts: vec!["--gts", "2"],
        ..Setup::default()
    });
    let url = rig.unix_url();
    rig.migrates(&url);
}

#[test]
fn a_vm_moves_on_from_where_it_has_moved_to() {
    let mut rig = Rig::new(&Setup::default());
    let url = rig.unix_url();
    let (destination, _) = rig.migrates(&url);
    rig.source = destination;
    std::mem::swap(&mut rig.source_host, &mut rig.destination_host);
    let back = rig.tcp_url();
    rig.migrates_to("third", &back);
}

#[test]
fn the_source_never_runs_a_vf_that_it_has_handed_over() {
    let mut rig = Rig::new(&Setup::default());
    let url = rig.unix_url();
    rig.migrates(&url);
    let status = rig.vf_status(&rig.source_host);
    assert!(status["opener"].is_null(), "{status}");
    assert_ne!(
        status["state"], "RUNNING",
        "the VF was run again after it had been handed over: {status}"
    );
}

#[test]
fn vram_that_the_guest_does_not_touch_arrives_unchanged() {
    let mut rig = Rig::new(&Setup::default());
    let beyond = ["--vf", "1", "--from", "4M"];
    rig.source_host
        .command(
            "fill",
            &["--vf", "1", "random", "--from", "4M", "--seed", "7"],
        )
        .expect("fill");
    let url = rig.tcp_url();
    let before = rig.source_host.command("digest", &beyond).expect("digest");
    assert_ne!(
        before,
        rig.destination_host
            .command("digest", &beyond)
            .expect("digest")
    );
    rig.migrates(&url);
    assert_eq!(
        before,
        rig.destination_host
            .command("digest", &beyond)
            .expect("digest")
    );
}

#[test]
fn a_paused_vm_is_resumed_with_its_gpu() {
    let mut rig = Rig::new(&Setup::default());
    rig.source.remote(&["pause"]).expect("pause");
    let status = rig.vf_status(&rig.source_host);
    assert_eq!(status["state"], "STOP", "{status}");
    let quiet = rig.serial.read().expect("serial").verified();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(
        rig.serial.read().expect("serial").verified(),
        quiet,
        "the guest works while it is paused"
    );
    rig.source.remote(&["resume"]).expect("resume");
    rig.guest_still_works_at_the_source();
    eventually("the VF runs", || {
        rig.vf_status(&rig.source_host)["state"] == "RUNNING"
    });
}
