// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must hold of sessions and recovery, on a VF in memory: each hazard by name, and random schedules of faults.

use proptest::prelude::*;

use super::DeviceState::{Resuming, Running, RunningP2p, Stop, StopCopy};
use super::fake::{Call, FakeVf, Fault, Gpu, packets};
use super::*;
use crate::uapi::Errno;

const RING: usize = 512;

fn vf(bytes: usize) -> FakeVf {
    FakeVf::new(packets(bytes), RING)
}

#[track_caller]
fn running(vf: &FakeVf) -> Vf<FakeVf, super::Running> {
    match AnyVf::open(vf.clone()) {
        AnyVf::Running(vf) => vf,
        other => panic!("{other}"),
    }
}

#[track_caller]
fn stopped(vf: &FakeVf) -> Vf<FakeVf, Stopped> {
    running(vf).quiesce().unwrap().stop().unwrap()
}

#[track_caller]
fn recovered(vf: impl Into<AnyVf<FakeVf>>) -> Outcome {
    recover_to_running(vf.into(), &mut [0; 100], &mut |_| {})
        .unwrap()
        .outcome
}

#[test]
fn a_cancelled_save_gives_the_guest_its_gpu_back() {
    let vf = vf(100_000);
    let mut saving = stopped(&vf).save().unwrap();
    saving.read(&mut [0; 64]).unwrap();
    assert_eq!(recovered(saving), Outcome::GpuStateKept);
    assert_eq!(vf.kernel().gpu, Gpu::Guest(packets(100_000)));
    assert_eq!(
        vf.kernel().log,
        [RunningP2p, Stop, StopCopy, Stop, RunningP2p, Running]
    );
    vf.assert_clean_use();
}

#[test]
fn a_save_that_was_not_drained_is_not_asked_to_end() {
    let vf = vf(100_000);
    let saving = stopped(&vf).save().unwrap();
    let stuck = saving.finish().unwrap_err();
    assert_eq!(stuck.error, TransitionError::NotDrained);
    assert!(matches!(stuck.vf, AnyVf::Saving(_)));
    assert_eq!(vf.kernel().log, [RunningP2p, Stop, StopCopy]);
}

#[test]
fn a_read_error_costs_the_gpu_state_only_when_stop_fails() {
    for (bytes, kept) in [(100, true), (100_000, false)] {
        let vf = vf(bytes).with_fault(Call::Read, 1, libc::EIO);
        let mut saving = stopped(&vf).save().unwrap();
        saving.read(&mut [0; 16]).unwrap();
        assert_eq!(
            saving.read(&mut [0; 16]).unwrap_err().errno,
            Errno(libc::EIO)
        );
        assert_eq!(
            saving.read(&mut [0; 16]).unwrap_err().errno,
            Errno(libc::EIO),
            "the stream stays lost"
        );
        let outcome = recovered(saving);
        assert_eq!(outcome == Outcome::GpuStateKept, kept, "{outcome:?}");
        assert_eq!(vf.kernel().resets, usize::from(!kept));
        vf.assert_clean_use();
    }
}

#[test]
fn an_interrupted_read_is_a_lost_stream() {
    let vf = vf(100_000).with_fault(Call::Read, 0, libc::EINTR);
    let mut saving = stopped(&vf).save().unwrap();
    assert_eq!(
        saving.read(&mut [0; 16]).unwrap_err().errno,
        Errno(libc::EINTR)
    );
    assert!(
        matches!(recovered(saving), Outcome::Reset { why: ResetReason::Undrained(error) } if error.errno == Errno(libc::EINTR))
    );
}

#[test]
fn without_a_free_fd_the_vf_is_in_stop_copy_and_still_comes_back() {
    let vf = vf(100).with_fault(Call::Arc(Stop, StopCopy), 0, libc::EMFILE);
    let stuck = stopped(&vf).save().unwrap_err();
    assert!(matches!(&stuck.vf, AnyVf::StreamDead(dead) if dead.dead_state() == StopCopy));
    assert!(
        matches!(stuck.error, TransitionError::Refused(error) if error.errno == Errno(libc::EMFILE))
    );
    assert_eq!(recovered(stuck.vf), Outcome::GpuStateKept);
    vf.assert_clean_use();
}

#[test]
fn a_load_without_its_trailer_times_out_and_ends_in_a_reset() {
    let vf = vf(100);
    let content = packets(100);
    let mut loading = stopped(&vf).load().unwrap();
    loading.write_all(&content[..content.len() - 24]).unwrap();
    let stuck = loading.finish().unwrap_err();
    assert!(matches!(stuck.error, TransitionError::Refused(error)
        if error.errno == Errno(libc::ETIMEDOUT) && error.before == Some(Resuming) && error.asked == Some(Stop)));
    assert_eq!(
        recovered(stuck.vf),
        Outcome::Reset {
            why: ResetReason::LoadAborted
        }
    );
    assert_eq!(vf.kernel().gpu, Gpu::Clean);
    vf.assert_clean_use();
}

#[test]
fn after_a_failed_write_the_kernel_is_not_asked_to_finish() {
    let vf = vf(100).with_fault(Call::Write, 0, libc::ENODEV);
    let mut loading = stopped(&vf).load().unwrap();
    assert_eq!(
        loading.write_all(b"x").unwrap_err().errno,
        Errno(libc::ENODEV)
    );
    let stuck = loading.finish().unwrap_err();
    assert_eq!(stuck.error, TransitionError::Incomplete);
    assert_eq!(
        recovered(stuck.vf),
        Outcome::Reset {
            why: ResetReason::LoadAborted
        }
    );
    assert_eq!(vf.kernel().log.last(), Some(&Running));
}

#[test]
fn a_whole_load_is_what_the_gpu_holds() {
    let vf = vf(10);
    let mut loading = stopped(&vf).load().unwrap();
    loading.write_all(&packets(5000)).unwrap();
    assert_eq!(recovered(loading.finish().unwrap()), Outcome::GpuStateKept);
    assert_eq!(vf.kernel().gpu, Gpu::Guest(packets(5000)));
}

#[test]
fn every_errno_of_every_arc_is_told_and_the_state_read_back() {
    let errnos = [
        libc::ETIMEDOUT,
        libc::EIO,
        libc::EPERM,
        libc::ESTALE,
        libc::EALREADY,
        libc::ECANCELED,
        libc::EUCLEAN,
        libc::EINTR,
    ];
    for errno in errnos {
        let vf = vf(100).with_fault(Call::Arc(Running, RunningP2p), 0, errno);
        let stuck = running(&vf).quiesce().unwrap_err();
        assert_eq!(stuck.vf.state(), Some(Running));
        let TransitionError::Refused(error) = stuck.error else {
            panic!("{stuck}")
        };
        assert_eq!(
            (error.errno, error.before, error.asked),
            (Errno(errno), Some(Running), Some(RunningP2p))
        );
        assert_eq!(recovered(stuck.vf), Outcome::GpuStateKept);
    }
}

#[test]
fn an_arc_back_is_tried_twice_and_then_the_vf_is_reset() {
    for (faults, kept) in [(1, true), (2, false)] {
        let mut vf = vf(100);
        for nth in 0..faults {
            vf = vf.with_fault(Call::Arc(RunningP2p, Running), nth, libc::EIO);
        }
        let outcome = recovered(stopped(&vf));
        assert_eq!(outcome == Outcome::GpuStateKept, kept, "{outcome:?}");
        assert_eq!(vf.kernel().state, Running);
    }
}

#[test]
fn a_state_outside_the_closed_set_offers_only_a_reset() {
    let vf = vf(100).with_fault(Call::Get, 0, 0);
    let any = AnyVf::open(vf.clone());
    assert!(
        matches!(&any, AnyVf::Lost(lost) if lost.why() == StateError::Unknown(UnknownState(0)))
    );
    assert!(matches!(recovered(any), Outcome::Reset { .. }));
    assert!(vf.kernel().log == [Running]);
}

#[test]
fn a_reset_that_fails_keeps_its_errno_and_says_where_the_vf_is() {
    let vf =
        vf(100)
            .with_fault(Call::Reset, 0, libc::ENOTTY)
            .with_fault(Call::Reset, 1, libc::ENOTTY);
    let stuck = reset_to_running(stopped(&vf).into(), ResetReason::Asked).unwrap_err();
    assert!(
        matches!(stuck.error, TransitionError::Refused(error) if error.errno == Errno(libc::ENOTTY))
    );
    assert!(matches!(stuck.vf, AnyVf::Lost(_)));
}

/// What a random run does before it is recovered.
#[derive(Debug, Clone, Copy)]
enum Work {
    Pause,
    SaveSome(usize),
    SaveAll,
    LoadSome(usize),
    LoadAll,
}

/// As far as the faults let it go.
fn work(vf: &FakeVf, what: Work) -> Result<AnyVf<FakeVf>, Stuck<FakeVf>> {
    let AnyVf::Running(session) = AnyVf::open(vf.clone()) else {
        return Ok(AnyVf::open(vf.clone()));
    };
    let stopped = session.quiesce()?.stop()?;
    let content = packets(3000);
    Ok(match what {
        Work::Pause => stopped.into(),
        Work::SaveSome(bytes) => {
            let mut saving = stopped.save()?;
            let _ = saving.read(&mut vec![0; bytes]);
            saving.into()
        }
        Work::SaveAll => {
            let mut saving = stopped.save()?;
            let _ = saving.drain(&mut [0; 777], &mut |_| {});
            saving.finish()?.into()
        }
        Work::LoadSome(bytes) => {
            let mut loading = stopped.load()?;
            let _ = loading.write_all(&content[..bytes.min(content.len())]);
            loading.into()
        }
        Work::LoadAll => {
            let mut loading = stopped.load()?;
            let _ = loading.write_all(&content);
            loading.finish()?.into()
        }
    })
}

fn any_work() -> impl Strategy<Value = Work> {
    prop_oneof![
        Just(Work::Pause),
        (1usize..4000).prop_map(Work::SaveSome),
        Just(Work::SaveAll),
        (0usize..4000).prop_map(Work::LoadSome),
        Just(Work::LoadAll),
    ]
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let call = prop_oneof![
        Just(Call::Get),
        prop::sample::select(arcs::ARCS.to_vec()).prop_map(|(from, to)| Call::Arc(from, to)),
        Just(Call::Read),
        Just(Call::Write),
        Just(Call::Reset),
    ];
    let errno = prop::sample::select(vec![
        libc::EIO,
        libc::EINTR,
        libc::ETIMEDOUT,
        libc::EMFILE,
        libc::EPERM,
    ]);
    (call, 0usize..3, errno, any::<bool>()).prop_map(|(call, nth, errno, done)| Fault {
        call,
        nth,
        errno,
        done,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_the_guest_has_its_gpu_or_is_told_of_the_reset(
        what in any_work(),
        bytes in prop_oneof![Just(50usize), Just(3000)],
        faults in prop::collection::vec(any_fault(), 0..6),
    ) {
        let vf = vf(bytes);
        let quiet = faults.is_empty();
        vf.kernel().faults = faults;
        let session = work(&vf, what).unwrap_or_else(|stuck| stuck.vf);
        let result = recover_to_running(session, &mut [0; 100], &mut |_| {});
        vf.assert_clean_use();
        let kernel = vf.kernel();
        match result {
            Ok(recovered) => {
                prop_assert_eq!(kernel.state, Running);
                match recovered.outcome {
                    Outcome::GpuStateKept => {
                        prop_assert_eq!(kernel.resets, 0);
                        let loaded = matches!(what, Work::LoadAll) && kernel.gpu == Gpu::Guest(packets(3000));
                        prop_assert!(loaded || kernel.gpu == Gpu::Guest(packets(bytes)), "{:?}", kernel.gpu);
                    }
                    Outcome::Reset { .. } => {
                        prop_assert!(kernel.resets > 0);
                        prop_assert_eq!(&kernel.gpu, &Gpu::Clean);
                        prop_assert!(!quiet || matches!(what, Work::LoadSome(_)), "a reset without a fault");
                    }
                }
            }
            // Only a device that cannot be reset, or cannot say where it is, is given up.
            Err(stuck) => prop_assert!(!quiet, "{}", stuck),
        }
    }
}
