// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts a call on the data fd that takes too long.
//!
//! A reader stalled in the PF makes SET and RESET wait behind it, so without this a stuck device could not even be reset. The
//! watchdog looks at nothing else: sockets have their own timeouts, and a signal there would only confuse.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::uapi::{InterruptSignal, SignalMask, UapiError};

/// Whether a call that missed the interrupt because it was just beginning gets another.
const AGAIN: Duration = Duration::from_millis(20);

/// Why a watched transfer could not begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Signals could not be blocked.
    #[error("Signals cannot be kept from the transfer's thread")]
    Mask(#[source] UapiError),
    /// No thread could be had.
    #[error("No thread can be had to watch the transfer")]
    Thread(#[source] std::io::Error),
}

/// The calls that are watched.
pub(super) struct Watch {
    state: Mutex<State>,
    changed: Condvar,
    interrupted: AtomicBool,
}

#[derive(Default)]
struct State {
    since: Option<Instant>,
    over: bool,
}

impl Watch {
    /// Runs one call on the data fd under the watchdog's eye.
    pub(super) fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        self.set(|state| state.since = Some(Instant::now()));
        let result = call();
        self.set(|state| state.since = None);
        result
    }

    /// Whether a call was interrupted for taking too long.
    pub(super) fn has_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn run(&self, deadline: Duration, interrupt: &dyn Fn()) {
        let slice = (deadline / 8).clamp(Duration::from_millis(1), Duration::from_millis(250));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.over {
            let late = state.since.is_some_and(|since| since.elapsed() >= deadline);
            if late {
                self.interrupted.store(true, Ordering::SeqCst);
                interrupt();
            }
            let wait = if late { AGAIN } else { slice };
            state = self
                .changed
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Ends the watchdog however its transfer ends.
struct Over<'a>(&'a Watch);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.set(|state| state.over = true);
        self.0.changed.notify_all();
    }
}

/// Runs `transfer` on this thread with all signals but `signal` blocked and, when there is one, under a watchdog that sends it
/// when a call takes longer than `deadline`.
///
/// # Errors
/// [`WatchError`] before `transfer` has begun, with `input` handed back.
pub(super) fn watched<I, T>(
    signal: Option<InterruptSignal>,
    deadline: Duration,
    input: I,
    transfer: impl FnOnce(I, &Watch) -> T,
) -> Result<T, (WatchError, I)> {
    let mask = match SignalMask::block_all_but(signal) {
        Ok(mask) => mask,
        Err(error) => return Err((WatchError::Mask(error), input)),
    };
    let watch = Watch {
        state: Mutex::default(),
        changed: Condvar::new(),
        interrupted: AtomicBool::new(false),
    };
    let Some(interrupt) = mask.interrupt() else {
        return Ok(transfer(input, &watch));
    };
    thread::scope(|scope| {
        let started = thread::Builder::new()
            .name("vf-watchdog".to_owned())
            .stack_size(128 << 10)
            .spawn_scoped(scope, || watch.run(deadline, &|| interrupt.interrupt()));
        if let Err(error) = started {
            return Err((WatchError::Thread(error), input));
        }
        let _over = Over(&watch);
        Ok(transfer(input, &watch))
    })
}
