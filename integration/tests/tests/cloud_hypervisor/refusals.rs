// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What cannot work is refused before anything moves, with the reason.

use e2e::cloud_hypervisor::{Binaries, Failed, Rig, Setup};
use e2e::patched;

/// Migrates to a destination that will not do; the guest never stops.
#[track_caller]
fn refused(binaries: Binaries, setup: &Setup) -> Failed {
    let mut rig = Rig::new(binaries, setup);
    let url = rig.tcp_url();
    let failed = rig.fails_to_migrate(&url, "");
    assert!(
        !rig.source.events().have("pausing"),
        "the guest was stopped for a migration that could not work: {failed:?}"
    );
    failed
}

#[track_caller]
fn names(failed: &Failed, words: &[&str]) {
    let message = failed.message.to_lowercase();
    for word in words {
        assert!(
            message.contains(word),
            "the source does not say {word:?}: {failed:?}"
        );
    }
}

#[test]
fn another_device_at_the_destination_is_refused_and_both_ids_are_named() {
    let setup = Setup {
        destination_host: vec!["--device-id", "0xe20b"],
        ..Setup::default()
    };
    names(&refused(patched!(), &setup), &["e20b", "e211", "vf0"]);
}

#[test]
fn another_revision_at_the_destination_is_refused() {
    let setup = Setup {
        destination_host: vec!["--revision", "7"],
        ..Setup::default()
    };
    names(&refused(patched!(), &setup), &["revision"]);
}

#[test]
fn less_vram_at_the_destination_is_refused() {
    let setup = Setup {
        vram: "32M",
        destination_vram: "16M",
        ..Setup::default()
    };
    let failed = refused(patched!(), &setup);
    assert!(
        failed.message.contains("VRAM") || failed.message.contains("BAR2"),
        "{failed:?}"
    );
}

#[test]
fn a_destination_without_enough_vfs_is_refused_and_the_missing_one_is_named() {
    let setup = Setup {
        vfs: 2,
        destination_vfs: 1,
        ..Setup::default()
    };
    names(&refused(patched!(), &setup), &["vf1"]);
}

#[test]
fn a_path_that_is_no_vf_is_refused_and_named() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    let path = "/sys/bus/pci/devices/0000:ff:1f.7";
    let destination = rig.destination(&format!("receiver_url={url},vfio_paths=[vf0@{path}]"));
    let (failed, _) = rig.fails_to_migrate_to(destination, &url, "");
    names(&failed, &["0000:ff:1f.7"]);
    assert!(!rig.source.events().have("pausing"));
}

#[test]
fn a_path_for_a_device_that_the_vm_has_not_is_refused_and_named() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    let path = rig.destination_host.vf_path(2);
    let destination = rig.destination(&format!("receiver_url={url},vfio_paths=[other@{path}]"));
    let (failed, _) = rig.fails_to_migrate_to(destination, &url, "");
    names(&failed, &["other"]);
}

#[test]
fn a_vm_whose_vf_cannot_migrate_is_not_sent() {
    let setup = Setup {
        both_hosts: vec!["--no-migration"],
        ..Setup::default()
    };
    names(&refused(patched!(), &setup), &["vf0", "migration"]);
}

#[test]
fn postcopy_is_refused_because_a_vf_pins_all_memory() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    let destination = rig.destination(&format!("receiver_url={url},memory_mode=postcopy"));
    let message = rig
        .send(&url, ",memory_mode=postcopy")
        .expect_err("postcopy with a VF");
    assert!(message.to_lowercase().contains("postcopy"), "{message}");
    assert!(!rig.source.events().have("pausing"));
    rig.guest_still_works_at_the_source();
    drop(destination);
}

#[test]
fn a_vf_behind_a_virtual_iommu_is_refused() {
    let setup = Setup {
        device: ",iommu=on",
        ..Setup::default()
    };
    // The guest does not know how to map anything in it.
    let mut rig = Rig::without_a_wait(patched!(), &setup);
    let url = rig.tcp_url();
    let destination = rig.destination(&format!("receiver_url={url}"));
    let message = rig.send(&url, "").expect_err("a virtual IOMMU");
    assert!(message.to_lowercase().contains("iommu"), "{message}");
    assert!(!rig.source.events().have("pausing"));
    drop(destination);
}
