// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory and locks that several processes share.
//!
//! A VF is two files that each process maps: [`Memory`] is what the guest sees, bytes that anybody may change at any time, and
//! [`Shared`] is a struct with robust locks ([`RobustMutex`]). No process owns either; one that dies leaves both usable.

// Mapping files, forming references into them and using the C library's mutexes in them needs unsafe code.
#![allow(unsafe_code)]

pub mod bulk;
mod memory;
mod mutex;
pub mod offload;
mod shared;

pub use memory::Memory;
pub use mutex::{Guard, RobustMutex};
pub use shared::{LockInit, Plain, Shareable, Shared};
