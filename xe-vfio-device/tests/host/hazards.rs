// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's hazards by name.

use std::time::{Duration, Instant};

use host_sim::host::HostConfig;
use host_sim::vf::{Effect, Op};
use xe_vfio_device::state::{
    AnyVf, DeviceState, MigrationDevice, Outcome, ResetReason, StateError, TransitionError,
    clean_for_load, reset_to_running,
};
use xe_vfio_device::uapi::{Errno, MigrationFlags};

use crate::common::*;

#[test]
fn a_save_left_undrained_costs_the_gpu_state_and_says_so() {
    let host = TestHost::new();
    let device = host.open(1);
    device.fill(1);
    let saving = device.stopped().save().unwrap();
    drop(saving);
    // As somebody else's session that lost its fd.
    let AnyVf::StreamDead(dead) = AnyVf::open(device.kernel()) else {
        panic!("a session without its fd")
    };
    let stuck = dead.stop().unwrap_err();
    assert!(
        matches!(stuck.error, TransitionError::Refused(error) if error.errno == Errno(libc::EIO))
    );
    assert!(matches!(recovered(stuck.vf), Outcome::Reset { .. }));
    assert!(device.is_clean());
}

#[test]
fn a_cancelled_save_gives_the_guest_its_gpu_back() {
    let host = TestHost::new();
    let device = host.open(1);
    device.fill(2);
    let mut saving = device.stopped().save().unwrap();
    saving.read(&mut [0; 4096]).unwrap();
    assert_eq!(recovered(saving), Outcome::GpuStateKept);
    assert!(device.holds(2));
    assert_running(&device);
}

/// Reads the whole state of VF 2 of a host.
fn whole_stream(host: &TestHost) -> Vec<u8> {
    let device = host.open(2);
    device.fill(9);
    let mut saving = device.stopped().save().unwrap();
    let (mut stream, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match saving.read(&mut buffer).unwrap() {
            0 => break,
            count => stream.extend_from_slice(&buffer[..count]),
        }
    }
    saving.finish().unwrap();
    stream
}

/// Leaves VF 1 with a packet that was cut short, closed.
fn cut_a_packet_short(host: &TestHost) {
    let device = host.open(1);
    let mut saving = device.stopped().save().unwrap();
    // The descriptor packet has 40 bytes; this ends within the next one.
    saving.read(&mut [0; 100]).unwrap();
    saving.reset().unwrap();
}

#[test]
fn a_packet_cut_short_by_another_process_spoils_a_load_on_a_vf_that_was_only_reset() {
    let host = TestHost::new();
    let stream = whole_stream(&host);
    cut_a_packet_short(&host);
    let mut loading = host.open(1).stopped().load().unwrap();
    let written = loading.write_all(&stream);
    assert!(
        written.is_err() || loading.finish().is_err(),
        "the hazard is not simulated any more"
    );
}

#[test]
fn a_cleaned_vf_takes_a_load_whatever_another_process_left_in_it() {
    let host = TestHost::new();
    let stream = whole_stream(&host);
    cut_a_packet_short(&host);
    let device = host.open(1);
    let clean = clean_for_load(device.running().into()).unwrap();
    let mut loading = clean.quiesce().unwrap().stop().unwrap().load().unwrap();
    loading.write_all(&stream).unwrap();
    loading.finish().unwrap();
    assert!(device.holds(9));
}

#[test]
fn a_load_without_its_trailer_times_out_and_is_reset() {
    let host = TestHost::new();
    let device = host.open(1);
    device.fill(3);
    let stuck = device.stopped().load().unwrap().finish().unwrap_err();
    let TransitionError::Refused(error) = stuck.error else {
        panic!("{stuck}")
    };
    assert_eq!(error.errno, Errno(libc::ETIMEDOUT));
    assert_eq!(stuck.vf.state(), Some(DeviceState::Resuming));
    let why = ResetReason::LoadAborted;
    assert_eq!(recovered(stuck.vf), Outcome::Reset { why });
    assert!(device.is_clean());
}

#[test]
fn without_a_free_fd_the_vf_is_in_stop_copy_and_only_a_reset_may_help() {
    let host = TestHost::new();
    let device = host.open(1);
    let vf = device.stopped();
    host.fail(1, Op::EmfileOnDataFd, 1, libc::EMFILE);
    let stuck = vf.save().unwrap_err();
    assert!(
        matches!(stuck.error, TransitionError::Refused(error) if error.errno == Errno(libc::EMFILE))
    );
    assert!(matches!(&stuck.vf, AnyVf::StreamDead(vf) if vf.dead_state() == DeviceState::StopCopy));
    assert!(matches!(recovered(stuck.vf), Outcome::Reset { .. }));
    assert_running(&device);
}

#[test]
fn an_interrupted_read_loses_the_stream_for_good() {
    let host = TestHost::new();
    let device = host.open(1);
    let mut saving = device.stopped().save().unwrap();
    host.fail(1, Op::Read, 1, libc::EINTR);
    for _ in 0..2 {
        let error = saving.read(&mut [0; 64]).unwrap_err();
        assert_eq!(error.errno, Errno(libc::EINTR));
    }
    assert!(matches!(
        recovered(saving),
        Outcome::Reset {
            why: ResetReason::Undrained(_)
        }
    ));
}

#[test]
fn an_errno_in_the_size_is_an_error() {
    let host = TestHost::new();
    let device = host.open(1);
    assert!(device.kernel().stop_copy_length().unwrap() >= VRAM);
    host.fail(1, Op::DataSize, 1, libc::EIO);
    let error = device.kernel().stop_copy_length().unwrap_err();
    assert_eq!(error.errno, Errno(libc::EIO));
}

#[test]
fn a_reset_that_fails_keeps_its_errno_and_is_tried_again() {
    let host = TestHost::new();
    let device = host.open(1);
    host.fail(1, Op::Reset, 1, libc::EAGAIN);
    let stuck = device.stopped().reset().unwrap_err();
    assert!(
        matches!(stuck.error, TransitionError::Refused(error) if error.errno == Errno(libc::EAGAIN))
    );
    assert!(matches!(stuck.vf, AnyVf::Lost(_)));
    reset_to_running(stuck.vf, ResetReason::Asked).unwrap();
    assert_running(&device);
}

#[test]
fn a_state_that_cannot_be_read_is_a_lost_session() {
    let host = TestHost::new();
    let device = host.open(1);
    host.fail(1, Op::GetState, 1, libc::EIO);
    let vf = AnyVf::open(device.kernel());
    assert!(
        matches!(&vf, AnyVf::Lost(vf) if matches!(vf.why(), StateError::Uapi(error) if error.errno == Errno(libc::EIO)))
    );
    assert!(matches!(recovered(vf), Outcome::Reset { .. }));
}

#[test]
fn a_reset_by_somebody_else_in_the_middle_of_a_save_is_noticed() {
    let host = TestHost::new();
    let device = host.open(1);
    let mut saving = device.stopped().save().unwrap();
    device.vfio.reset();
    assert_eq!(
        saving.read(&mut [0; 64]).unwrap_err().errno,
        Errno(libc::ENODEV)
    );
    // The VF runs, and nothing of the guest is in it: that must not pass for a save that was given up.
    assert!(matches!(recovered(saving), Outcome::Reset { .. }));
    assert_running(&device);
}

#[test]
fn a_platform_without_migration_answers_enotty() {
    let host = TestHost::with(&HostConfig {
        migration: false,
        ..config()
    });
    let error = host.open(1).kernel().flags().unwrap_err();
    assert_eq!(error.errno, Errno(libc::ENOTTY));
    let other = TestHost::new();
    let flags = other.open(1).kernel().flags().unwrap();
    assert_eq!(flags, MigrationFlags(3));
}

#[test]
fn a_slow_reset_is_waited_for() {
    let host = TestHost::new();
    let device = host.open(1);
    let vf = device.stopped();
    host.fault(1, Op::Flr, 1, Effect::DelayMs(300));
    let started = Instant::now();
    vf.reset().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn bars_have_the_sizes_of_region_info() {
    let host = TestHost::new();
    let kernel = host.open(1).kernel();
    assert_eq!(kernel.region_size(0).unwrap(), 8 * MIB);
    assert_eq!(kernel.region_size(2).unwrap(), VRAM.next_power_of_two());
}
