// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults: that each one does what it says, when it says, and nothing else.

// A signal has to be sent to a thread.
#![allow(unsafe_code)]

use std::os::unix::thread::JoinHandleExt;
use std::time::{Duration, Instant};

use host_sim::host::Host;
use host_sim::vf::{
    Effect, Errno, FAULT_CAPACITY, FaultError, FaultSpec, Op, State, Transition, Vf,
};

use crate::common::*;

#[track_caller]
fn add(vf: &Vf, op: Op, effect: Effect) {
    vf.faults()
        .add(&FaultSpec {
            op,
            nth: 1,
            count: 1,
            effect,
        })
        .expect("room for a fault");
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what} never came"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_operation_fails_at_the_nth_call_as_often_as_told() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    for op in Op::ALL {
        let effect = Effect::Errno(Errno::ESTALE);
        vf.faults()
            .add(&FaultSpec {
                op,
                nth: 3,
                count: 2,
                effect,
            })
            .expect("room for a fault");
        let answers: Vec<_> = (0..6).map(|_| vf.faults().check(op)).collect();
        let (fine, bad) = (Ok(u64::MAX), Err(Errno::ESTALE));
        assert_eq!(answers, [fine, fine, bad, bad, fine, fine], "{op}");
        assert!(vf.faults().list().is_empty(), "{op} is over");
    }
}

#[test]
fn the_operations_of_a_vf_answer_their_faults() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let effect = Effect::Errno(Errno::ECANCELED);
    for op in [
        Op::GetFlags,
        Op::GetState,
        Op::SetState,
        Op::Reset,
        Op::Read,
    ] {
        add(&vf, op, effect);
    }
    assert_eq!(vf.migration_flags(), Err(Errno::ECANCELED));
    assert_eq!(vf.state(), Err(Errno::ECANCELED));
    assert_eq!(vf.set_state(State::Stop as u32), Err(Errno::ECANCELED));
    assert_eq!(state(&vf), State::Running, "no arc was taken");
    assert_eq!(vf.reset(), Err(Errno::ECANCELED));
    let id = begin_save(&vf);
    assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::ECANCELED));
    assert_eq!(vf.data_read(id, &mut [0; 8]), Ok(8), "nothing is lost");
    vf.reset().expect("reset");
    let id = begin_load(&vf);
    add(&vf, Op::Write, effect);
    assert_eq!(vf.data_write(id, &[1]), Err(Errno::ECANCELED));
    assert_eq!(vf.data_write(id, &[1]), Ok(1));
}

#[test]
fn a_failing_data_size_comes_as_a_huge_length_with_result_0() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    add(&vf, Op::DataSize, Effect::Errno(Errno::EIO));
    assert_eq!(vf.stop_copy_length(), Ok(0xffff_ffff_ffff_fffb));
}

#[test]
fn short_reads_and_writes_move_what_they_say() {
    let host = TestHost::new(&small());
    let (from, to) = (host.opened(1), host.opened(2));
    scribble(&from, 4);
    let whole = save(&from);
    let short = |op, most| FaultSpec {
        op,
        nth: 1,
        count: u32::MAX,
        effect: Effect::Short(most),
    };
    from.faults()
        .add(&short(Op::Read, 70_001))
        .expect("room for a fault");
    to.faults()
        .add(&short(Op::Write, 50_001))
        .expect("room for a fault");
    let id = begin_save(&from);
    let mut buf = vec![0; 1 << 20];
    let mut stream = Vec::new();
    loop {
        match from.data_read(id, &mut buf).expect("read") {
            0 => break,
            n => {
                assert!(n <= 70_001);
                stream.extend_from_slice(&buf[..n]);
            }
        }
    }
    assert!(stream == whole);
    let id = begin_load(&to);
    let mut left = &stream[..];
    while !left.is_empty() {
        let n = to.data_write(id, left).expect("write");
        assert!(n <= 50_001);
        left = &left[n..];
    }
    set(&to, State::Stop);
    assert!(save(&to) == whole);
}

#[test]
fn a_slow_arc_and_a_slow_flr_take_their_time() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let arc = "arc:RUNNING->RUNNING_P2P".parse().expect("an operation");
    for op in [arc, Op::Flr] {
        add(&vf, op, Effect::DelayMs(60));
        let begun = Instant::now();
        match op {
            Op::Flr => vf.reset().expect("reset"),
            _ => assert_eq!(vf.set_state(State::RunningP2p as u32), Ok(Transition::None)),
        }
        assert!(begun.elapsed() >= Duration::from_millis(60), "{op}");
    }
}

#[test]
fn a_failing_flr_step_is_logged_by_the_kernel_and_no_more() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    set(&vf, State::Stop);
    add(&vf, Op::Flr, Effect::Errno(Errno::ETIMEDOUT));
    vf.reset().expect("reset");
    assert_eq!(state(&vf), State::Running);
}

#[test]
fn a_stuck_flr_keeps_the_reset_until_it_is_cleared_and_status_tells() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    add(&vf, Op::Flr, Effect::Stuck);
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| vf.reset());
        until("the reset", || {
            vf.status().under_way.as_deref() == Some("reset")
        });
        std::thread::sleep(Duration::from_millis(30));
        assert!(!reset.is_finished());
        vf.faults().clear(Some(Op::Flr));
        assert_eq!(reset.join().expect("no panic"), Ok(()));
    });
    assert_eq!(vf.status().under_way, None);
}

#[test]
fn a_producer_that_fails_makes_the_save_fail() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let effect = Effect::Errno(Errno::ENOMEM);
    vf.faults()
        .add(&FaultSpec {
            op: Op::Producer,
            nth: 3,
            count: 1,
            effect,
        })
        .expect("room for a fault");
    let id = begin_save(&vf);
    // Descriptor and two GuC packets come, the GGTT does not.
    let good = 40 + 2 * (24 + 4096);
    assert_eq!(vf.data_read(id, &mut vec![0; good]), Ok(good));
    assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::EIO));
    assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::EIO));
    assert_eq!(vf.set_state(State::Stop as u32), Err(Errno::EIO));
    assert_eq!(state(&vf), State::StopCopy);
}

#[test]
fn set_and_reset_block_behind_a_reader_whose_producer_is_stuck() {
    let host = TestHost::new(&small());
    for reset in [false, true] {
        let vf = host.opened(1);
        let id = begin_save(&vf);
        add(&vf, Op::Producer, Effect::Stuck);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| vf.data_read(id, &mut [0; 4096]));
            until("the reader", || vf.status().moving);
            let other = scope.spawn(|| match reset {
                true => vf.reset(),
                false => vf.set_state(State::Stop as u32).map(drop),
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!reader.is_finished() && !other.is_finished());
            assert_eq!(vf.status().state, State::StopCopy, "status answers");
            // What another process would do.
            let again = Host::open(host.host.dir()).expect("the same host");
            again.vf(1).expect("a VF").faults().clear(None);
            assert_eq!(
                reader.join().expect("no panic"),
                Ok(4096),
                "it loses nothing by waiting"
            );
            // A SET finds more packets than the ring takes.
            let expected = if reset { Ok(()) } else { Err(Errno::EIO) };
            assert_eq!(other.join().expect("no panic"), expected);
        });
        assert_eq!(vf.data_read(id, &mut [0; 8]), Err(Errno::ENODEV));
    }
}

#[test]
fn a_producer_stuck_in_the_end_of_a_save_keeps_stop_copy_from_being_left() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let id = begin_save(&vf);
    let last = FaultSpec {
        op: Op::Producer,
        nth: 9,
        count: 1,
        effect: Effect::Stuck,
    };
    vf.faults().add(&last).expect("room for a fault");
    assert_eq!(vf.data_read(id, &mut vec![0; 6 << 20]), Ok(6 << 20));
    assert_eq!(vf.set_state(State::Stop as u32), Err(Errno::EIO));
    vf.faults().clear(None);
    vf.reset().expect("reset");
}

extern "C" fn ignore(_: libc::c_int) {}

#[test]
fn a_signal_ends_a_blocked_read_with_eintr_and_spoils_the_save() {
    // SAFETY: the handler does nothing.
    unsafe {
        libc::signal(
            libc::SIGUSR1,
            ignore as extern "C" fn(libc::c_int) as libc::sighandler_t,
        )
    };
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let id = begin_save(&vf);
    let second = FaultSpec {
        op: Op::Producer,
        nth: 2,
        count: 1,
        effect: Effect::Stuck,
    };
    vf.faults().add(&second).expect("room for a fault");
    let reader = std::thread::spawn({
        let vf = std::sync::Arc::clone(&vf);
        // Bytes have been copied when it begins to wait.
        move || vf.data_read(id, &mut vec![0; 1 << 20])
    });
    until("the reader", || {
        vf.faults().list().iter().any(|f| f.fired == 1)
    });
    while !reader.is_finished() {
        // SAFETY: the thread has not been joined, so its id is valid.
        unsafe { libc::pthread_kill(reader.as_pthread_t(), libc::SIGUSR1) };
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(reader.join().expect("no panic"), Err(Errno::EINTR));
    vf.faults().clear(None);
    for _ in 0..2 {
        assert_eq!(
            vf.data_read(id, &mut [0; 8]),
            Err(Errno::ERESTARTSYS),
            "bytes are lost for good"
        );
    }
    vf.reset().expect("reset");
    save(&vf);
}

#[test]
fn one_signal_is_enough_to_end_a_wait_whenever_it_comes() {
    // SAFETY: the handler does nothing.
    unsafe {
        libc::signal(
            libc::SIGUSR2,
            ignore as extern "C" fn(libc::c_int) as libc::sighandler_t,
        )
    };
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    for round in 0..400u64 {
        let id = begin_save(&vf);
        add(&vf, Op::Producer, Effect::Stuck);
        let reader = std::thread::spawn({
            let vf = std::sync::Arc::clone(&vf);
            move || vf.data_read(id, &mut vec![0; 1 << 20])
        });
        until("the reader", || {
            vf.faults().list().iter().any(|f| f.fired == 1)
        });
        // At another moment of the reader's millisecond each time.
        std::thread::sleep(Duration::from_micros(round * 7));
        // SAFETY: the thread has not been joined, so its id is valid.
        unsafe { libc::pthread_kill(reader.as_pthread_t(), libc::SIGUSR2) };
        let begun = Instant::now();
        while !reader.is_finished() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_micros(100));
        }
        let interrupted = reader.is_finished();
        vf.faults().clear(None);
        assert!(interrupted, "the signal of round {round} was lost");
        assert_eq!(reader.join().expect("no panic"), Err(Errno::EINTR));
        vf.reset().expect("reset");
    }
}

#[test]
fn a_consumer_that_fails_is_eio_behind_the_write_that_carried_its_packet() {
    let host = TestHost::new(&small());
    let stream = save(&host.opened(2));
    let vf = host.opened(1);
    let effect = Effect::Errno(Errno::ENOMEM);
    vf.faults()
        .add(&FaultSpec {
            op: Op::Consumer,
            nth: 2,
            count: 1,
            effect,
        })
        .expect("room for a fault");
    let id = begin_load(&vf);
    // Descriptor and two GuC packets, of which the second cannot be used; then half of the GGTT, then the rest of it.
    let second = 40 + 2 * (24 + 4096);
    assert_eq!(vf.data_write(id, &stream[..second]), Ok(second));
    assert_eq!(vf.data_write(id, &stream[second..second + 1000]), Ok(1000));
    assert_eq!(vf.data_write(id, &stream[second + 1000..]), Err(Errno::EIO));
    assert_eq!(vf.set_state(State::Stop as u32), Err(Errno::EIO));
    assert_eq!(state(&vf), State::Resuming);
    vf.reset().expect("reset");
    save(&vf);
    load(&vf, &stream);
}

#[test]
fn faults_outlive_the_process_that_set_them_and_belong_to_one_vf() {
    let host = TestHost::new(&small());
    let vf = host.host.vf(1).expect("a VF");
    let spec = FaultSpec {
        op: Op::MapDma,
        nth: 2,
        count: 5,
        effect: Effect::Errno(Errno::ENOMEM),
    };
    vf.faults().add(&spec).expect("room for a fault");
    let again = Host::open(host.host.dir()).expect("the same host");
    let seen: Vec<_> = again
        .vf(1)
        .expect("a VF")
        .status()
        .faults
        .iter()
        .map(|f| f.left)
        .collect();
    assert_eq!(seen, [spec]);
    assert!(again.vf(2).expect("a VF").faults().list().is_empty());
}

#[test]
fn a_full_table_and_a_fault_that_never_fires_are_refused() {
    let host = TestHost::new(&small());
    let vf = host.host.vf(1).expect("a VF");
    let spec = FaultSpec {
        op: Op::Read,
        nth: 1,
        count: 1,
        effect: Effect::Stuck,
    };
    assert_eq!(
        vf.faults().add(&FaultSpec { nth: 0, ..spec }),
        Err(FaultError::Never)
    );
    assert_eq!(
        vf.faults().add(&FaultSpec { count: 0, ..spec }),
        Err(FaultError::Never)
    );
    for _ in 0..FAULT_CAPACITY {
        vf.faults().add(&spec).expect("room for a fault");
    }
    assert_eq!(vf.faults().add(&spec), Err(FaultError::Full));
    vf.faults().clear(Some(Op::Write));
    assert_eq!(vf.faults().list().len(), FAULT_CAPACITY);
    vf.faults().clear(Some(Op::Read));
    assert!(vf.faults().list().is_empty());
}
