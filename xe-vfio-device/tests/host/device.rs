// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices and groups on a simulated host.

use host_sim::host::HostConfig;
use host_sim::vf::Op;
use xe_vfio_device::device::{DeviceError, DeviceGroup, GroupMember, Support};
use xe_vfio_device::state::DeviceState;

use crate::common::*;

#[test]
fn a_group_that_cannot_pause_runs_on_with_its_gpus() {
    for arc in ["arc:RUNNING->RUNNING_P2P", "arc:RUNNING_P2P->STOP"] {
        let host = TestHost::new();
        let devices = [host.device(1), host.device(2)];
        for (device, seed) in devices.iter().zip(1..) {
            device.passthrough().fill(seed);
        }
        host.fail(2, arc.parse::<Op>().unwrap(), 1, libc::ETIMEDOUT);
        let members: [&dyn GroupMember; 2] = [&devices[0], &devices[1]];
        let error = DeviceGroup::new(&members).pause().unwrap_err();
        assert!(error.report.all_kept(), "{error}");
        for (device, seed) in devices.iter().zip(1..) {
            assert!(device.passthrough().holds(seed));
            assert_eq!(device.info().state, Some(DeviceState::Running));
        }
    }
}

#[test]
fn a_vf_that_cannot_migrate_is_refused_before_anything_moves() {
    let host = TestHost::with(&HostConfig {
        migration: false,
        ..config()
    });
    let device = host.device(1);
    assert!(matches!(device.support(), Support::Refused(_)));
    let error = device.start().unwrap_err();
    assert!(matches!(error, DeviceError::Unsupported { .. }));
}

#[test]
fn the_manifest_tells_what_the_host_shows() {
    let host = TestHost::new();
    let manifest = host.device(1).manifest().unwrap();
    assert_eq!(manifest.device_id, "vf0");
    assert_eq!(manifest.migration_flags, 3);
    assert_eq!(manifest.pci.device, 0xe211);
    assert_eq!(manifest.bars[0], 8 * MIB);
    assert_eq!(manifest.bars[2], VRAM.next_power_of_two());
    assert!(manifest.stop_copy_length >= VRAM);
}
