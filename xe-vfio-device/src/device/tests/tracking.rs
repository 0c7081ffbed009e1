// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The strategies of a VM's VFs, and when they are used.

use super::*;
use crate::dirty::{DmaLog, GuestPages, Kind, Pause, Wish};

impl DmaLog for FakeVf {
    fn probe(&self) -> Result<(), UapiError> {
        Err(UapiError::new("PROBE", Errno(libc::ENOTTY)))
    }

    fn start(&self, _ranges: &[GuestRange], _page: u64) -> Result<u64, UapiError> {
        unreachable!("a device without a log is not asked to start one")
    }

    fn report(&self, _range: GuestRange, _page: u64, _bits: &mut [u64]) -> Result<(), UapiError> {
        unreachable!("a device without a log is not asked for it")
    }

    fn stop(&self) -> Result<(), UapiError> {
        unreachable!("a device without a log is not asked to stop it")
    }
}

struct Zeros;

impl GuestPages for Zeros {
    fn read(&self, _gpa: u64, to: &mut [u8]) -> anyhow::Result<()> {
        to.fill(0);
        Ok(())
    }
}

#[track_caller]
fn tracking(devices: &[&Device], wish: Wish, limit: Duration) -> Tracking {
    Tracking::choose(devices.iter().copied(), wish, Pause { limit }, Zeros).unwrap()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn vfs_without_a_log_share_the_fingerprints_of_memory() {
    let (a, _) = device_of("vf0", FakeVf::new(packets(7), RING));
    let (b, _) = device_of("vf1", FakeVf::new(packets(7), RING));
    let tracking = tracking(&[&a, &b], Wish::Auto, SECOND);
    let kinds: Vec<_> = (tracking.choices().iter())
        .map(|(id, choice)| (id.as_str(), choice.kind))
        .collect();
    assert_eq!(kinds, [("vf0", Kind::Content), ("vf1", Kind::Content)]);
    assert_eq!(
        (a.dirty_strategy(), b.dirty_strategy()),
        ("content", "content")
    );
    a.start_dma_log().unwrap();
    b.start_dma_log().unwrap();
    let one_megabyte = (1 << 20) / 4096 * 16;
    assert_eq!(tracking.fingerprints().unwrap().memory(), one_megabyte);
}

#[test]
fn a_strategy_that_the_host_has_not_is_refused_by_the_name_of_the_vf() {
    let (vf, _) = device(7);
    let wish = Wish::Only(Kind::Iommu);
    let refused = Tracking::choose([&vf], wish, Pause::default(), Zeros);
    let Err(DeviceError::Dirty { id, source }) = refused else {
        panic!("it was not refused");
    };
    assert_eq!(id, "vf0");
    assert!(source.to_string().contains("iommu"), "{source}");
    assert_eq!(vf.dirty_strategy(), "all", "and nothing has changed");
}

#[test]
fn the_window_is_for_what_is_found_in_it_and_fits() {
    let (vf, _) = device(7);
    let at = |wish, limit| {
        let tracking = tracking(&[&vf], wish, limit);
        vf.start_dma_log().unwrap();
        tracking.rehearse().unwrap();
        tracking
    };
    assert_eq!(at(Wish::Auto, SECOND).when(1e9), When::GuestRuns);
    for (wish, limit, why) in [
        (Wish::Only(Kind::All), SECOND, "nothing tells what vf0"),
        (Wish::Auto, Duration::ZERO, "may not pause"),
        (Wish::Auto, Duration::from_nanos(1), "more than the limit"),
    ] {
        match at(wish, limit).when(1e9) {
            When::GuestIsStopped { why: told } => assert!(told.contains(why), "{told}"),
            When::GuestRuns => panic!("there is no window when {why}"),
        }
    }
    assert!(matches!(
        tracking(&[], Wish::Auto, SECOND).when(1e9),
        When::GuestIsStopped { .. }
    ));
}

#[test]
fn a_window_that_is_over_leaves_the_comparison_to_the_stop() {
    let (vf, _) = device(7);
    let tracking = tracking(&[&vf], Wish::Auto, Duration::from_nanos(1));
    vf.start_dma_log().unwrap();
    tracking.begin_window();
    vf.quiesce().unwrap();
    assert_eq!(vf.dma_written().unwrap(), []);
    assert_eq!(tracking.last_comparison().unwrap().left, 1 << 20);
    tracking.end_window();
    assert_eq!(vf.dma_written().unwrap(), []);
    let rest = tracking.last_comparison().unwrap();
    assert_eq!((rest.covered, rest.left), (1 << 20, 0));
}
