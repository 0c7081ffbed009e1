// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What cannot work is refused before the guest stops, with the reason, and the guest goes on.

use e2e::{Rig, Setup};

/// Migrates to a destination that differs and answers the source's message; the guest never notices.
#[track_caller]
fn refused(setup: &Setup) -> (Rig, String) {
    let mut rig = Rig::new(setup);
    let url = rig.tcp_url();
    let _destination = rig.destination(&url);
    let message = rig.fails_to_migrate(&url);
    rig.guest_still_works_at_the_source();
    (rig, message)
}

#[test]
fn another_device_on_the_destination_is_refused_and_both_ids_are_named() {
    let (_, message) = refused(&Setup {
        destination_host: vec!["--device-id", "0xe20b"],
        ..Setup::default()
    });
    assert!(
        message.to_lowercase().contains("e20b") && message.to_lowercase().contains("e211"),
        "{message}"
    );
}

#[test]
fn another_revision_on_the_destination_is_refused() {
    let (_, message) = refused(&Setup {
        destination_host: vec!["--revision", "7"],
        ..Setup::default()
    });
    assert!(message.to_lowercase().contains("revision"), "{message}");
}

#[test]
fn a_smaller_vram_quota_on_the_destination_is_refused() {
    let (_, message) = refused(&Setup {
        destination_vram: "32M",
        ..Setup::default()
    });
    assert!(
        message.contains("VRAM") || message.contains("BAR2"),
        "{message}"
    );
}

#[test]
fn a_vf_without_migration_support_cannot_be_sent_and_its_guest_goes_on() {
    let (rig, message) = refused(&Setup {
        both_hosts: vec!["--no-migration"],
        ..Setup::default()
    });
    assert!(message.to_lowercase().contains("migration"), "{message}");
    assert_eq!(rig.vf_status(&rig.source_host)["state"], "RUNNING");
}

#[test]
fn a_path_that_is_no_vf_is_named_at_the_start() {
    let rig = Rig::new(&Setup::default());
    for (path, says) in [
        ("/sys/bus/pci/devices/0000:ff:1f.7", "0000:ff:1f.7"),
        ("/tmp", "/tmp"),
    ] {
        let option = ["--device".to_owned(), format!("path={path},id=vf9")];
        let Err(error) = rig.other_vmm("wrong", &option) else {
            panic!("{path} was taken for a VF")
        };
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
}

#[test]
fn a_destination_without_enough_vfs_is_refused_and_the_missing_one_is_named() {
    let mut rig = Rig::new(&Setup {
        vfs: 2,
        vram: "16M",
        ..Setup::default()
    });
    let url = rig.tcp_url();
    let _destination = rig.destination_with(&url, 1);
    let message = rig.fails_to_migrate(&url);
    assert!(message.contains("vf2"), "{message}");
    rig.guest_still_works_at_the_source();
}

#[test]
fn nobody_at_the_other_end_is_said_and_the_guest_goes_on() {
    let mut rig = Rig::new(&Setup::default());
    let url = rig.tcp_url();
    let message = rig.fails_to_migrate(&url);
    assert!(
        message.contains(url.trim_start_matches("tcp:")),
        "{message}"
    );
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_url_of_no_known_kind_is_refused_with_the_kinds_there_are() {
    let mut rig = Rig::new(&Setup::default());
    let message = rig.fails_to_migrate("http://127.0.0.1:1");
    assert!(
        message.contains("tcp:") && message.contains("unix:"),
        "{message}"
    );
}
