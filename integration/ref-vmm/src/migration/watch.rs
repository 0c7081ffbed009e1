// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A migration as others see it while it is under way: its phase, its progress, and the way to end it.
//!
//! Nothing here takes a lock that the migration holds while it waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use xe_vfio_device::transfer::{Cancel, Progress};

/// A migration under way.
#[derive(Default)]
pub struct Watch(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    phase: &'static str,
    cancelled: Option<String>,
    committed: bool,
    cancels: Vec<Cancel>,
    devices: Vec<(String, Progress)>,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that is to end when the migration is cancelled; at once when it was already.
    pub fn add(&self, cancel: Cancel) {
        let mut inner = self.lock();
        if inner.cancelled.is_some() {
            cancel.cancel();
        }
        inner.cancels.push(cancel);
    }

    /// A VF's progress, to be shown.
    pub fn add_device(&self, id: &str, progress: Progress) {
        self.lock().devices.push((id.to_owned(), progress));
    }

    /// The phase has changed.
    pub fn enter(&self, phase: &'static str) {
        self.lock().phase = phase;
    }

    /// Ends the migration; false when it is too late for that.
    pub fn cancel(&self, why: &str) -> bool {
        let mut inner = self.lock();
        if inner.committed {
            return false;
        }
        inner.cancelled.get_or_insert_with(|| why.to_owned());
        for cancel in &inner.cancels {
            cancel.cancel();
        }
        true
    }

    /// From now on it cannot be cancelled; false when it was.
    #[must_use]
    pub fn commit(&self) -> bool {
        let mut inner = self.lock();
        inner.committed = inner.cancelled.is_none();
        inner.committed
    }

    /// Whether it cannot be cancelled any more.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.lock().committed
    }

    /// Why it was cancelled.
    #[must_use]
    pub fn cancelled(&self) -> Option<String> {
        self.lock().cancelled.clone()
    }

    /// Phase and progress.
    #[must_use]
    pub fn view(&self) -> Value {
        let inner = self.lock();
        let devices: Vec<_> = inner
            .devices
            .iter()
            .map(|(id, progress)| {
                let view = progress.view();
                json!({
                    "id": id,
                    "phase": view.phase.to_string(),
                    "bytes": view.bytes,
                    "expected": view.expected,
                })
            })
            .collect();
        json!({ "phase": inner.phase, "devices": devices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_reaches_what_is_added_before_and_after_it() {
        let watch = Watch::default();
        let (before, after) = (Cancel::new(), Cancel::new());
        watch.add(before.clone());
        assert!(watch.cancel("asked"));
        watch.add(after.clone());
        assert!(before.is_cancelled() && after.is_cancelled());
        assert!(!watch.commit());
        assert_eq!(watch.cancelled().as_deref(), Some("asked"));
    }

    #[test]
    fn a_committed_migration_cannot_be_cancelled() {
        let watch = Watch::default();
        let cancel = Cancel::new();
        watch.add(cancel.clone());
        assert!(watch.commit());
        assert!(!watch.cancel("too late"));
        assert!(!cancel.is_cancelled());
    }
}
