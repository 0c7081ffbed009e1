// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A PF that fails: what of it user space sees, and where the VF is left.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, failed, holds, refuses, same, works};
use crate::stream::{bring_to, drain, save};
use crate::sys::{self, ERESTARTSYS, Errno};
use crate::vf::{RESUMING, RUNNING, RUNNING_P2P, STOP, STOP_COPY, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["fault":
        failed_suspend_leaves_running,
        failed_resume_leaves_running_p2p,
        failed_stop_copy_enter_leaves_stop,
        failed_stop_copy_exit_leaves_stop_copy_without_fd,
        failed_resume_data_enter_leaves_stop,
        failed_resume_data_exit_leaves_resuming_without_fd,
        failed_size_is_a_huge_number,
        failed_producer_is_eio_for_good,
        failed_consumer_is_eio,
        failed_flr_steps_are_not_seen,
        slow_producer_blocks_the_reader,
        stuck_producer_lets_a_signal_through,
        signal_poisons_the_save,
        set_waits_for_a_blocked_reader,
        reset_waits_for_a_blocked_reader,
    ]
}

/// The PF fails once at `operation` when the VF goes from `from` to `to`; the VF is in `then`, and can go on from there.
fn failed_arc(world: &World, operation: &str, from: u32, to: u32, then: u32) -> Outcome<Vf> {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    let fd = bring_to(&vf, from)?;
    // EUCLEAN: what the Xe PF says when several GTs fail.
    world.fault(&format!("{operation} errno {}", libc::EUCLEAN))?;
    refuses("SET", vf.set(to), libc::EUCLEAN)?;
    same("state", &vf.state()?, &then)?;
    if let Some(fd) = fd {
        let answer = if from == STOP_COPY {
            sys::read(fd.as_fd(), &mut [0; 8])
        } else {
            sys::write(fd.as_fd(), &[0; 8])
        };
        refuses("the data fd", answer, libc::ENODEV)?;
    }
    works("SET, a second time", vf.set(to))?;
    same("state", &vf.state()?, &to)?;
    Ok(vf)
}

fn failed_suspend_leaves_running(world: &World) -> Outcome {
    failed_arc(world, "suspend", RUNNING, STOP, RUNNING).map(drop)
}

fn failed_resume_leaves_running_p2p(world: &World) -> Outcome {
    failed_arc(world, "resume", STOP, RUNNING, RUNNING_P2P).map(drop)
}

fn failed_stop_copy_enter_leaves_stop(world: &World) -> Outcome {
    failed_arc(world, "stop-copy-enter", RUNNING, STOP_COPY, STOP).map(drop)
}

fn failed_stop_copy_exit_leaves_stop_copy_without_fd(world: &World) -> Outcome {
    failed_arc(world, "stop-copy-exit", STOP_COPY, STOP, STOP_COPY).map(drop)
}

fn failed_resume_data_enter_leaves_stop(world: &World) -> Outcome {
    failed_arc(world, "resume-data-enter", RUNNING, RESUMING, STOP).map(drop)
}

fn failed_resume_data_exit_leaves_resuming_without_fd(world: &World) -> Outcome {
    failed_arc(world, "resume-data-exit", RESUMING, STOP, RESUMING).map(drop)
}

fn failed_size_is_a_huge_number(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    world.fault("size errno 5")?;
    same(
        "MIG_DATA_SIZE",
        &works("MIG_DATA_SIZE", vf.data_size())?,
        &(-5i64 as u64),
    )
}

fn failed_producer_is_eio_for_good(world: &World) -> Outcome {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    world.fault("producer errno 12 2")?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let mut buffer = vec![0; 64 << 20];
    for _ in 0..3 {
        refuses("read", sys::read(fd.as_fd(), &mut buffer), libc::EIO)?;
    }
    refuses("SET STOP", vf.set(STOP), libc::EIO)?;
    same("state", &vf.state()?, &STOP_COPY)?;
    works("reset", vf.reset())?;
    save(&vf).map(drop)
}

fn failed_consumer_is_eio(world: &World) -> Outcome {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    let stream = save(&vf)?;
    world.fault("consumer errno 12 2")?;
    let fd = vf.set_for_fd(RESUMING)?;
    let answer = stream
        .chunks(4096)
        .find_map(|piece| sys::write(fd.as_fd(), piece).err());
    if let Some(errno) = answer {
        same("errno of a later write", &errno, &Errno(libc::EIO))?;
    }
    refuses("SET STOP", vf.set(STOP), libc::EIO)?;
    same("state", &vf.state()?, &RESUMING)?;
    works("reset", vf.reset())?;
    // What was half written when the write failed is forgotten by this.
    save(&vf).map(drop)
}

fn failed_flr_steps_are_not_seen(world: &World) -> Outcome {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    for step in ["flr-prepare", "flr-wait"] {
        world.fault(&format!("{step} errno {}", libc::ETIMEDOUT))?;
        works("reset", vf.reset())?;
        same("state", &vf.state()?, &RUNNING)?;
    }
    Ok(())
}

fn slow_producer_blocks_the_reader(world: &World) -> Outcome {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    world.fault("producer delay-ms 300 2")?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let start = Instant::now();
    drain(fd.as_fd())?;
    holds(
        "it took the producer's time",
        start.elapsed() >= Duration::from_millis(250),
    )
}

/// A reader in a thread of its own, blocked because the producer is stuck at its second packet, and then whatever `then` does.
/// Answers what read answered after a signal, and the fd.
fn with_a_blocked_reader(
    world: &World,
    vf: &Vf,
    then: impl FnOnce() -> Outcome,
) -> Outcome<(sys::Answer<usize>, OwnedFd)> {
    world.fault("producer stuck 0 2")?;
    works("handler", sys::catch_sigusr1())?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let (tell, told) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let _ = tell.send(sys::this_thread());
        let answer = sys::read(fd.as_fd(), &mut vec![0; 64 << 20]);
        (answer, fd)
    });
    let Ok(thread) = told.recv() else {
        return failed("the reader does not start");
    };
    thread::sleep(Duration::from_millis(200));
    holds("the reader is blocked", !reader.is_finished())?;
    then()?;
    sys::signal_thread(thread);
    reader.join().or_else(|_| failed("the reader panicked"))
}

fn stuck_producer_lets_a_signal_through(world: &World) -> Outcome {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    let (answer, _fd) = with_a_blocked_reader(world, &vf, || Ok(()))?;
    same("read", &answer, &Err(Errno(libc::EINTR)))
}

fn signal_poisons_the_save(world: &World) -> Outcome {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    let (_, fd) = with_a_blocked_reader(world, &vf, || Ok(()))?;
    world.fault("clear")?;
    for _ in 0..2 {
        same(
            "a later read",
            &sys::read(fd.as_fd(), &mut [0; 8]),
            &Err(ERESTARTSYS),
        )?;
    }
    works("reset", vf.reset())?;
    save(&vf).map(drop)
}

/// A call from another thread that waits for the reader, and goes on when that has been interrupted.
fn waits_for_the_reader(
    world: &World,
    call: impl Fn(&Vf) -> sys::Answer<()> + Send + Sync,
) -> Outcome<sys::Answer<()>> {
    world.fault("clear")?;
    let vf = Vf::open(&world.device)?;
    thread::scope(|scope| {
        let mut caller = None;
        let answer = with_a_blocked_reader(world, &vf, || {
            let running = scope.spawn(|| call(&vf));
            thread::sleep(Duration::from_millis(500));
            holds("the call waits", !running.is_finished())?;
            caller = Some(running);
            Ok(())
        });
        // Cleared only then: a producer that goes on would change the call's answer.
        let came_back = match (&answer, caller) {
            (Ok(_), Some(running)) => Some(running.join()),
            _ => None,
        };
        world.fault("clear")?;
        drop(answer?);
        match came_back {
            Some(Ok(answer)) => Ok(answer),
            _ => failed("the call did not come back"),
        }
    })
}

fn set_waits_for_a_blocked_reader(world: &World) -> Outcome {
    // EIO: by then the producer has not come to its end.
    refuses(
        "SET STOP",
        waits_for_the_reader(world, |vf| vf.set(STOP).map(drop))?,
        libc::EIO,
    )
}

fn reset_waits_for_a_blocked_reader(world: &World) -> Outcome {
    works("reset", waits_for_the_reader(world, Vf::reset)?)
}
