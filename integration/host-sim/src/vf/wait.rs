// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting as the kernel does: interruptible by a signal, or not.

// The thread's signal mask is changed for a wait, and poll and ppoll are called by hand.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::Errno;
use crate::shm::offload;

/// Time between two looks at something that another process may change.
pub(super) const POLL: Duration = Duration::from_millis(1);

/// Signals held back on this thread, as in a system call: they are delivered where it sleeps, and when this is dropped.
///
/// Between two sleeps no signal can pass unseen, so that one is enough to end a wait that is made of many.
pub(super) struct Signals {
    mask: libc::sigset_t,
    /// A mask is the thread's.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Signals {
    /// Holds them back, but for those that a thread causes itself.
    pub fn held_back() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut mask = MaybeUninit::uninit();
        // SAFETY: both sets are there to be written; the old mask is written whenever the call succeeds, which it does for
        // valid arguments.
        let mask = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            for fault in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGTRAP,
            ] {
                libc::sigdelset(all.as_mut_ptr(), fault);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), mask.as_mut_ptr());
            mask.assume_init()
        };
        Self {
            mask,
            _not_send: std::marker::PhantomData,
        }
    }

    /// Sleeps for `time`.
    ///
    /// # Errors
    /// `EINTR` as soon as a signal handler ran on this thread, whatever its SA_RESTART, for a signal since these are held
    /// back.
    pub fn sleep(&self, time: Duration) -> Result<(), Errno> {
        if offload::is_lent() {
            return self.sleep_under_a_filter(time);
        }
        let time = libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        // SAFETY: no descriptors, a valid time and a valid mask.
        match unsafe {
            libc::ppoll(
                std::ptr::null_mut(),
                0,
                &raw const time,
                &raw const self.mask,
            )
        } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// As [`Self::sleep`] by calls that VMMs' filters know; a signal in the instant before the sleep does not shorten it.
    fn sleep_under_a_filter(&self, time: Duration) -> Result<(), Errno> {
        let time = libc::c_int::try_from(time.as_millis()).unwrap_or(libc::c_int::MAX);
        let mut held_back = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: valid masks, the one written by the first call and read by the last; no descriptors.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.mask,
                held_back.as_mut_ptr(),
            );
            let result = match libc::poll(std::ptr::null_mut(), 0, time) {
                0 => Ok(()),
                _ => Err(Errno::last()),
            };
            libc::pthread_sigmask(libc::SIG_SETMASK, held_back.as_ptr(), std::ptr::null_mut());
            result
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.mask,
                std::ptr::null_mut(),
            )
        };
    }
}

/// Sleeps for `time`, whatever signals come: in a futex, the one wait that every VMM's seccomp filter lets through.
pub(super) fn sleep(time: Duration) {
    let (never, changed) = (Mutex::new(()), Condvar::new());
    let guard = never.lock().unwrap_or_else(PoisonError::into_inner);
    // Nobody else has either, so neither poison nor an early end can come.
    let _ = changed.wait_timeout_while(guard, time, |()| true);
}

/// Nanoseconds of a clock that all processes share.
pub(super) fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
