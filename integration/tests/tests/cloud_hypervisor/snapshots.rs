// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Snapshots hold device state in a file of the crate's format beside state.json.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use e2e::cloud_hypervisor::{Binaries, Rig, Setup};
use e2e::patched;

/// A rig whose VM has been saved and shut down, and the directory.
#[track_caller]
fn saved(binaries: Binaries, setup: &Setup) -> (Rig, PathBuf) {
    let mut rig = Rig::new(binaries, setup);
    rig.fill_vram();
    let directory = rig.directory("snapshot");
    rig.source.remote(&["pause"]).expect("pause");
    rig.source
        .remote(&["snapshot", &url(&directory)])
        .expect("snapshot");
    rig.source.shut_down().expect("the source ends");
    (rig, directory)
}

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}

#[track_caller]
fn restores(rig: &mut Rig, options: &str) {
    let restored = rig.restored("restored", options).expect("restore");
    rig.guest_works_on_in(&restored);
}

#[track_caller]
fn restore_is_refused(rig: &Rig, directory: &Path) -> String {
    match rig.restored("refused", &format!("source_url={}", url(directory))) {
        Ok(_) => panic!("a broken snapshot was restored"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn a_saved_vm_is_restored_with_its_gpu_and_goes_on() {
    let binaries = patched!();
    for setup in [Setup::default(), Setup::iommufd()] {
        let (mut rig, directory) = saved(binaries.clone(), &setup);
        restores(
            &mut rig,
            &format!("source_url={},resume=true", url(&directory)),
        );
    }
}

#[test]
fn a_saved_vm_is_restored_on_another_vf() {
    let (mut rig, directory) = saved(patched!(), &Setup::default());
    let path = rig.destination_host.vf_path(2);
    let options = format!(
        "source_url={},resume=true,vfio_paths=[vf0@{path}]",
        url(&directory)
    );
    restores(&mut rig, &options);
}

#[test]
fn a_saved_vm_with_several_vfs_is_restored() {
    let setup = Setup {
        vfs: 2,
        ..Setup::default()
    };
    let (mut rig, directory) = saved(patched!(), &setup);
    restores(
        &mut rig,
        &format!("source_url={},resume=true", url(&directory)),
    );
}

#[test]
fn a_vm_goes_on_after_it_has_been_saved() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let directory = rig.directory("snapshot");
    rig.source.remote(&["pause"]).expect("pause");
    rig.source
        .remote(&["snapshot", &url(&directory)])
        .expect("snapshot");
    rig.source.remote(&["resume"]).expect("resume");
    rig.guest_still_works_at_the_source();
}

#[test]
fn device_state_is_in_a_file_of_the_crates_format_and_never_in_the_json() {
    let (rig, directory) = saved(patched!(), &Setup::default());
    let size = |name: &str| std::fs::metadata(directory.join(name)).expect(name).len();
    assert!(size("state.json") < 1 << 20, "{}", size("state.json"));
    // All of VRAM but what only the guest has written to.
    assert!(size("vf0.xevf") > 12 << 20, "{}", size("vf0.xevf"));
    let file = directory.join("vf0.xevf");
    let command = rig.programs.xe_vfio();
    demo::host::run(&command, &["verify", file.to_str().expect("ASCII")]).expect("xe-vfio verify");
}

#[test]
fn a_vm_whose_vf_cannot_migrate_is_not_saved_without_it() {
    let setup = Setup {
        both_hosts: vec!["--no-migration"],
        ..Setup::default()
    };
    let mut rig = Rig::new(patched!(), &setup);
    let directory = rig.directory("snapshot");
    let refused = rig
        .source
        .remote(&["pause"])
        .and_then(|_| rig.source.remote(&["snapshot", &url(&directory)]));
    let message = format!("{:#}", refused.expect_err("a snapshot without its GPU"));
    assert!(message.contains("vf0"), "{message}");
    // It may have been paused by then.
    let _ = rig.source.remote(&["resume"]);
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_truncated_device_state_is_refused_by_name() {
    let (rig, directory) = saved(patched!(), &Setup::default());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(directory.join("vf0.xevf"))
        .expect("open");
    let half = file.metadata().expect("metadata").len() / 2;
    file.set_len(half).expect("truncate");
    let message = restore_is_refused(&rig, &directory);
    assert!(message.contains("vf0"), "{message}");
}

#[test]
fn an_altered_device_state_is_refused_by_its_checksum() {
    let (rig, directory) = saved(patched!(), &Setup::default());
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(directory.join("vf0.xevf"))
        .expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 6 << 20).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 6 << 20).expect("write");
    let message = restore_is_refused(&rig, &directory);
    assert!(message.to_lowercase().contains("checksum"), "{message}");
}

#[test]
fn a_missing_device_state_is_refused_by_name() {
    let (rig, directory) = saved(patched!(), &Setup::default());
    std::fs::remove_file(directory.join("vf0.xevf")).expect("remove");
    let message = restore_is_refused(&rig, &directory);
    assert!(message.contains("vf0.xevf"), "{message}");
}

#[test]
fn a_device_state_of_another_snapshot_is_refused() {
    let binaries = patched!();
    let (rig, directory) = saved(binaries.clone(), &Setup::default());
    let (_other, others) = saved(binaries, &Setup::default());
    std::fs::copy(others.join("vf0.xevf"), directory.join("vf0.xevf")).expect("copy");
    let message = restore_is_refused(&rig, &directory);
    assert!(
        message.contains("vf0") && message.contains("snapshot"),
        "{message}"
    );
}

#[test]
fn a_restored_vf_that_does_not_start_fails_the_restore() {
    let (rig, directory) = saved(patched!(), &Setup::default());
    rig.fault(
        &rig.destination_host,
        "arc:STOP->RUNNING_P2P",
        &["--errno", "EIO"],
    );
    let options = format!("source_url={},resume=true", url(&directory));
    match rig.restored("refused", &options) {
        Err(error) => assert!(format!("{error:#}").contains("EIO"), "{error:#}"),
        Ok(mut vmm) => {
            e2e::eventually("the VMM says what is wrong", || {
                vmm.complaints().contains("EIO")
            });
            assert!(!vmm.events().have("resumed"), "{}", vmm.last_words());
            vmm.kill().expect("kill");
        }
    }
}

#[test]
fn a_snapshot_whose_vf_cannot_be_saved_fails_and_the_guest_goes_on() {
    let mut rig = Rig::new(patched!(), &Setup::default());
    let directory = rig.directory("snapshot");
    rig.source.remote(&["pause"]).expect("pause");
    rig.fault(&rig.source_host, "arc:STOP->STOP_COPY", &["--errno", "EIO"]);
    let refused = rig.source.remote(&["snapshot", &url(&directory)]);
    let message = format!("{:#}", refused.expect_err("no device state"));
    assert!(message.contains("EIO"), "{message}");
    rig.source.remote(&["resume"]).expect("resume");
    rig.guest_still_works_at_the_source();
}
