// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What else may be asked of a VM that is under way.

use e2e::cloud_hypervisor::{Rig, Setup, vf_status};
use e2e::{eventually, patched};

#[test]
fn devices_cannot_be_added_or_removed_during_a_migration() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let slow = ["--nth", "5", "--delay-ms", "3000"];
    rig.fault(&rig.source_host, "read", &slow);
    let url = rig.tcp_url();
    let mut destination = rig.destination(&format!("receiver_url={url}"));
    rig.begin_to_send(&url, "").expect("it begins");
    eventually("the source saves", || {
        vf_status(&rig.source_host, 1)["state"] == "STOP_COPY"
    });
    let other = format!("path={},id=vf9", rig.source_host.vf_path(2));
    for call in [["remove-device", "vf0"], ["add-device", &other]] {
        let refused = rig.source.remote(&call);
        let message = format!("{:#}", refused.expect_err("a VM under way"));
        assert!(message.contains("igrat"), "{call:?}: {message}");
    }
    destination.answer().expect("it is received");
    rig.guest_works_on_in(&destination);
}

#[test]
fn a_vf_that_was_plugged_in_later_moves_too() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let other = format!("path={},id=vf1", rig.source_host.vf_path(2));
    rig.source
        .remote(&["add-device", &other])
        .expect("a second VF");
    let url = rig.tcp_url();
    let _moved = rig.migrates(&url, "");
    let status = vf_status(&rig.destination_host, 2);
    assert_eq!(status["state"], "RUNNING", "{status}");
    assert!(!status["opener"].is_null(), "{status}");
}

#[test]
fn a_source_that_is_preserved_keeps_its_vf_stopped() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.unix_url();
    let path = rig.source_host.vf_path(2);
    let receive = format!("receiver_url={url},vfio_paths=[vf0@{path}]");
    let mut destination = rig.destination_on(&rig.source_host, &receive);
    rig.send(&url, ",local=on,preserve_source=on")
        .expect("the migration");
    destination.answer().expect("it is received");
    rig.guest_works_on_in(&destination);
    let status = vf_status(&rig.source_host, 1);
    assert_eq!(status["state"], "STOP", "{status}");
    assert!(!status["opener"].is_null(), "{status}");
}
