// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A deadline for a whole migration: cancels it when it is not disarmed in time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// An armed deadline; dropping it disarms it.
pub struct Timer {
    disarm: Option<Sender<()>>,
    expired: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Timer {
    /// Runs `act` after `time`, unless it is disarmed before.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn arm(time: Duration, act: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (disarm, disarmed) = channel();
        let expired = Arc::new(AtomicBool::new(false));
        let of_thread = expired.clone();
        let wait = move || {
            if disarmed.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                of_thread.store(true, Ordering::SeqCst);
                act();
            }
        };
        let thread = Builder::new().name("timer".into()).spawn(wait)?;
        Ok(Self {
            disarm: Some(disarm),
            expired,
            thread: Some(thread),
        })
    }

    /// Disarms it; true when it had not expired. Nothing happens later on.
    pub fn disarm(mut self) -> bool {
        self.end();
        !self.has_expired()
    }

    /// Whether it has expired.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.expired.load(Ordering::SeqCst)
    }

    fn end(&mut self) {
        self.disarm = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_acts_once_it_has_expired_and_never_after_being_disarmed() {
        let acted = Arc::new(AtomicBool::new(false));
        let act = acted.clone();
        assert!(
            Timer::arm(Duration::from_secs(60), move || act
                .store(true, Ordering::SeqCst))
            .unwrap()
            .disarm()
        );
        assert!(!acted.load(Ordering::SeqCst));
        let act = acted.clone();
        let timer = Timer::arm(Duration::ZERO, move || act.store(true, Ordering::SeqCst)).unwrap();
        while !timer.has_expired() {
            std::thread::yield_now();
        }
        assert!(!timer.disarm());
        assert!(acted.load(Ordering::SeqCst));
    }
}
