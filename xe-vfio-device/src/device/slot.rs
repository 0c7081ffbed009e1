// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a device keeps its session while nobody moves it.
//!
//! Whoever moves the VF takes the session out and puts it back; the lock is held only for that. The session of somebody who
//! panicked is gone: the next one asks the kernel where the VF is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::state::{AnyVf, DeviceState, MigrationDevice};

/// What is being done while state leaves.
pub(super) const SAVING: &str = "saving";
/// What is being done while state arrives.
pub(super) const LOADING: &str = "loading";

pub(super) struct Slot<D: MigrationDevice>(Mutex<Content<D>>);

enum Content<D: MigrationDevice> {
    Here(AnyVf<D>),
    Taken(&'static str),
    Gone,
}

impl<D: MigrationDevice> Slot<D> {
    pub(super) fn new(vf: AnyVf<D>) -> Self {
        Self(Mutex::new(Content::Here(vf)))
    }

    /// The state, and what is being done.
    pub(super) fn look(&self) -> (Option<DeviceState>, Option<&'static str>) {
        match &*self.lock() {
            Content::Here(vf) => (vf.state(), None),
            Content::Taken(what) => (None, Some(what)),
            Content::Gone => (None, None),
        }
    }

    /// Takes the session to do `what`, or says what is being done already. `open` makes a new one where the last was lost.
    pub(super) fn take(
        &self,
        what: &'static str,
        open: impl FnOnce() -> D,
    ) -> Result<(AnyVf<D>, Place<'_, D>), &'static str> {
        let mut content = self.lock();
        let vf = match std::mem::replace(&mut *content, Content::Taken(what)) {
            Content::Taken(other) => {
                *content = Content::Taken(other);
                return Err(other);
            }
            Content::Here(vf) => Some(vf),
            Content::Gone => None,
        };
        drop(content);
        let place = Place { slot: self };
        let vf = vf.unwrap_or_else(|| {
            tracing::warn!("an operation on the VF panicked; its state is read back");
            AnyVf::open(open())
        });
        Ok((vf, place))
    }

    fn lock(&self) -> MutexGuard<'_, Content<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place that a session was taken from.
pub(super) struct Place<'a, D: MigrationDevice> {
    slot: &'a Slot<D>,
}

impl<D: MigrationDevice> Place<'_, D> {
    pub(super) fn put(self, vf: AnyVf<D>) {
        *self.slot.lock() = Content::Here(vf);
    }
}

impl<D: MigrationDevice> Drop for Place<'_, D> {
    fn drop(&mut self) {
        let mut content = self.slot.lock();
        if let Content::Taken(_) = *content {
            *content = Content::Gone;
        }
    }
}
