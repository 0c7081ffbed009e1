// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command `host-sim`, as a user runs it.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use host_sim::host::Host;
use host_sim::vf::{Errno, Op};

use crate::common::*;

fn host_sim(args: &[&str], dir: &Path) -> Output {
    let (verb, rest) = args.split_first().expect("a verb");
    Command::new(env!("CARGO_BIN_EXE_host-sim"))
        .arg(verb)
        .arg(dir)
        .args(rest)
        .env_remove("HOST_SIM")
        .env_remove("LD_PRELOAD")
        .output()
        .expect("the command runs")
}

#[track_caller]
fn succeeds(args: &[&str], dir: &Path) -> String {
    let output = host_sim(args, dir);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn fails(args: &[&str], dir: &Path) -> String {
    let output = host_sim(args, dir);
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8(output.stderr).expect("text")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(
        TestHost::new(&small())
            .dir
            .path()
            .parent()
            .expect("a parent"),
    )
    .expect("a directory")
}

#[test]
fn a_host_goes_up_tells_its_status_and_goes_down() {
    let parent = directory();
    let dir = parent.path().join("host");
    let options = [
        "--vfs",
        "3",
        "--vram",
        "16M",
        "--gts",
        "1",
        "--device-id",
        "e20b",
        "--bus",
        "7",
    ];
    succeeds(&[&["up"], &options[..]].concat(), &dir);
    let report: serde_json::Value =
        serde_json::from_str(&succeeds(&["status", "--json"], &dir)).expect("JSON");
    assert_eq!(report["config"]["vram"], 16 * MIB);
    assert_eq!(report["config"]["device_id"], 0xe20b);
    assert_eq!(report["vfs"][2]["bdf"], "0000:07:00.3");
    assert_eq!(report["vfs"][0]["state"], "RUNNING");
    assert_eq!(report["open_fds"], 0);
    assert!(
        succeeds(&["status"], &dir).contains("VF 1 0000:07:00.1 group 20 vfio0: RUNNING, closed")
    );
    succeeds(&["down"], &dir);
    assert!(!dir.exists());
}

#[test]
fn a_host_in_use_stays_up() {
    let parent = directory();
    let dir = parent.path().join("host");
    succeeds(&["up", "--vram", "4M"], &dir);
    let held = File::create(dir.join("open/device.1")).expect("a file");
    held.lock().expect("a lock");
    assert!(fails(&["down"], &dir).contains("is in use: 1 of its fds are open"));
    assert!(succeeds(&["status"], &dir).contains("1 fds open"));
    drop(held);
    succeeds(&["down"], &dir);
}

#[test]
fn what_cannot_be_done_is_said_with_what_and_where() {
    let parent = directory();
    let dir = parent.path().join("host");
    assert!(fails(&["status"], &dir).contains("There is no host in"));
    assert!(fails(&["down"], parent.path()).contains("There is no host in"));
    assert!(fails(&["up", "--vram", "3M"], &dir).contains("vram = 3145728"));
    assert!(fails(&["up"], Path::new("/proc/host")).contains("Cannot make /proc/host"));
    succeeds(&["up", "--vram", "4M"], &dir);
    assert!(fails(&["up"], &dir).contains("holds something already"));
    assert!(
        fails(&["fault", "--vf", "9", "--op", "read", "--stuck"], &dir)
            .contains("There is no VF 9")
    );
    assert!(fails(&["fault", "--vf", "1", "--op", "reed", "--stuck"], &dir).contains("map-dma"));
    assert!(fails(&["fault", "--vf", "1", "--op", "read"], &dir).contains("Say what happens"));
    assert!(
        fails(
            &["fault", "--vf", "1", "--op", "read", "--errno", "EODD"],
            &dir
        )
        .contains("EINVAL")
    );
}

#[test]
fn a_fault_set_by_the_command_hits_a_process_that_has_the_vf_open() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let fault = [
        "fault", "--vf", "1", "--op", "map-dma", "--nth", "2", "--count", "2", "--errno", "ENOMEM",
    ];
    succeeds(&fault, host.host.dir());
    assert!(
        succeeds(&["status"], host.host.dir())
            .contains("fault: map-dma ENOMEM, at 2 calls from number 2 on")
    );
    let answers: Vec<_> = (0..4)
        .map(|_| vf.faults().check(Op::MapDma).err())
        .collect();
    assert_eq!(
        answers,
        [None, Some(Errno::ENOMEM), Some(Errno::ENOMEM), None]
    );
    succeeds(
        &["fault", "--vf", "1", "--op", "read", "--stuck"],
        host.host.dir(),
    );
    succeeds(&["fault", "--clear"], host.host.dir());
    assert!(vf.faults().list().is_empty());
}

#[test]
fn the_environment_names_the_library_beside_the_command_and_the_host() {
    let host = TestHost::new(&small());
    let printed = succeeds(&["env"], host.host.dir());
    let variables: Vec<_> = printed
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let [("LD_PRELOAD", library), ("HOST_SIM", dir)] = variables[..] else {
        panic!("not the two variables: {printed}")
    };
    assert!(Path::new(library).is_file());
    assert_eq!(Path::new(dir), host.host.dir());
}

#[test]
fn digests_tell_whether_two_hosts_hold_the_same() {
    let (one, two) = (TestHost::new(&small()), TestHost::new(&small()));
    let digest =
        |host: &TestHost| succeeds(&["digest", "--vf", "1", "--from", "0"], host.host.dir());
    assert_eq!(digest(&one), digest(&two), "holes");
    for content in ["random", "half", "zero"] {
        succeeds(&["fill", "--vf", "1", content], one.host.dir());
        succeeds(&["fill", "--vf", "1", content], two.host.dir());
        assert_eq!(digest(&one), digest(&two), "{content}");
        write_vram(&one.host.vf(1).expect("a VF"), 5 * MIB + 17, &[0xa5]);
        assert_ne!(digest(&one), digest(&two), "{content}, one byte changed");
    }
    succeeds(
        &["fill", "--vf", "1", "random", "--seed", "2"],
        one.host.dir(),
    );
    succeeds(&["fill", "--vf", "1", "random"], two.host.dir());
    assert_ne!(digest(&one), digest(&two));
}

#[test]
fn half_alternates_zero_and_random_blocks_and_leaves_the_start_to_the_guest() {
    let host = TestHost::new(&small());
    succeeds(&["fill", "--vf", "1", "half"], host.host.dir());
    let vf = host.host.vf(1).expect("a VF");
    let content = vram(&vf, 0, 8 << 20);
    let (guest, filled) = content.split_at(4 << 20);
    assert!(guest.iter().all(|b| *b == 0));
    for (block, number) in filled.chunks(64 << 10).zip(0..) {
        let zeros = block.iter().filter(|b| **b == 0).count();
        let expected = if number % 2 == 0 {
            zeros == block.len()
        } else {
            zeros < block.len() / 64
        };
        assert!(expected, "block {number} has {zeros} zeros");
    }
}

#[test]
fn the_directory_of_a_host_is_opened_by_another_process_as_it_was_made() {
    let host = TestHost::new(&small());
    let again = Host::open(host.host.dir()).expect("the same host");
    assert_eq!(again.config(), host.host.config());
    assert!(again.vf(0).is_none() && again.vf(3).is_none());
    assert_eq!(again.vfs().len(), 2);
}
