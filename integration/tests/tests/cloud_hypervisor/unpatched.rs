// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The baseline: what Cloud Hypervisor without our patches does with an Xe VF.

use e2e::cloud_hypervisor::{CloudHypervisor, Destination, Rig, Setup};
use e2e::unpatched;

/// A destination as the unpatched one wants it: VF 1's device node and an iommufd, opened by somebody else.
#[track_caller]
pub fn destination_with_files(rig: &Rig, url: &str) -> Destination {
    let vmm = rig.empty_vmm("destination", &rig.destination_host);
    let vmm: CloudHypervisor = vmm.expect("the destination VMM starts");
    let receive = format!("receiver_url={url},vfio_fds=[vf0@3],iommufd_fd=4");
    let files = ["/dev/vfio/devices/vfio0", "/dev/iommu"];
    Destination::with_files(vmm, &receive, &files).expect("the destination waits")
}

#[test]
fn precopy_of_a_vf_without_a_dirty_log_is_refused_and_the_errno_is_lost() {
    let mut rig = Rig::new(unpatched!(), &Setup::iommufd());
    let url = rig.tcp_url();
    let destination = destination_with_files(&rig, &url);
    let (failed, _) = rig.fails_to_migrate_to(destination, &url, "");
    assert!(
        failed
            .message
            .ends_with("VFIO start_dma_logging: Kernel VFIO error"),
        "{failed:?}"
    );
}

#[test]
fn a_destination_without_open_device_files_refuses_and_nobody_says_why() {
    let mut rig = Rig::new(unpatched!(), &Setup::default());
    let url = rig.tcp_url();
    let failed = rig.fails_to_migrate(&url, "");
    assert!(failed.message.contains("config"), "{failed:?}");
    assert!(
        !failed.complaints.contains("replacement"),
        "the reason is told: {failed:?}"
    );
}

#[test]
fn a_vf_with_a_dirty_log_is_migrated_through_iommufd() {
    let mut rig = Rig::new(
        unpatched!(),
        &Setup {
            both_hosts: vec!["--dma-logging"],
            ..Setup::iommufd()
        },
    );
    let url = rig.tcp_url();
    let destination = destination_with_files(&rig, &url);
    rig.migrates_to(destination, &url, "");
}

#[test]
fn a_paused_vm_is_resumed_with_its_gpu() {
    let mut rig = Rig::new(unpatched!(), &Setup::default());
    rig.source.remote(&["pause"]).expect("pause");
    rig.source.remote(&["resume"]).expect("resume");
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_snapshot_has_the_device_state_in_its_json_and_is_restored() {
    let mut rig = Rig::new(unpatched!(), &Setup::default());
    let directory = rig.directory("snapshot");
    let url = format!("file://{}", directory.display());
    rig.source.remote(&["pause"]).expect("pause");
    rig.source.remote(&["snapshot", &url]).expect("snapshot");
    rig.source.shut_down().expect("the source ends");
    let json = std::fs::metadata(directory.join("state.json")).expect("state.json");
    assert!(
        json.len() > 20 << 20,
        "16 MiB of VRAM are {} bytes of JSON",
        json.len()
    );
    let restored = rig
        .restored("restored", &format!("source_url={url},resume=true"))
        .expect("restore");
    rig.guest_works_on_in(&restored);
}

#[test]
fn a_vm_whose_vf_cannot_migrate_is_saved_without_its_gpu_and_nothing_is_said() {
    let rig = Rig::new(
        unpatched!(),
        &Setup {
            both_hosts: vec!["--no-migration"],
            ..Setup::default()
        },
    );
    let directory = rig.directory("snapshot");
    rig.source.remote(&["pause"]).expect("pause");
    rig.source
        .remote(&["snapshot", &format!("file://{}", directory.display())])
        .expect("it is taken all the same");
    let json = std::fs::metadata(directory.join("state.json")).expect("state.json");
    assert!(json.len() < 1 << 20, "{} bytes of JSON", json.len());
}
