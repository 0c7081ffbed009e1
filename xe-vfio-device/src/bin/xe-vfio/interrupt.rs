// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SIGINT and SIGTERM as a wish that is looked at, never as the end of a system call.
//!
//! A signal that interrupts a call on a VF can cost its state, so the signals are blocked on every thread but one that does
//! nothing else than take them.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use vmm_sys_util::signal::{block_signal, register_signal_handler, unblock_signal};

const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(number: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    RECEIVED.store(number, Ordering::SeqCst);
}

/// Takes the signals over; called once, before any other thread is started.
///
/// # Errors
/// When a handler or a thread cannot be had.
pub fn install() -> io::Result<()> {
    for number in SIGNALS {
        register_signal_handler(number, on_signal)?;
        block_signal(number).map_err(|error| io::Error::other(error.to_string()))?;
    }
    thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(64 << 10)
        .spawn(|| {
            for number in SIGNALS {
                // It was blocked a moment ago, so it can be unblocked.
                _ = unblock_signal(number);
            }
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        })
        .map(drop)
}

/// Whether the user wants an end.
pub fn received() -> bool {
    RECEIVED.load(Ordering::SeqCst) != 0
}

/// Forgets a signal that was obeyed.
pub fn obeyed() {
    RECEIVED.store(0, Ordering::SeqCst);
}
