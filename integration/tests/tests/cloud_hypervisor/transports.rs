// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every way by which a VM travels.

use e2e::cloud_hypervisor::{Rig, Setup, tls};
use e2e::patched;

#[test]
fn a_working_guest_moves_over_tcp() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    rig.migrates(&url, "");
}

#[test]
fn a_working_guest_moves_over_several_tcp_connections() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.tcp_url();
    rig.migrates(&url, ",connections=4");
}

#[test]
fn a_working_guest_moves_over_tls() {
    let binaries = patched!();
    if !tls::is_available() {
        println!("skipped: a_working_guest_moves_over_tls: there is no openssl command");
        return;
    }
    let mut rig = Rig::new(binaries, &Setup::default());
    let keys = rig.directory("tls");
    tls::create(&keys).expect("certificates");
    let url = rig.tcp_url();
    let tls = format!(",tls_dir={}", keys.display());
    let destination = rig.destination(&format!("receiver_url={url}{tls}"));
    rig.migrates_to(destination, &url, &format!("{tls},connections=2"));
}

#[test]
fn a_working_guest_moves_over_a_unix_socket() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.unix_url();
    rig.migrates(&url, "");
}

#[test]
fn a_working_guest_moves_to_another_vf_of_its_host_with_its_memory_shared() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.unix_url();
    let receive = format!(
        "receiver_url={url},vfio_paths=[vf0@{}]",
        rig.source_host.vf_path(2)
    );
    let destination = rig.destination_on(&rig.source_host, &receive);
    rig.fill_vram();
    rig.migrates_to(destination, &url, ",local=on");
    let events = rig.source.events();
    let saved = events.first("device-state-saved").expect("its state");
    let bytes = |key: &str| {
        let text = saved.properties[key].as_str().unwrap_or_default();
        text.parse::<u64>().expect("a number")
    };
    assert!(
        bytes("bytes") > 16 << 20 && bytes("wire") < 1000,
        "the state went through a socket: {saved:?}"
    );
}

#[test]
fn a_load_of_a_descriptor_that_fails_leaves_the_guest_at_the_source() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.unix_url();
    let receive = format!(
        "receiver_url={url},vfio_paths=[vf0@{}]",
        rig.source_host.vf_path(2)
    );
    let fault = ["--vf", "2", "--op", "write", "--nth", "3", "--errno", "EIO"];
    rig.source_host.command("fault", &fault).expect("a fault");
    let destination = rig.destination_on(&rig.source_host, &receive);
    let (failed, _) = rig.fails_to_migrate_to(destination, &url, ",local=on");
    assert!(failed.message.contains("EIO"), "{failed:?}");
}

#[test]
fn a_vf_used_through_iommufd_moves() {
    let mut rig = Rig::new(patched!(), &Setup::iommufd());
    let url = rig.tcp_url();
    rig.migrates(&url, "");
}

#[test]
fn three_vfs_of_one_vm_move_together() {
    let setup = Setup {
        vfs: 3,
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    let url = rig.tcp_url();
    rig.migrates(&url, "");
}

#[test]
fn a_vf_with_a_media_gt_moves() {
    let setup = Setup {
        both_hosts: vec!["--gts", "2"],
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    let url = rig.unix_url();
    rig.migrates(&url, "");
}

#[test]
fn a_vm_moves_on_from_where_it_has_moved_to() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let url = rig.unix_url();
    let moved = rig.migrates(&url, "");
    rig.source = moved.destination.into_vmm();
    let back = rig.tcp_url();
    let vmm = rig.empty_vmm("third", &rig.source_host).expect("a VMM");
    let third = e2e::cloud_hypervisor::Destination::new(vmm, &format!("receiver_url={back}"))
        .expect("it waits");
    rig.migrates_to(third, &back, "");
}

#[test]
fn a_paused_vm_moves_and_is_resumed_at_the_destination() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    rig.source.remote(&["pause"]).expect("pause");
    let url = rig.tcp_url();
    let mut destination = rig.destination(&format!("receiver_url={url}"));
    rig.send(&url, "").expect("the migration");
    destination.answer().expect("it is received");
    let quiet = rig.serial.read().expect("serial").verified();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(
        rig.serial.read().expect("serial").verified(),
        quiet,
        "the guest works although it was paused"
    );
    destination.remote(&["resume"]).expect("resume");
    rig.guest_works_on_in(&destination);
}

#[test]
fn vram_that_the_guest_does_not_touch_arrives_unchanged() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let fill = ["--vf", "1", "random", "--from", "4M", "--seed", "7"];
    rig.source_host.command("fill", &fill).expect("fill");
    let beyond = ["--vf", "1", "--from", "4M"];
    let before = rig.source_host.command("digest", &beyond).expect("digest");
    let url = rig.tcp_url();
    let _moved = rig.migrates(&url, "");
    let after = rig.destination_host.command("digest", &beyond);
    assert_eq!(before, after.expect("digest"));
}
