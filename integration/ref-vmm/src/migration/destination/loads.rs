// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which VFs of an attempt have been loaded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use xe_vfio_device::transfer::{AttemptId, Gather, Peer};

use super::super::prefix::Prefixed;
use super::Error;
use crate::vm::Vf;

/// How often a waiter looks whether VFs are still busy.
const SLICE: Duration = Duration::from_millis(200);

/// Which VFs have been loaded.
pub(super) struct Loads<'a> {
    devices: &'a [Vf],
    /// Connections of streams of which not all are here.
    pub(super) gather: Gather<Peer<Prefixed>>,
    done: Mutex<BTreeMap<String, Result<(), String>>>,
    changed: Condvar,
    count: AtomicU64,
}

impl<'a> Loads<'a> {
    pub(super) fn new(devices: &'a [Vf], attempt: AttemptId) -> Self {
        let (done, changed) = (Mutex::default(), Condvar::new());
        Self {
            devices,
            gather: Gather::new(attempt),
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

    /// Whether a VF is being moved. No byte moves while the kernel takes it from RESUMING to STOP, which may last longer
    /// than anybody's patience with a silent peer; the device's own deadlines bound it.
    fn is_busy(&self) -> bool {
        self.devices.iter().any(|d| d.info().busy.is_some())
    }

    /// A number that changes as long as VFs are being loaded.
    pub(super) fn activity(&self) -> u64 {
        self.activity_while(self.is_busy())
    }

    fn activity_while(&self, busy: bool) -> u64 {
        let tick = u64::from(busy);
        self.count.fetch_add(tick, Ordering::SeqCst) + tick
    }

    /// Waits until all are loaded. The source has their receipts before it sends the state, so little can be missing.
    pub(super) fn wait(&self, patience: Duration) -> Result<(), Error> {
        self.wait_for(self.devices.len(), patience, || self.is_busy())
    }

    fn wait_for(
        &self,
        all: usize,
        patience: Duration,
        is_busy: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let mut end = Instant::now() + patience;
        let mut done = self.lock();
        loop {
            if let Some((id, Err(reason))) = done.iter().find(|(_, result)| result.is_err()) {
                return Err(Error::Loads(format!("{id}: {reason}")));
            }
            if done.len() == all {
                return Ok(());
            }
            if is_busy() {
                end = Instant::now() + patience;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let have = done.len();
                return Err(Error::Loads(format!(
                    "{have} of {all} streams came within {patience:?}"
                )));
            }
            done = self
                .changed
                .wait_timeout(done, left.min(SLICE))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_vf_is_waited_for_longer_than_an_idle_one() {
        let loads = Loads::new(&[], AttemptId::NONE);
        let patience = Duration::from_millis(50);
        let asked = AtomicU64::new(0);
        let busy_at_first = || asked.fetch_add(1, Ordering::SeqCst) < 3;
        let before = Instant::now();
        let error = loads.wait_for(1, patience, busy_at_first).unwrap_err();
        assert!(error.to_string().contains("0 of 1"), "{error}");
        assert!(before.elapsed() >= 3 * patience);
    }

    #[test]
    fn a_busy_vf_is_activity_and_an_idle_one_is_not() {
        let loads = Loads::new(&[], AttemptId::NONE);
        assert_ne!(loads.activity_while(true), loads.activity_while(true));
        assert_eq!(loads.activity_while(false), loads.activity_while(false));
    }
}
