// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine for the guest: memory, the VF's engine, and the devices around it, written from docs/vf-model.md.
//!
//! [`board::Board`] is what the vCPU sees, [`engine::Engine`] does the VF's work, [`run::Machine`] brings the two and
//! a vCPU together.

pub mod board;
pub mod engine;
pub mod run;
pub mod sabotage;

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// RAM and BARs in one address space; BAR0 is plain memory to the guest.
pub type Memory = GuestMemoryMmap;

/// Reads an aligned word, at once.
pub fn load(memory: &Memory, gpa: u32) -> u32 {
    memory
        .load(GuestAddress(gpa.into()), Ordering::Acquire)
        .expect("the model reads memory")
}

/// Writes an aligned word, at once.
pub fn store(memory: &Memory, gpa: u32, value: u32) {
    memory
        .store(value, GuestAddress(gpa.into()), Ordering::Release)
        .expect("the model writes memory");
}
