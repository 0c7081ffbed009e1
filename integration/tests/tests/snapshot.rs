// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM with its GPU state is saved to a directory and restored from it.

use std::os::unix::fs::FileExt;

use e2e::{Rig, Setup};

/// A rig whose VM has been saved and shut down, and the directory's URL.
#[track_caller]
fn saved() -> (Rig, String) {
    let mut rig = Rig::new(&Setup::default());
    // Zeros take no room in a file: most of VRAM has content.
    rig.source_host
        .command("fill", &["--vf", "1", "random", "--from", "4M"])
        .expect("host-sim fill");
    let directory = rig.files.path().join("snapshot");
    std::fs::create_dir(&directory).expect("directory");
    let url = format!("file://{}", directory.display());
    rig.source.remote(&["pause"]).expect("pause");
    rig.source.remote(&["snapshot", &url]).expect("snapshot");
    rig.source.remote(&["shutdown"]).expect("shutdown");
    assert!(rig.source.wait().expect("end").success());
    (rig, url)
}

#[test]
fn a_saved_vm_is_restored_with_its_gpu_and_goes_on() {
    let (mut rig, url) = saved();
    let restored = rig
        .other_vmm(
            "restored",
            &["--restore".to_owned(), format!("source_url={url}")],
        )
        .expect("restore");
    restored.remote(&["resume"]).expect("resume");
    rig.serial.moved_to(restored.serial_path()).expect("serial");
    rig.guest_works(e2e::ALL_CHECKED);
}

#[test]
fn a_vm_goes_on_after_it_has_been_saved() {
    let mut rig = Rig::new(&Setup::default());
    let directory = rig.files.path().join("snapshot");
    std::fs::create_dir(&directory).expect("directory");
    rig.source.remote(&["pause"]).expect("pause");
    rig.source
        .remote(&["snapshot", &format!("file://{}", directory.display())])
        .expect("snapshot");
    rig.source.remote(&["resume"]).expect("resume");
    rig.guest_still_works_at_the_source();
}

#[test]
fn device_state_is_never_in_the_json() {
    let (rig, _) = saved();
    let state =
        std::fs::metadata(rig.files.path().join("snapshot/state.json")).expect("state.json");
    let blob = std::fs::metadata(rig.files.path().join("snapshot/vf1.xevf")).expect("vf1.xevf");
    assert!(
        state.len() < 1 << 20,
        "state.json has {} bytes",
        state.len()
    );
    // All of VRAM but what only the guest has written to.
    assert!(blob.len() >= 60 << 20, "vf1.xevf has {} bytes", blob.len());
}

#[track_caller]
fn restore_is_refused(rig: &Rig, url: &str) -> String {
    match rig.other_vmm(
        "refused",
        &["--restore".to_owned(), format!("source_url={url}")],
    ) {
        Ok(_) => panic!("a broken snapshot was restored"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn a_truncated_device_state_is_refused_by_name() {
    let (rig, url) = saved();
    let path = rig.files.path().join("snapshot/vf1.xevf");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("open");
    file.set_len(file.metadata().expect("metadata").len() / 2)
        .expect("truncate");
    let message = restore_is_refused(&rig, &url);
    assert!(message.contains("vf1"), "{message}");
}

#[test]
fn an_altered_device_state_is_refused_by_its_checksum() {
    let (rig, url) = saved();
    let path = rig.files.path().join("snapshot/vf1.xevf");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 30 << 20).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 30 << 20).expect("write");
    let message = restore_is_refused(&rig, &url);
    assert!(message.to_lowercase().contains("checksum"), "{message}");
}

#[test]
fn a_device_state_of_another_snapshot_is_refused() {
    let (rig, url) = saved();
    let (other, _) = saved();
    let part = |rig: &Rig| rig.files.path().join("snapshot/vf1.xevf");
    std::fs::copy(part(&other), part(&rig)).expect("copy");
    let message = restore_is_refused(&rig, &url);
    assert!(
        message.contains("vf1") && message.contains("snapshot"),
        "{message}"
    );
}

#[test]
fn a_restored_vf_that_does_not_start_fails_the_restore() {
    let (rig, url) = saved();
    for arc in ["arc:STOP->RUNNING_P2P", "arc:RUNNING_P2P->RUNNING"] {
        let fault = ["--vf", "1", "--op", arc, "--errno", "EIO"];
        rig.destination_host
            .command("fault", &fault)
            .expect("host-sim fault");
        let message = restore_is_refused(&rig, &url);
        assert!(message.contains("EIO"), "{arc}: {message}");
        let status = rig.vf_status(&rig.destination_host);
        assert!(
            status["opener"].is_null() || status["state"] == "RUNNING",
            "{arc}: {status}"
        );
    }
}

#[test]
fn a_restored_guest_whose_vf_was_reset_is_never_resumed() {
    let (rig, url) = saved();
    let restore = format!("source_url={url},resume=off");
    let restored = rig
        .other_vmm("restored", &["--restore".to_owned(), restore])
        .expect("restore");
    let fault = "--vf 1 --op arc:STOP->RUNNING_P2P --errno EIO".split(' ');
    rig.destination_host
        .command("fault", &fault.collect::<Vec<_>>())
        .expect("host-sim fault");
    let first = restored.remote(&["resume"]).expect_err("a lost GPU");
    assert!(first.to_string().contains("EIO"), "{first}");
    let second = restored.remote(&["resume"]).expect_err("a lost GPU");
    assert!(second.to_string().contains("lost"), "{second}");
}

#[test]
fn the_device_state_of_a_snapshot_is_read_by_the_command_too() {
    let (rig, _) = saved();
    let file = rig.files.path().join("snapshot/vf1.xevf");
    let command = rig.programs.xe_vfio();
    let run = |verb: &str| demo::host::run(&command, &[verb, file.to_str().expect("a path")]);
    run("verify").expect("xe-vfio verify");
    run("inspect").expect("xe-vfio inspect");
}
