// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What this VMM knows of the downtime of its migrations: the crate's estimator, and the file that its history is kept in.
//!
//! A history that cannot be read or written costs precision and nothing else, so it is a warning.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use xe_vfio_device::estimate::{
    Estimate, Estimator, Finished, Goal, History, HistoryError, Machine, Verdict, Work, converge,
};

/// Estimates for the migrations of a VMM.
#[derive(Default)]
pub struct Forecaster {
    path: Option<PathBuf>,
    machine: OnceLock<Machine>,
    estimator: Mutex<Option<Estimator>>,
}

impl Forecaster {
    /// Keeps what it learns in a file, or for itself.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Estimator>> {
        self.estimator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, ask: impl FnOnce(&Estimator) -> T) -> T {
        let mut estimator = self.lock();
        ask(estimator.get_or_insert_with(|| Estimator::new(self.machine(), History::default())))
    }

    fn machine(&self) -> Machine {
        *self.machine.get_or_init(Machine::measure)
    }

    /// A migration begins: what others have written to the file since counts.
    pub fn begin(&self) {
        let Some(path) = &self.path else { return };
        let (history, broken) = History::open(path);
        warn(broken.as_ref());
        *self.lock() = Some(Estimator::new(self.machine(), history));
    }

    /// How long the guest would stand still.
    #[must_use]
    pub fn estimate(&self, work: &Work) -> Estimate {
        self.with(|estimator| estimator.estimate(work))
    }

    /// Whether another pass over memory helps.
    #[must_use]
    pub fn converge(&self, goal: Goal, work: &Work, left: u64, before: Option<u64>) -> Verdict {
        self.with(|estimator| converge(goal, estimator, work, left, before))
    }

    /// Takes what happened.
    pub fn learn(&self, finished: Finished) {
        let Some(path) = &self.path else {
            let machine = self.machine();
            self.lock()
                .get_or_insert_with(|| Estimator::new(machine, History::default()))
                .learn(finished);
            return;
        };
        match History::append(path, finished) {
            Ok((_, broken)) => warn(broken.as_ref()),
            Err(error) => warn(Some(&error)),
        }
    }
}

fn warn(error: Option<&HistoryError>) {
    if let Some(error) = error {
        let error = crate::describe(error);
        tracing::warn!(error, "what earlier migrations took is not known");
    }
}
