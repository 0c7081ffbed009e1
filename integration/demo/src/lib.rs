// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What it takes to run a migration between two VMM processes from outside: build the programs, bring simulated
//! hosts up, start VMMs, read the guest's serial line, watch memory. Used by the demo and by the end-to-end tests.
//!
//! Everything goes through command lines, sockets and files, as it would for an operator: nothing here links the
//! VMM, the crate under test or the simulated host.

pub mod cleanup;
pub mod host;
pub mod memory;
pub mod programs;
pub mod serial;
pub mod vmm;
