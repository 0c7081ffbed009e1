// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each arc of the driver with each errno it may fail with: what is told, where the VF is, and what becomes of the GPU state.

use host_sim::vf::Op;
use xe_vfio_device::state::arcs::ARCS;
use xe_vfio_device::state::{AnyVf, DeviceState, Outcome, Stuck, TransitionError};
use xe_vfio_device::uapi::Errno;

use crate::common::*;

const ERRNOS: [i32; 8] = [
    libc::ETIMEDOUT,
    libc::EIO,
    libc::EPERM,
    libc::ESTALE,
    libc::EALREADY,
    libc::ECANCELED,
    libc::EUCLEAN,
    libc::EINTR,
];

/// Takes the device as far as `from`.
#[track_caller]
fn walk(device: &Passed, from: DeviceState) -> AnyVf<Kernel> {
    match from {
        DeviceState::Running => device.running().into(),
        DeviceState::RunningP2p => device.running().quiesce().unwrap().into(),
        DeviceState::Stop => device.stopped().into(),
        DeviceState::StopCopy => {
            let mut saving = device.stopped().save().unwrap();
            saving.drain(&mut vec![0; 1 << 20], &mut |_| {}).unwrap();
            saving.into()
        }
        DeviceState::Resuming => device.stopped().load().unwrap().into(),
    }
}

fn step(vf: AnyVf<Kernel>, to: DeviceState) -> Result<AnyVf<Kernel>, Stuck<Kernel>> {
    match (vf, to) {
        (AnyVf::Running(vf), DeviceState::RunningP2p) => vf.quiesce().map(AnyVf::from),
        (AnyVf::RunningP2p(vf), DeviceState::Running) => vf.run().map(AnyVf::from),
        (AnyVf::RunningP2p(vf), DeviceState::Stop) => vf.stop().map(AnyVf::from),
        (AnyVf::Stopped(vf), DeviceState::RunningP2p) => vf.unstop().map(AnyVf::from),
        (AnyVf::Stopped(vf), DeviceState::StopCopy) => vf.save().map(AnyVf::from),
        (AnyVf::Stopped(vf), DeviceState::Resuming) => vf.load().map(AnyVf::from),
        (AnyVf::Saving(vf), DeviceState::Stop) => vf.finish().map(AnyVf::from),
        (AnyVf::Loading(vf), DeviceState::Stop) => vf.finish().map(AnyVf::from),
        (vf, to) => panic!("{vf} to {to}"),
    }
}

#[test]
fn every_arc_that_fails_is_told_with_its_errno_and_both_states() {
    let host = TestHost::new();
    for (from, to) in ARCS {
        let device = host.open(1);
        let op: Op = format!("arc:{from}->{to}").parse().unwrap();
        for errno in ERRNOS {
            let vf = walk(&device, from);
            host.fail(1, op, 1, errno);
            let stuck = step(vf, to).unwrap_err();
            let TransitionError::Refused(error) = stuck.error else {
                panic!("{stuck}")
            };
            assert_eq!(error.errno, Errno(errno), "{from} to {to}");
            assert_eq!(error.before, Some(from));
            assert_eq!(error.asked, Some(to));
            assert_eq!(stuck.vf.state(), Some(from), "nothing of the arc was done");
            let outcome = recovered(stuck.vf);
            let kept = from != DeviceState::Resuming;
            assert_eq!(
                outcome == Outcome::GpuStateKept,
                kept,
                "{from} to {to} with {}: {outcome:?}",
                Errno(errno)
            );
            assert_running(&device);
        }
    }
}

#[test]
fn a_way_back_that_fails_once_keeps_the_gpu_state_and_twice_loses_it() {
    for (from, to) in [
        (DeviceState::Stop, DeviceState::RunningP2p),
        (DeviceState::RunningP2p, DeviceState::Running),
    ] {
        for failures in [1, 2] {
            let host = TestHost::new();
            let device = host.open(1);
            device.fill(9);
            let vf = device.stopped();
            let op: Op = format!("arc:{from}->{to}").parse().unwrap();
            for nth in 1..=failures {
                host.fail(1, op, nth, libc::ETIMEDOUT);
            }
            let outcome = recovered(vf);
            assert_eq!(
                outcome == Outcome::GpuStateKept,
                failures == 1,
                "{outcome:?}"
            );
            assert_eq!(device.holds(9), failures == 1);
            assert_running(&device);
        }
    }
}
