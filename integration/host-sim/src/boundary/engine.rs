// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that runs the VFs whose DMA goes to this process's memory.
//!
//! A doorbell is plain memory, so it has to be polled: every few microseconds while jobs come in, ever more rarely (down to
//! every other millisecond) when none do. With no VF attached it sleeps.

// Unsafe: signal mask and fork handlers.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::irqs::Irqs;
use super::{hosts, object, sys, worker};
use crate::vf::Step;

/// Jobs of one VF before the others get their turn.
const BATCH: usize = 64;
/// How often fds that were closed unseen are looked for.
const GARBAGE_PERIOD: Duration = Duration::from_millis(500);

/// Process that the engine runs in.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// Changes when a VF is attached.
static NEWS: AtomicU32 = AtomicU32::new(0);

/// Starts a thread that takes no signals of the program.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets live here; the mask that the new thread inherits is put back below.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    let started = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(512 << 10)
        .spawn(body);
    // SAFETY: `old` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    if let Err(error) = started {
        eprintln!("host-sim: cannot start the thread {name}: {error}");
    }
}

/// Starts the engine of this process, once.
pub fn start() {
    if OWNER.swap(sys::pid(), Ordering::AcqRel) != sys::pid() {
        spawn("host-sim-engine", run);
    }
}

/// A VF has been attached or detached.
pub fn wake() {
    start();
    NEWS.fetch_add(1, Ordering::Release);
    sys::futex_wake(&NEWS);
}

/// What is done once in the life of a process.
pub fn at_first_attach() {
    // SAFETY: the handler is a function of this object, which is never unloaded.
    unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
}

extern "C" fn in_forked_child() {
    sys::refresh_pid();
    // Mappings and interrupts are the parent's; so is the engine.
    for vf in hosts::all().flat_map(|h| &h.vfs) {
        vf.active.store(false, Ordering::Relaxed);
        *vf.domain.lock() = None;
        *vf.irqs.lock() = Irqs::new();
    }
}

/// How long to wait after `idle` without a job.
fn pause(idle: Duration) -> Duration {
    match idle.as_micros() {
        0..2_000 => Duration::from_micros(20),
        2_000..50_000 => Duration::from_micros(100),
        50_000..1_000_000 => Duration::from_micros(400),
        _ => Duration::from_millis(2),
    }
}

fn run() {
    worker::exempt();
    // SAFETY: sets the slack of this thread's timers to 1 ns; the default of 50 us is longer than the pauses.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let mut last_job = Instant::now();
    let mut last_look = Instant::now();
    loop {
        let seen = NEWS.load(Ordering::Acquire);
        let (active, worked) = step_all();
        let now = Instant::now();
        if worked {
            last_job = now;
        }
        if now - last_look > GARBAGE_PERIOD {
            last_look = now;
            object::look_for_the_dead();
        }
        match (active, worked) {
            (true, true) => {}
            (true, false) => sys::sleep(pause(now - last_job)),
            (false, _) => {
                let limit = object::any().then_some(GARBAGE_PERIOD);
                sys::futex_wait(&NEWS, seen, limit);
            }
        }
    }
}

/// Runs every VF of this process for a while; answers whether there is one and whether it had work.
fn step_all() -> (bool, bool) {
    let (mut active, mut worked) = (false, false);
    for vf in hosts::all().flat_map(|h| &h.vfs) {
        if !vf.active.load(Ordering::Acquire) {
            continue;
        }
        active = true;
        let storm = vf.vf.storm_may_work();
        if !storm && !vf.vf.ring_may_have_work() {
            continue;
        }
        let _stepping = vf.stepping.lock();
        let Some(domain) = vf.domain.lock().clone() else {
            continue;
        };
        for _ in 0..BATCH {
            match vf
                .vf
                .engine_step(&*domain, &|vector| vf.irqs.lock().signal(vector))
            {
                Step::Worked => worked = true,
                Step::Idle | Step::Halted => break,
            }
        }
        worked |= storm && vf.vf.storm_step(&*domain);
    }
    (active, worked)
}
