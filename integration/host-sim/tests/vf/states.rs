// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every pair of states, every errno of a SET, and what a reset, an open and a close do.

use std::time::{Duration, Instant};

use guest::abi::{self, reg};
use host_sim::host::HostConfig;
use host_sim::vf::State::{self, Resuming, Running, RunningP2p, Stop, StopCopy};
use host_sim::vf::{Effect, Errno, FaultSpec, Op, Transition, state as arcs};

use crate::common::*;

/// The states that a SET goes through, from the table of what the kernel was seen to do.
const WAYS: [(State, State, &[State]); 25] = [
    (Running, Running, &[]),
    (Running, RunningP2p, &[RunningP2p]),
    (Running, Stop, &[RunningP2p, Stop]),
    (Running, StopCopy, &[RunningP2p, Stop, StopCopy]),
    (Running, Resuming, &[RunningP2p, Stop, Resuming]),
    (RunningP2p, Running, &[Running]),
    (RunningP2p, RunningP2p, &[]),
    (RunningP2p, Stop, &[Stop]),
    (RunningP2p, StopCopy, &[Stop, StopCopy]),
    (RunningP2p, Resuming, &[Stop, Resuming]),
    (Stop, Running, &[RunningP2p, Running]),
    (Stop, RunningP2p, &[RunningP2p]),
    (Stop, Stop, &[]),
    (Stop, StopCopy, &[StopCopy]),
    (Stop, Resuming, &[Resuming]),
    (StopCopy, Running, &[Stop, RunningP2p, Running]),
    (StopCopy, RunningP2p, &[Stop, RunningP2p]),
    (StopCopy, Stop, &[Stop]),
    (StopCopy, StopCopy, &[]),
    (StopCopy, Resuming, &[Stop, Resuming]),
    (Resuming, Running, &[Stop, RunningP2p, Running]),
    (Resuming, RunningP2p, &[Stop, RunningP2p]),
    (Resuming, Stop, &[Stop]),
    (Resuming, StopCopy, &[Stop, StopCopy]),
    (Resuming, Resuming, &[]),
];

#[test]
fn a_set_reaches_every_state_from_every_state_and_answers_a_data_fd_where_there_is_one() {
    let host = TestHost::new(&small());
    let stream = save(&host.opened(2));
    for (from, to, way) in WAYS {
        let vf = host.opened(1);
        let old = bring_to(&vf, from, &stream);
        let answer = set(&vf, to);
        let expected = match (way.last(), answer) {
            (Some(StopCopy), Transition::Save(_)) | (Some(Resuming), Transition::Load(_)) => true,
            (Some(StopCopy | Resuming), _) => false,
            (_, answer) => answer == Transition::None,
        };
        assert!(expected, "{from} to {to} answered {answer:?}");
        if let Some(old) = old.filter(|_| from != to) {
            assert_eq!(
                vf.data_read(old, &mut [0; 8]),
                Err(Errno::ENODEV),
                "{from} to {to}"
            );
        }
    }
}

#[test]
fn an_arc_that_fails_passes_its_errno_on_and_leaves_the_vf_at_the_step_before_it() {
    let host = TestHost::new(&small());
    let stream = save(&host.opened(2));
    for (from, to, way) in WAYS {
        let mut before = from;
        for &after in way {
            let vf = host.opened(1);
            bring_to(&vf, from, &stream);
            let op = Op::Arc(arcs::Arc {
                from: before,
                to: after,
            });
            vf.faults()
                .add(&FaultSpec {
                    op,
                    nth: 1,
                    count: 1,
                    effect: Effect::Errno(Errno::EUCLEAN),
                })
                .expect("room for a fault");
            assert_eq!(
                vf.set_state(to as u32),
                Err(Errno::EUCLEAN),
                "{from} to {to} at {before}->{after}"
            );
            assert_eq!(state(&vf), before, "{from} to {to} at {before}->{after}");
            assert!(!vf.status().needs_reset);
            before = after;
        }
    }
}

#[test]
fn a_forbidden_set_stops_the_vf_until_a_reset_while_get_shows_the_old_state() {
    let host = TestHost::new(&small());
    for forbidden in [0, 6, 7, 8, 42, u32::MAX] {
        for old in [Running, RunningP2p, Stop] {
            let vf = host.opened(1);
            set(&vf, old);
            assert_eq!(vf.set_state(forbidden), Err(Errno::EINVAL));
            assert_eq!(state(&vf), old);
            assert_eq!(
                vf.set_state(old as u32),
                Ok(Transition::None),
                "no arc, no error"
            );
            // The PF has no part in going between RUNNING_P2P and STOP.
            let asks = match old {
                Running => RunningP2p,
                RunningP2p => Running,
                _ => StopCopy,
            };
            assert_eq!(vf.set_state(asks as u32), Err(Errno::EPERM), "from {old}");
            assert_eq!(state(&vf), old);
            assert!(vf.status().needs_reset);
            vf.reset().expect("reset");
            assert_eq!(state(&vf), Running);
            set(&vf, Stop);
        }
    }
}

#[test]
fn after_a_forbidden_set_stop_copy_and_resuming_are_left_with_eio() {
    let host = TestHost::new(&small());
    let stream = save(&host.opened(2));
    for forbidden in [0, 6, 7, 42] {
        for old in [StopCopy, Resuming] {
            let vf = host.opened(1);
            bring_to(&vf, old, &stream);
            assert_eq!(vf.set_state(forbidden), Err(Errno::EINVAL));
            for target in [Stop, Running, Stop] {
                assert_eq!(vf.set_state(target as u32), Err(Errno::EIO), "from {old}");
                assert_eq!(state(&vf), old);
            }
            vf.reset().expect("reset");
            set(&vf, Stop);
        }
    }
}

#[test]
fn a_data_fd_is_dead_even_when_its_state_cannot_be_left() {
    let host = TestHost::new(&small());
    let stream = save(&host.opened(2));
    for from in [StopCopy, Resuming] {
        let vf = host.opened(1);
        let id = bring_to(&vf, from, &stream).expect("a data fd");
        let op = Op::Arc(arcs::Arc { from, to: Stop });
        vf.faults()
            .add(&FaultSpec {
                op,
                nth: 1,
                count: 1,
                effect: Effect::Errno(Errno::EUCLEAN),
            })
            .expect("room for a fault");
        assert_eq!(vf.set_state(Stop as u32), Err(Errno::EUCLEAN));
        assert_eq!(state(&vf), from);
        let answer = match from {
            StopCopy => vf.data_read(id, &mut [0; 8]),
            _ => vf.data_write(id, &[0; 8]),
        };
        assert_eq!(answer, Err(Errno::ENODEV), "in {from}");
        set(&vf, Stop);
    }
}

#[test]
fn leaving_stop_copy_undrained_fails_for_good_and_kills_the_fd() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let id = begin_save(&vf);
    assert_eq!(vf.set_state(Stop as u32), Err(Errno::EIO));
    assert_eq!(state(&vf), StopCopy);
    assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::ENODEV));
    assert_eq!(vf.set_state(Running as u32), Err(Errno::EIO), "and again");
    vf.reset().expect("reset");
    set(&vf, Stop);
}

#[test]
fn stop_copy_can_be_left_once_five_packets_per_gt_are_left() {
    let host = TestHost::new(&HostConfig { gts: 1, ..small() });
    let vf = host.opened(1);
    // Descriptor; GuC, GGTT, MMIO and four chunks: seven packets for a ring of five.
    let second_packet = 40 + 24 + usize::try_from(vf.config().guc).expect("small");
    for (bytes, expected) in [
        (second_packet, Err(Errno::EIO)),
        (second_packet + 1, Ok(Transition::None)),
    ] {
        vf.reset().expect("reset");
        let id = begin_save(&vf);
        assert_eq!(vf.data_read(id, &mut vec![0; bytes]), Ok(bytes));
        assert_eq!(vf.set_state(Stop as u32), expected, "after {bytes} bytes");
    }
}

#[test]
fn a_small_vf_fits_its_ring_and_leaves_stop_copy_unread() {
    let host = TestHost::new(&HostConfig {
        vram_chunk: 512 * MIB,
        ..small()
    });
    let vf = host.opened(1);
    begin_save(&vf);
    set(&vf, Running);
}

#[test]
fn leaving_resuming_without_a_trailer_times_out_and_kills_the_fd() {
    let host = TestHost::new(&HostConfig {
        restore_timeout_ms: 30,
        ..small()
    });
    let stream = save(&host.opened(2));
    let vf = host.opened(1);
    for kept in [0, 10, stream.len() - 24, stream.len() - 1] {
        vf.reset().expect("reset");
        save(&vf);
        let id = begin_load(&vf);
        write_all(&vf, id, &stream[..kept], MIB as usize);
        let begun = Instant::now();
        assert_eq!(vf.set_state(Stop as u32), Err(Errno::ETIMEDOUT));
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(state(&vf), Resuming);
        assert_eq!(vf.data_write(id, &stream[kept..]), Err(Errno::ENODEV));
    }
    vf.reset().expect("reset");
    assert_eq!(state(&vf), Running);
}

#[test]
fn a_set_to_the_current_state_leaves_the_fd_alive() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let id = begin_save(&vf);
    assert_eq!(set(&vf, StopCopy), Transition::None);
    assert_eq!(vf.data_read(id, &mut [0; 8]), Ok(8));
}

#[test]
fn a_data_fd_goes_one_way() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let id = begin_save(&vf);
    assert_eq!(vf.data_write(id, &[0; 8]), Err(Errno::EBADF));
    read_all(&vf, id, MIB as usize);
    let id = begin_load(&vf);
    assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::EBADF));
}

#[test]
fn a_reset_takes_any_state_to_running_and_leaves_nothing_of_the_guest() {
    let host = TestHost::new(&HostConfig {
        flr_ms: 20,
        ..small()
    });
    let stream = save(&host.opened(2));
    for from in State::ALL {
        let vf = host.opened(1);
        scribble(&vf, 7);
        let id = bring_to(&vf, from, &stream);
        let begun = Instant::now();
        vf.reset().expect("reset");
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert_eq!(state(&vf), Running);
        if let Some(id) = id {
            assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::ENODEV));
        }
        assert_eq!(save(&vf), stream, "as a VF that was just opened");
        assert_eq!(read32(&vf, reg::ID), abi::ID_VALUE);
        assert_eq!(read32(&vf, reg::VRAM_MIB), 8);
        assert_eq!(read32(&vf, reg::GGTT_ENTRIES), 256);
    }
}

#[test]
fn populated_vram_is_cleared_by_a_reset_too() {
    let host = TestHost::new(&HostConfig {
        populate: true,
        ..small()
    });
    let vf = host.opened(1);
    scribble(&vf, 7);
    vf.reset().expect("reset");
    assert_eq!(vram(&vf, 0, 8 << 20), vec![0; 8 << 20]);
    assert_eq!(read32(&vf, reg::ID), abi::ID_VALUE);
}

#[test]
fn closing_the_device_ends_its_fd_and_the_next_open_resets_it() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    assert_eq!(vf.status().opener, Some(std::process::id()));
    scribble(&vf, 9);
    let id = begin_save(&vf);
    vf.device_closed();
    assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::ENODEV));
    assert_eq!(vf.status().opener, None);
    let vf = host.opened(1);
    assert_eq!(state(&vf), Running);
    assert_eq!(vram(&vf, 0, 4096), vec![0; 4096]);
}

#[test]
fn without_platform_support_the_device_opens_and_migration_is_enotty() {
    let host = TestHost::new(&HostConfig {
        migration: false,
        ..small()
    });
    let vf = host.opened(1);
    assert_eq!(vf.migration_flags(), Err(Errno::ENOTTY));
    assert_eq!(vf.state(), Err(Errno::ENOTTY));
    assert_eq!(vf.set_state(Stop as u32), Err(Errno::ENOTTY));
    assert_eq!(vf.stop_copy_length(), Err(Errno::ENOTTY));
    vf.reset().expect("reset works all the same");
}

#[test]
fn the_flags_say_stop_copy_and_p2p() {
    let host = TestHost::new(&small());
    assert_eq!(host.opened(1).migration_flags(), Ok(3));
}

#[test]
fn the_data_size_can_be_asked_in_any_state_and_is_less_than_the_stream() {
    let host = TestHost::new(&small());
    let stream = save(&host.opened(2));
    for from in State::ALL {
        let vf = host.opened(1);
        bring_to(&vf, from, &stream);
        // Descriptor and trailer, and the headers of three more chunks.
        assert_eq!(
            vf.stop_copy_length(),
            Ok(stream.len() as u64 - 64 - 3 * 24),
            "in {from}"
        );
    }
}

#[test]
fn get_waits_for_a_set_in_progress_and_status_does_not() {
    let host = TestHost::new(&HostConfig {
        suspend_ms: 200,
        ..small()
    });
    let vf = host.opened(1);
    std::thread::scope(|scope| {
        let setter = scope.spawn(|| vf.set_state(RunningP2p as u32));
        let begun = Instant::now();
        while vf.status().under_way.as_deref() != Some("RUNNING->RUNNING_P2P") {
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "the arc never showed"
            );
            std::thread::yield_now();
        }
        assert_eq!(vf.status().state, Running);
        assert_eq!(state(&vf), RunningP2p);
        assert_eq!(setter.join().expect("no panic"), Ok(Transition::None));
    });
}
