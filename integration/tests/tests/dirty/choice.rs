// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which strategy a VF gets, by what its host has and by name.

use e2e::{Rig, Setup};

use crate::*;

#[track_caller]
fn chosen(setup: &Setup) -> (String, String) {
    let mut rig = Rig::new(setup);
    storm(&rig.source_host, &STORM);
    let source = rig.source.log();
    assert!(!source.contains("dirty strategy"), "{source}");
    let url = rig.unix_url();
    let destination = rig.destination(&url);
    let answer = rig
        .source
        .remote(&["send-migration", &url])
        .expect("it moves");
    let log = rig.source.log();
    settle_in(&mut rig, destination);
    let kind = answer["dirty"]["strategies"]["vf1"].as_str();
    (kind.expect("a strategy").to_owned(), log)
}

#[test]
fn a_device_that_logs_goes_before_an_iommu_that_does() {
    let mut setup = setup("iommu");
    setup.both_hosts.push("--dma-logging");
    assert_eq!(chosen(&setup).0, "device");
}

#[test]
fn an_iommu_goes_before_content_and_the_reason_is_logged() {
    let (kind, log) = chosen(&setup("iommu"));
    assert_eq!(kind, "iommu");
    assert!(
        log.contains("no device: ") && log.contains("ENOTTY"),
        "{log}"
    );
}

#[test]
fn a_strategy_that_is_named_goes_before_all_that_there_are() {
    let mut setup = setup("iommu");
    setup.both_hosts.push("--dma-logging");
    setup.vmm.extend(["--dirty", "content"]);
    assert_eq!(chosen(&setup).0, "content");
}

#[test]
fn a_strategy_that_is_named_and_not_there_ends_the_migration_before_it_begins() {
    let mut setup = setup("content");
    setup.vmm = vec!["--dirty", "iommu"];
    let mut rig = Rig::new(&setup);
    let url = rig.unix_url();
    let _destination = rig.destination(&url);
    let error = rig.fails_to_migrate(&url);
    assert!(error.contains("without --iommufd"), "{error}");
    assert!(error.contains("never paused"), "{error}");
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_log_that_cannot_be_read_gives_the_guest_back_to_the_source() {
    let mut rig = Rig::new(&setup("iommu"));
    storm(&rig.source_host, &STORM);
    let fault = ["--vf", "1", "--op", "get-dirty-bitmap", "--errno", "EIO"];
    rig.source_host.command("fault", &fault).expect("a fault");
    let url = rig.unix_url();
    let _destination = rig.destination(&url);
    let error = rig.fails_to_migrate(&url);
    assert!(
        error.contains("IOMMU_HWPT_GET_DIRTY_BITMAP failed with EIO"),
        "{error}"
    );
    rig.guest_still_works_at_the_source();
}
