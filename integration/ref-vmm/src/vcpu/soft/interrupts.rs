// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The way of an interrupt from any thread to the vCPU.
//!
//! A vector injected once or more is pending once, as in a local APIC. A halted vCPU is woken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A set of interrupt vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors([u64; 4]);

impl Vectors {
    pub fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector / 64)] |= 1 << (vector % 64);
    }

    pub fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector / 64)] &= !(1 << (vector % 64));
    }

    pub fn insert_all(&mut self, others: Self) {
        for (word, other) in self.0.iter_mut().zip(others.0) {
            *word |= other;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word * 64) as u8 + self.0[word].ilog2() as u8)
    }

    /// As the eight registers of a local APIC show them.
    pub fn registers(self) -> [u32; 8] {
        std::array::from_fn(|register| (self.0[register / 2] >> (32 * (register % 2))) as u32)
    }

    pub fn from_registers(registers: [u32; 8]) -> Self {
        Self(std::array::from_fn(|word| {
            u64::from(registers[2 * word]) | u64::from(registers[2 * word + 1]) << 32
        }))
    }
}

/// Vectors on their way to one vCPU.
#[derive(Debug, Default)]
pub struct Interrupts {
    pending: Mutex<Vectors>,
    /// Whether `pending` holds any; spares the vCPU the lock.
    any: AtomicBool,
    arrived: Condvar,
}

impl Interrupts {
    /// None pending.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An MSI with this vector arrives.
    pub fn inject(&self, vector: u8) {
        let mut pending = self.lock();
        pending.insert(vector);
        self.any.store(true, Ordering::Release);
        drop(pending);
        self.arrived.notify_all();
    }

    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Vectors {
        let mut pending = self.lock();
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut pending)
    }

    pub(super) fn peek(&self) -> Vectors {
        *self.lock()
    }

    /// Returns once there is a vector pending, or after `time`.
    pub(super) fn wait(&self, time: Duration) {
        let pending = self.lock();
        // Poisoned or timed out: the caller looks for itself.
        drop(
            self.arrived
                .wait_timeout_while(pending, time, |pending| pending.is_empty()),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Vectors> {
        // A set of bits is whole after any panic.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
