// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A source and a destination, and what has to hold for each when no state has moved.

use xe_vfio_device::device::DeviceError;
use xe_vfio_device::state::Outcome;
use xe_vfio_device::transfer::{LoadError, LoadReport, SaveError, SaveReport};

use crate::common::*;

pub type Sent = Result<SaveReport, DeviceError>;
pub type Received = Result<LoadReport, DeviceError>;

/// A source in STOP with VRAM of its own, and a destination ready for it.
#[track_caller]
pub fn pair(host: &TestHost, seed: u8) -> (Device, Device) {
    let (source, destination) = (host.device(1), host.device(2));
    source.passthrough().fill(seed);
    source.start().unwrap();
    source.quiesce().unwrap();
    source.stop().unwrap();
    destination.prepare_load().unwrap();
    (source, destination)
}

/// The source's guest runs on with its GPU.
#[track_caller]
pub fn assert_kept(host: &TestHost, source: &Device, seed: u8) {
    let before = host.resets(1);
    assert_eq!(source.give_back().unwrap(), Outcome::GpuStateKept);
    assert_eq!(host.resets(1), before);
    assert!(source.passthrough().holds(seed));
    assert_running(source.passthrough());
}

#[track_caller]
pub fn assert_clean(destination: &Device) {
    assert!(destination.passthrough().is_clean());
    assert_running(destination.passthrough());
}

#[track_caller]
pub fn save_error(sent: Sent) -> SaveError {
    match sent {
        Err(DeviceError::Save { source, .. }) => *source,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn load_error(received: Received) -> LoadError {
    match received {
        Err(DeviceError::Load { source, .. }) => *source,
        other => panic!("{other:?}"),
    }
}
