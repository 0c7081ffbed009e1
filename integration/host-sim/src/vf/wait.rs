// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting as the kernel does: interruptible by a signal, or not.

// nanosleep is called by hand, because the standard library's sleep goes on after a signal.
#![allow(unsafe_code)]

use std::time::Duration;

use super::Errno;

/// Time between two looks at something that another process may change.
pub(super) const POLL: Duration = Duration::from_millis(1);

/// Sleeps for `time`.
///
/// # Errors
/// `EINTR` as soon as a signal handler ran on this thread, whatever its SA_RESTART.
pub(super) fn interruptible(time: Duration) -> Result<(), Errno> {
    let request = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: `request` is a valid time; the remainder is not asked for.
    match unsafe { libc::nanosleep(&raw const request, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
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
