// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults that a VF can be told to have, per operation.
//!
//! They are set by any process ([`Faults::add`], `host-sim fault`), count calls in whichever process makes them, and stay in the
//! VF's shared memory until they have fired as often as they should or are cleared.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Errno;
use super::control::Control;
use super::op::Op;
use super::wait::{self, Signals};
use crate::shm::Shared;

/// Faults that a VF can have at a time.
pub const CAPACITY: usize = 32;

/// What happens when a fault fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The operation answers this errno.
    #[serde(serialize_with = "as_text")]
    Errno(Errno),
    /// A read or write moves at most so many bytes.
    Short(u64),
    /// The operation takes so many milliseconds longer.
    DelayMs(u64),
    /// The operation does not end until the fault is cleared.
    Stuck,
}

/// A fault: on the `nth` call of `op` from now (1 is the next) and the `count - 1` calls after it, `effect` happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FaultSpec {
    /// Operation.
    #[serde(serialize_with = "as_text")]
    pub op: Op,
    /// First call that is hit, counted from 1.
    pub nth: u32,
    /// Number of calls that are hit.
    pub count: u32,
    /// What happens.
    pub effect: Effect,
}

/// A fault that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FaultStatus {
    /// What is left of it.
    #[serde(flatten)]
    pub left: FaultSpec,
    /// Calls that it has hit.
    pub fired: u32,
}

/// Why a fault cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The table is full.
    #[error("The VF has {CAPACITY} faults already: clear some")]
    Full,
    /// `nth` or `count` is 0.
    #[error("A fault has to hit at least one call, the first being number 1")]
    Never,
}

/// The fault table as it lies in shared memory; all zeros is an empty one.
#[repr(C)]
pub(super) struct FaultTable {
    last_id: u32,
    reserved: u32,
    entries: [Entry; CAPACITY],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    /// 0 for an unused entry.
    id: u32,
    op: u32,
    /// Calls to let pass before the next hit.
    skip: u32,
    /// Calls still to be hit.
    left: u32,
    effect: u32,
    fired: u32,
    argument: u64,
}

const ERRNO: u32 = 0;
const SHORT: u32 = 1;
const DELAY: u32 = 2;
const STUCK: u32 = 3;

impl Entry {
    fn spec(&self) -> Option<FaultSpec> {
        let effect = match self.effect {
            ERRNO => Effect::Errno(Errno(i32::try_from(self.argument).ok()?)),
            SHORT => Effect::Short(self.argument),
            DELAY => Effect::DelayMs(self.argument),
            STUCK => Effect::Stuck,
            _ => return None,
        };
        let op = *Op::ALL.get(self.op as usize)?;
        (self.id != 0).then_some(FaultSpec {
            op,
            nth: self.skip + 1,
            count: self.left,
            effect,
        })
    }
}

impl FaultTable {
    fn add(&mut self, spec: &FaultSpec) -> Result<(), FaultError> {
        if spec.nth == 0 || spec.count == 0 {
            return Err(FaultError::Never);
        }
        let (effect, argument) = match spec.effect {
            Effect::Errno(errno) => (ERRNO, u64::from(errno.0.unsigned_abs())),
            Effect::Short(most) => (SHORT, most),
            Effect::DelayMs(ms) => (DELAY, ms),
            Effect::Stuck => (STUCK, 0),
        };
        let free = self
            .entries
            .iter_mut()
            .find(|e| e.id == 0)
            .ok_or(FaultError::Full)?;
        self.last_id = self.last_id.wrapping_add(1).max(1);
        let (id, op) = (self.last_id, spec.op.code());
        *free = Entry {
            id,
            op,
            skip: spec.nth - 1,
            left: spec.count,
            effect,
            fired: 0,
            argument,
        };
        Ok(())
    }

    /// Counts one call of `op` and answers what it is hit by.
    fn call(&mut self, op: Op) -> Vec<(u32, Effect)> {
        let mut hits = Vec::new();
        for entry in self
            .entries
            .iter_mut()
            .filter(|e| e.id != 0 && e.op == op.code())
        {
            if entry.skip > 0 {
                entry.skip -= 1;
            } else if entry.left > 0 {
                entry.left -= 1;
                entry.fired = entry.fired.saturating_add(1);
                hits.extend(entry.spec().map(|spec| (entry.id, spec.effect)));
            }
            // Whoever is stuck in it looks for the entry, so that one stays until it is cleared.
            if entry.left == 0 && entry.effect != STUCK {
                entry.id = 0;
            }
        }
        hits
    }

    fn armed(&self) -> u64 {
        self.entries
            .iter()
            .filter(|e| e.id != 0)
            .fold(0, |bits, e| bits | 1u64.checked_shl(e.op).unwrap_or(0))
    }
}

/// The faults of one VF.
pub struct Faults {
    control: Arc<Shared<Control>>,
}

impl Faults {
    pub(super) fn new(control: Arc<Shared<Control>>) -> Self {
        Self { control }
    }

    /// To be called once by each `op` before it does anything.
    ///
    /// Answers the most bytes that the operation may move, `u64::MAX` without a fault. Sleeps when the fault says so.
    ///
    /// # Errors
    /// The fault's errno; `EINTR` when a signal ended its sleep.
    pub fn check(&self, op: Op) -> Result<u64, Errno> {
        if !self.is_armed(op) {
            return Ok(u64::MAX);
        }
        self.check_within(op, &Signals::held_back())
    }

    /// As [`Self::check`], for an operation that holds signals back from its beginning.
    pub(super) fn check_within(&self, op: Op, signals: &Signals) -> Result<u64, Errno> {
        self.check_with(op, |time| signals.sleep(time))
    }

    /// As [`Self::check`], for an operation that the kernel waits for whatever signals come.
    pub(super) fn check_uninterruptible(&self, op: Op) -> Result<u64, Errno> {
        self.check_with(op, |time| {
            wait::sleep(time);
            Ok(())
        })
    }

    fn check_with(
        &self,
        op: Op,
        sleep: impl Fn(Duration) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        if !self.is_armed(op) {
            return Ok(u64::MAX);
        }
        let hits = self.change(|table| table.call(op));
        let mut most = u64::MAX;
        let mut answer = Ok(());
        for (id, effect) in hits {
            match effect {
                Effect::Errno(errno) => answer = answer.and(Err(errno)),
                Effect::Short(bytes) => most = most.min(bytes),
                Effect::DelayMs(ms) => sleep(Duration::from_millis(ms))?,
                Effect::Stuck => {
                    while self.is_set(id) {
                        sleep(wait::POLL)?;
                    }
                }
            }
        }
        answer.map(|()| most)
    }

    fn is_armed(&self, op: Op) -> bool {
        self.control.armed.load(Ordering::Acquire) & (1 << op.code()) != 0
    }

    /// Sets a fault.
    ///
    /// # Errors
    /// When the table is full or the fault would never fire.
    pub fn add(&self, spec: &FaultSpec) -> Result<(), FaultError> {
        self.change(|table| table.add(spec))
    }

    /// Ends every fault, or those of `op`; whoever is stuck goes on.
    pub fn clear(&self, op: Option<Op>) {
        self.change(|table| {
            for entry in &mut table.entries {
                if op.is_none_or(|op| op.code() == entry.op) {
                    entry.id = 0;
                }
            }
        });
    }

    /// The faults that are set.
    #[must_use]
    pub fn list(&self) -> Vec<FaultStatus> {
        let table = self.control.faults.lock();
        let status = |e: &Entry| {
            Some(FaultStatus {
                left: e.spec()?,
                fired: e.fired,
            })
        };
        table.entries.iter().filter_map(status).collect()
    }

    /// Whether a producer is or will be stuck.
    pub(super) fn producer_is_stuck(&self) -> bool {
        self.list()
            .iter()
            .any(|f| f.left.op == Op::Producer && f.left.effect == Effect::Stuck)
    }

    fn is_set(&self, id: u32) -> bool {
        self.control
            .faults
            .lock()
            .entries
            .iter()
            .any(|e| e.id == id)
    }

    fn change<T>(&self, change: impl FnOnce(&mut FaultTable) -> T) -> T {
        let mut table = self.control.faults.lock();
        let result = change(&mut table);
        self.control.armed.store(table.armed(), Ordering::Release);
        result
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature is serde's.
fn as_text<T: std::fmt::Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
