// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which VFs of an attempt have been loaded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Error;
use crate::vm::Vf;

/// Which VFs have been loaded.
pub(super) struct Loads<'a> {
    devices: &'a [Vf],
    done: Mutex<BTreeMap<String, Result<(), String>>>,
    changed: Condvar,
    count: AtomicU64,
}

impl<'a> Loads<'a> {
    pub(super) fn new(devices: &'a [Vf]) -> Self {
        let (done, changed) = (Mutex::default(), Condvar::new());
        Self {
            devices,
            done,
            changed,
            count: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn device(&self, id: &str) -> Option<&'a Vf> {
        self.devices.iter().find(|d| d.device_id() == id)
    }

    pub(super) fn done(&self, id: &str, result: Result<(), String>) {
        self.lock().insert(id.to_owned(), result);
        self.count.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// A number that changes as long as VFs are being loaded.
    pub(super) fn activity(&self) -> u64 {
        let bytes: u64 = self.devices.iter().map(|d| d.progress().view().bytes).sum();
        bytes + self.count.load(Ordering::SeqCst)
    }

    /// Waits until all are loaded. The source has their receipts before it sends the state, so little can be missing.
    pub(super) fn wait(&self, patience: Duration) -> Result<(), Error> {
        let end = Instant::now() + patience;
        let mut done = self.lock();
        loop {
            if let Some((id, Err(reason))) = done.iter().find(|(_, result)| result.is_err()) {
                return Err(Error::Loads(format!("{id}: {reason}")));
            }
            if done.len() == self.devices.len() {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (have, all) = (done.len(), self.devices.len());
                return Err(Error::Loads(format!(
                    "{have} of {all} streams came within {patience:?}"
                )));
            }
            done = self
                .changed
                .wait_timeout(done, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
