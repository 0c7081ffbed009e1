// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `save` and `restore`: what moves, and what holds when it does not.

use std::path::Path;
use std::time::{Duration, Instant};

use host_sim::host::HostConfig;
use host_sim::vf::Effect;

use crate::common::*;

#[test]
fn a_state_goes_through_a_file_and_a_vf_without_a_byte_changed() {
    for way in [&[][..], &["--iommufd"]] {
        let host = TestHost::new();
        let file = host.filled_state(1);
        let again = host.file("again");
        let run = host.run(
            &[
                &[
                    "restore",
                    &host.path(2),
                    "--from",
                    &file,
                    "--then-save",
                    &again,
                    "--json",
                ],
                way,
            ]
            .concat(),
        );
        run.succeeds();
        let value = run.json();
        assert_eq!(value["vf"]["state"], "RUNNING");
        assert_eq!(value["vf"]["gpu_state"], "loaded");
        assert_eq!(
            value["totals"]["state_bytes"],
            value["then_save"]["totals"]["state_bytes"]
        );
        host.run(&["verify", &again]).succeeds();
        let (first, second) = (payload(&file), payload(&again));
        assert!(first.len() as u64 > VRAM);
        assert!(first == second, "the two states differ");
    }
}

#[test]
fn a_held_vf_has_the_state_that_came_and_runs_or_stands_still_as_told() {
    let host = TestHost::new();
    let file = host.filled_state(2);
    for (more, state) in [(&[][..], "RUNNING"), (&["--stay-stopped"], "STOP")] {
        let held =
            host.start(&[&["restore", &host.path(2), "--from", &file, "--hold"], more].concat());
        let line = held.hears("Holding");
        assert!(line.contains(&format!("in {state}:")), "{line}");
        assert!(host.holds(2, 2));
        assert_eq!(host.host.vf(2).unwrap().status().state.to_string(), state);
        held.signal(libc::SIGTERM);
        held.wait().succeeds();
    }
}

/// Moves a state between two commands and compares what arrived.
#[track_caller]
fn moves(listen: &str) {
    let host = TestHost::new();
    let file = host.filled_state(4);
    let (relayed, arrived) = (host.file("relayed"), host.file("arrived"));
    let destination = host.start(&[
        "restore",
        &host.path(2),
        "--from",
        listen,
        "--then-save",
        &arrived,
    ]);
    let line = destination.hears("Listening on ");
    let to = line.trim_start_matches("Listening on ").to_owned();
    // Two processes that each have a VF open: the first loads the file and passes it on.
    let run = host.run(&[
        "restore",
        &host.path(1),
        "--from",
        &file,
        "--then-save",
        &to,
        "--json",
    ]);
    run.succeeds();
    assert_eq!(run.json()["then_save"]["to"], to);
    let end = destination.wait();
    end.succeeds();
    assert!(
        end.stdout()
            .contains("The VF is in RUNNING with the state that came"),
        "{}",
        end.stdout()
    );
    assert!(payload(&file) == payload(&arrived), "the two states differ");

    let destination = host.start(&[
        "restore",
        &host.path(2),
        "--from",
        listen,
        "--then-save",
        &relayed,
    ]);
    let line = destination.hears("Listening on ");
    let to = line.trim_start_matches("Listening on ");
    let run = host.run(&["save", &host.path(1), "--to", to, "--connections", "3"]);
    run.succeeds();
    assert!(
        run.stdout()
            .contains("The VF is in RUNNING with the state it had"),
        "{}",
        run.stdout()
    );
    destination.wait().succeeds();
    host.run(&["verify", &relayed]).succeeds();
}

#[test]
fn a_state_is_saved_compressed_and_read_again() {
    let host = TestHost::new();
    let file = host.filled_state(6);
    for codec in ["lz4", "zstd"] {
        let packed = host.file(codec);
        let arguments = [
            "restore",
            &host.path(1),
            "--from",
            &file,
            "--then-save",
            &packed,
        ];
        host.run(&[&arguments[..], &["--compression", codec]].concat())
            .succeeds();
        assert!(payload(&file) == payload(&packed), "the two states differ");
        host.run(&["verify", &packed]).succeeds();
        host.run(&["inspect", &packed]).succeeds();
        host.run(&["restore", &host.path(2), "--from", &packed])
            .succeeds();
    }
    let run = host.run(&[
        "save",
        &host.path(1),
        "--to",
        &file,
        "--compression",
        "gzip",
    ]);
    assert_eq!(run.status(), Some(2));
}

#[test]
fn a_state_moves_between_two_processes_over_tcp() {
    moves("tcp:127.0.0.1:0");
}

#[test]
fn a_state_moves_between_two_processes_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    moves(&format!("unix:{}", dir.path().join("socket").display()));
}

#[test]
fn a_data_fd_is_handed_over_between_two_processes() {
    let host = TestHost::new();
    let file = host.filled_state(6);
    let (arrived, socket) = (host.file("arrived"), host.file("socket"));
    let listen = format!("unix:{socket}");
    let there = host.path(2);
    let waiting = [
        "restore",
        &there,
        "--from",
        &listen,
        "--then-save",
        &arrived,
    ];
    let destination = host.start(&[&waiting[..], &["--json"]].concat());
    destination.hears("Listening on ");
    let here = host.path(1);
    let passing = ["restore", &here, "--from", &file, "--then-save", &listen];
    let run = host.run(&[&passing[..], &["--hand-over", "--json"]].concat());
    run.succeeds();
    let sent = &run.json()["then_save"];
    assert_eq!(sent["handed_over"], true);
    assert!(
        sent["totals"]["stream_bytes"].as_u64() < Some(1000),
        "{sent}"
    );
    let end = destination.wait();
    end.succeeds();
    assert_eq!(end.json()["handed_over"], true);
    assert_eq!(
        end.json()["totals"]["state_bytes"],
        sent["totals"]["state_bytes"]
    );
    assert!(payload(&file) == payload(&arrived), "the two states differ");

    let destination = host.start(&["restore", &there, "--from", &listen]);
    destination.hears("Listening on ");
    let run = host.run(&["save", &here, "--to", &listen, "--hand-over"]);
    run.succeeds();
    assert!(
        run.stdout().contains("handed over to unix:"),
        "{}",
        run.stdout()
    );
    let end = destination.wait();
    end.succeeds();
    assert!(
        end.stdout().contains("handed its data fd over"),
        "{}",
        end.stdout()
    );
    host.run(&["save", &here, "--to", &arrived, "--hand-over"])
        .fails(2);
}

#[test]
fn ctrl_c_in_a_hand_over_gives_the_vf_its_state_back() {
    let host = TestHost::with(&HostConfig {
        device_rate: Some(4 * MIB),
        ..config()
    });
    let (here, there) = (host.path(1), host.path(2));
    let listen = format!("unix:{}", host.file("socket"));
    let destination = host.start(&["restore", &there, "--from", &listen, "--json"]);
    destination.hears("Listening on ");
    let saving = host.start(&["save", &here, "--to", &listen, "--hand-over", "--json"]);
    let end = Instant::now() + Duration::from_secs(30);
    while host.host.vf(1).unwrap().status().moved < MIB {
        assert!(Instant::now() < end, "the destination never reads");
        std::thread::sleep(Duration::from_millis(1));
    }
    saving.signal(libc::SIGINT);
    let run = saving.wait();
    run.fails(130);
    assert_eq!(run.json()["vf"]["gpu_state"], "kept");
    let end = destination.wait();
    end.fails(1);
    assert_eq!(end.json()["vf"]["gpu_state"], "clean");
}

#[test]
fn an_altered_or_cut_file_is_refused_and_the_vf_is_clean() {
    let host = TestHost::new();
    let file = host.filled_state(5);
    let whole = std::fs::read(&file).unwrap();
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    for bytes in [&altered[..], &whole[..whole.len() / 2]] {
        std::fs::write(&file, bytes).unwrap();
        let run = host.run(&["restore", &host.path(2), "--from", &file, "--json"]);
        let text = run.fails(1);
        assert!(text.contains("is in RUNNING and clean"), "{text}");
        let value = run.json();
        assert_eq!(value["vf"]["gpu_state"], "clean");
        assert_eq!(value["vf"]["state"], "RUNNING");
        assert!(!host.holds(2, 5));
    }
    std::fs::write(&file, &whole[..40]).unwrap();
    let run = host.run(&["restore", &host.path(2), "--from", &file, "--json"]);
    run.fails(1);
    assert_eq!(run.json()["vf"]["gpu_state"], "untouched");
}

#[test]
fn the_state_of_another_device_is_refused_before_the_vf_is_touched() {
    let host = TestHost::new();
    let file = host.file("state");
    host.run(&["save", &host.path(1), "--to", &file]).succeeds();
    let other = TestHost::with(&HostConfig {
        device_id: 0xe212,
        ..config()
    });
    let run = other.run(&["restore", &other.path(1), "--from", &file, "--json"]);
    let text = run.fails(1);
    assert!(text.contains("e211") && text.contains("e212"), "{text}");
    assert_eq!(run.json()["vf"]["gpu_state"], "untouched");

    let destination = other.start(&["restore", &other.path(1), "--from", "tcp:127.0.0.1:0"]);
    let line = destination.hears("Listening on ");
    let to = line.trim_start_matches("Listening on ");
    let run = host.run(&["save", &host.path(1), "--to", to, "--json"]);
    let text = run.fails(1);
    assert!(
        text.contains("The destination did not load") && text.contains("e212"),
        "{text}"
    );
    assert_eq!(run.json()["vf"]["gpu_state"], "kept");
    destination.wait().fails(1);
}

#[test]
fn a_stream_of_another_attempt_is_refused() {
    let host = TestHost::new();
    let id = "00000000000000000000000000000007";
    for (there, here, good) in [
        (Some(id), None, false),
        (None, Some(id), false),
        (Some(id), Some(id), true),
    ] {
        let attempt = |id: Option<&'static str>| id.map_or(vec![], |id| vec!["--attempt", id]);
        let path = host.path(2);
        let listen = [
            vec!["restore", &path, "--from", "tcp:127.0.0.1:0"],
            attempt(there),
        ]
        .concat();
        let destination = host.start(&listen);
        let line = destination.hears("Listening on ");
        let to = line.trim_start_matches("Listening on ");
        let source = host.path(1);
        let run = host.run(&[vec!["save", &source, "--to", to], attempt(here)].concat());
        if good {
            run.succeeds();
            destination.wait().succeeds();
        } else {
            let said = run.fails(1);
            assert!(said.contains("belongs to the attempt"), "{said}");
            destination.wait().fails(1);
        }
    }
}

#[test]
fn a_failed_arc_is_told_with_its_errno_and_the_state_the_vf_is_in_now() {
    let host = TestHost::new();
    let file = host.file("state");
    for (arc, on_the_way) in [
        (
            "RUNNING->RUNNING_P2P",
            "on the way from RUNNING to RUNNING_P2P",
        ),
        ("RUNNING_P2P->STOP", "on the way from RUNNING_P2P to STOP"),
        ("STOP->STOP_COPY", "on the way from STOP to STOP_COPY"),
    ] {
        host.fail(1, &format!("arc:{arc}"), libc::ETIMEDOUT);
        let run = host.run(&["save", &host.path(1), "--to", &file, "--json"]);
        let text = run.fails(1);
        for part in [
            "ETIMEDOUT (110)",
            on_the_way,
            "The VF is in RUNNING with the state it had",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(run.json()["vf"]["state"], "RUNNING");
        assert_eq!(run.json()["vf"]["gpu_state"], "kept");
        assert!(!Path::new(&file).exists());
    }
    host.run(&["save", &host.path(1), "--to", &file]).succeeds();
    host.fail(2, "arc:RESUMING->STOP", libc::EIO);
    let text = host
        .run(&["restore", &host.path(2), "--from", &file])
        .fails(1);
    assert!(
        text.contains("EIO (5)") && text.contains("is in RUNNING and clean"),
        "{text}"
    );
}

#[test]
fn gpu_state_that_is_lost_is_said_to_be_lost() {
    let host = TestHost::new();
    let file = host.file("state");
    host.fail(1, "read", libc::EIO);
    for nth in 1..=2 {
        host.fault(
            1,
            "arc:STOP_COPY->STOP",
            nth,
            Effect::Errno(host_sim::vf::Errno(libc::EIO)),
        );
    }
    let run = host.run(&["save", &host.path(1), "--to", &file, "--json"]);
    let text = run.fails(4);
    assert!(text.contains("what it held is lost"), "{text}");
    assert_eq!(run.json()["vf"]["gpu_state"], "lost");
}

#[test]
fn a_save_to_nobody_leaves_the_vf_alone() {
    let host = TestHost::new();
    let to = format!("unix:{}", host.file("nobody"));
    let run = host.run(&["save", &host.path(1), "--to", &to, "--json"]);
    assert!(run.fails(1).contains("Connecting to"));
    assert_eq!(run.json()["vf"]["gpu_state"], "kept");
    assert_eq!(host.host.vf(1).unwrap().status().moved, 0);
}

#[test]
fn ctrl_c_gives_the_vf_its_state_back() {
    let host = TestHost::with(&HostConfig {
        device_rate: Some(20 * MIB),
        ..config()
    });
    let file = host.file("state");
    let before = host.resets(1);
    host.run(&["save", &host.path(1), "--to", &file]).succeeds();
    let of_a_good_one = host.resets(1) - before;
    std::fs::remove_file(&file).unwrap();

    host.fault(1, "read", 4, Effect::Stuck);
    let before = host.resets(1);
    let saving = host.start(&["save", &host.path(1), "--to", &file, "--json"]);
    host.fault_fires(1);
    saving.signal(libc::SIGINT);
    // The signal is seen while the read is stuck in the kernel, which nobody interrupts.
    std::thread::sleep(Duration::from_millis(200));
    host.host.vf(1).unwrap().faults().clear(None);
    let run = saving.wait();
    let text = run.fails(130);
    assert!(text.contains("The save was cancelled"), "{text}");
    assert!(
        text.contains("The VF is in RUNNING with the state it had"),
        "{text}"
    );
    assert_eq!(run.json()["cancelled"], true);
    assert_eq!(run.json()["vf"]["gpu_state"], "kept");
    assert_eq!(
        host.resets(1) - before,
        of_a_good_one,
        "no reset but those of open and close"
    );
    assert!(!Path::new(&file).exists(), "no half file");
}

#[test]
fn ctrl_c_ends_a_wait_for_a_connection_and_a_load() {
    let host = TestHost::new();
    let waiting = host.start(&[
        "restore",
        &host.path(2),
        "--from",
        "tcp:127.0.0.1:0",
        "--json",
    ]);
    waiting.hears("Listening on ");
    waiting.signal(libc::SIGINT);
    let run = waiting.wait();
    run.fails(130);
    assert_eq!(run.json()["vf"]["gpu_state"], "untouched");

    let file = host.file("state");
    host.run(&["save", &host.path(1), "--to", &file]).succeeds();
    host.fault(2, "write", 4, Effect::Stuck);
    let loading = host.start(&["restore", &host.path(2), "--from", &file, "--json"]);
    host.fault_fires(2);
    loading.signal(libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(200));
    host.host.vf(2).unwrap().faults().clear(None);
    let run = loading.wait();
    let text = run.fails(130);
    assert!(text.contains("is in RUNNING and clean"), "{text}");
    assert_eq!(run.json()["vf"]["gpu_state"], "clean");
}

#[test]
fn the_command_line_says_that_opening_resets_and_what_each_status_means() {
    let host = TestHost::new();
    let help = host.run(&["save", "--help"]);
    help.succeeds();
    assert!(
        help.stdout().contains("resets a VF when it is opened"),
        "{}",
        help.stdout()
    );
    let help = host.run(&["--help"]).stdout();
    assert!(
        help.contains("Exit status") && help.contains("130"),
        "{help}"
    );
    host.run(&["save", &host.path(1)]).fails(2);
    host.run(&["save", &host.path(1), "--to", "tcp:nowhere"])
        .fails(2);
}
