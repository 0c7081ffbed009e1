// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ending a transfer from outside.
//!
//! Cancelling sets a flag and shuts the transfer's connections down, so that a thread blocked on one of them returns. It never
//! interrupts the data fd: the state that is left there has to be drained, or the guest would lose its GPU.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::Closer;

/// Ends a transfer; clones act on the same one. Cancelling is final: the next attempt gets a new handle.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    next: AtomicU64,
    closers: Mutex<Vec<(u64, Closer)>>,
}

impl Cancel {
    /// A handle that nobody has used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels; does not wait for the transfer to end. May be called at any time, also before a transfer begins.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        for (_, close) in self.closers().iter() {
            close();
        }
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Has `closer` called on cancel, for as long as the registration lives; at once when it was cancelled already.
    #[must_use]
    pub fn register(&self, closer: Closer) -> Registration {
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut closers = self.closers();
        if self.is_cancelled() {
            closer();
        }
        closers.push((key, closer));
        Registration {
            cancel: self.clone(),
            key,
        }
    }

    fn closers(&self) -> MutexGuard<'_, Vec<(u64, Closer)>> {
        self.0
            .closers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// A connection that a [`Cancel`] shuts down; dropping it takes the connection off the list.
#[derive(Debug)]
pub struct Registration {
    cancel: Cancel,
    key: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.cancel.closers().retain(|(key, _)| *key != self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn counting() -> (Arc<AtomicUsize>, Closer) {
        let count = Arc::new(AtomicUsize::new(0));
        let closer = Arc::clone(&count);
        (
            count,
            Box::new(move || _ = closer.fetch_add(1, Ordering::SeqCst)),
        )
    }

    #[test]
    fn cancelling_closes_what_is_registered_then_and_later() {
        let cancel = Cancel::new();
        let (before, closer) = counting();
        let _before = cancel.register(closer);
        let (gone, closer) = counting();
        drop(cancel.register(closer));
        cancel.clone().cancel();
        let (after, closer) = counting();
        let _after = cancel.register(closer);
        let counts = [&before, &gone, &after].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(counts, [1, 0, 1]);
        assert!(cancel.is_cancelled());
    }
}
