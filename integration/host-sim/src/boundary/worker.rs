// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the boundary's own file work is done: on the calling thread, or on a thread from before any seccomp filter.
//!
//! A VMM's filter knows the calls that VFIO needs, not the ones that stand in for them. With `HOST_SIM_WORKER=1` everything
//! given to [`run`] is done by a thread that [`start`] made at attach; the caller waits in a futex.

// Unsafe: lends a closure to the worker for the time that its owner waits.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lock::Lock;
use super::sys;
use crate::shm::offload;

struct Task {
    work: &'static mut (dyn FnMut() + Send),
    done: &'static AtomicU32,
}

static QUEUE: Lock<VecDeque<Task>> = Lock::new(VecDeque::new());
/// Tasks ever queued; the worker waits for it to change.
static QUEUED: AtomicU32 = AtomicU32::new(0);
/// Process that has a worker.
static OWNER: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Starts the worker of this process when `HOST_SIM_WORKER` asks for it.
pub fn start() {
    let wanted = std::env::var_os("HOST_SIM_WORKER").is_some_and(|v| v != "0" && !v.is_empty());
    if !wanted || OWNER.swap(sys::pid(), Ordering::Relaxed) == sys::pid() {
        return;
    }
    offload::lend(hand_over);
    super::engine::spawn("host-sim-work", || {
        exempt();
        loop {
            let seen = QUEUED.load(Ordering::Acquire);
            let task = QUEUE.lock().pop_front();
            match task {
                Some(task) => {
                    (task.work)();
                    task.done.store(1, Ordering::Release);
                    sys::futex_wake(task.done);
                }
                None => sys::futex_wait(&QUEUED, seen, None),
            }
        }
    });
}

/// This thread was started before any filter: what it is given to do, it does itself.
pub fn exempt() {
    IS_WORKER.set(true);
}

/// Does `work` where file work may be done and answers its result.
pub fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    offload::run(work)
}

fn hand_over(work: &mut (dyn FnMut() + Send)) {
    if OWNER.load(Ordering::Relaxed) != sys::pid() || IS_WORKER.get() {
        return work();
    }
    let done = AtomicU32::new(0);
    // SAFETY: both references end before this function does: it waits below until the worker has set `done`, which is the
    // last thing that the worker does with either but for the wake, which only passes an address to the kernel.
    let task = unsafe {
        Task {
            work: std::mem::transmute::<&mut (dyn FnMut() + Send), &'static mut (dyn FnMut() + Send)>(
                work,
            ),
            done: std::mem::transmute::<&AtomicU32, &'static AtomicU32>(&done),
        }
    };
    QUEUE.lock().push_back(task);
    QUEUED.fetch_add(1, Ordering::Release);
    sys::futex_wake(&QUEUED);
    while done.load(Ordering::Acquire) == 0 {
        sys::futex_wait(&done, 0, None);
    }
}
