// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saves that end in STOP_COPY, and all ways from there.

use super::*;
use crate::state::fake::Fault;

/// A source in STOP_COPY whose state a destination has loaded.
fn sent_and_not_left() -> (Device, Arc<Vmm>) {
    let (source, source_vmm) = paused(102_400);
    source.leave_later(true);
    let (destination, destination_vmm) = device(7);
    destination.prepare_load().unwrap();
    let (sent, loaded) = moved(&source, &destination);
    sent.unwrap();
    loaded.unwrap();
    assert_eq!(
        destination_vmm.vf.kernel().gpu,
        Gpu::Guest(packets(102_400))
    );
    assert_eq!(source.info().state, Some(DeviceState::StopCopy));
    assert_eq!(source_vmm.vf.kernel().state, DeviceState::StopCopy);
    (source, source_vmm)
}

#[test]
fn stop_copy_is_left_once_the_destination_runs() {
    let (source, vmm) = sent_and_not_left();
    source.handed_over();
    source.leave_stop_copy().unwrap();
    assert_eq!(vmm.vf.kernel().state, DeviceState::Stop);
    source.leave_stop_copy().unwrap();
    assert!(matches!(
        source.give_back(),
        Err(DeviceError::HandedOver { .. })
    ));
    vmm.vf.assert_clean_use();
}

#[test]
fn a_source_takes_its_guest_back_from_stop_copy() {
    let (source, vmm) = sent_and_not_left();
    assert_eq!(source.give_back().unwrap(), Outcome::GpuStateKept);
    let kernel = vmm.vf.kernel();
    assert_eq!(kernel.state, DeviceState::Running);
    assert_eq!(kernel.gpu, Gpu::Guest(packets(102_400)));
    let way = [
        DeviceState::Stop,
        DeviceState::RunningP2p,
        DeviceState::Running,
    ];
    assert!(kernel.log.ends_with(&way), "{:?}", kernel.log);
    assert_eq!(kernel.resets, 0);
    drop(kernel);
    vmm.vf.assert_clean_use();
}

#[test]
fn a_group_comes_back_from_stop_copy_with_all_in_p2p_before_any_runs() {
    let (first, first_vmm) = sent_and_not_left();
    let (second, second_vmm) = sent_and_not_left();
    let notes = Mutex::default();
    let noting = [Noting(&first, &notes), Noting(&second, &notes)];
    let members = noting.each_ref().map(|member| member as &dyn GroupMember);
    for member in members {
        member.unstop().unwrap();
    }
    for device in [&first, &second] {
        assert_eq!(device.info().state, Some(DeviceState::RunningP2p));
    }
    assert!(DeviceGroup::new(&members).give_back().all_kept());
    for vmm in [first_vmm, second_vmm] {
        assert_eq!(vmm.vf.kernel().gpu, Gpu::Guest(packets(102_400)));
        vmm.vf.assert_clean_use();
    }
}

#[test]
fn an_arc_that_fails_after_the_hand_over_is_told_and_touches_no_guest() {
    let (source, vmm) = sent_and_not_left();
    let leave = Call::Arc(DeviceState::StopCopy, DeviceState::Stop);
    vmm.vf.kernel().faults.push(Fault {
        call: leave,
        nth: 0,
        errno: libc::EIO,
        done: false,
    });
    source.handed_over();
    let error = source.leave_stop_copy().unwrap_err();
    assert!(matches!(error, DeviceError::Transition { .. }), "{error}");
    assert_eq!(vmm.vf.kernel().resets, 0);
    source.leave_stop_copy().unwrap();
    assert_eq!(vmm.vf.kernel().state, DeviceState::Stop);
}

#[test]
fn a_save_that_fails_ends_in_stop_all_the_same() {
    let (source, vmm) = paused(102_400);
    source.leave_later(true);
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(there);
    assert!(source.send_over(here).is_err());
    assert_eq!(vmm.vf.kernel().state, DeviceState::Stop);
    let dir = tempfile::tempdir().unwrap();
    source
        .send_to(&Endpoint::File(dir.path().join("state")))
        .unwrap();
    assert_eq!(vmm.vf.kernel().state, DeviceState::Stop, "a file too");
    vmm.vf.assert_clean_use();
}
