// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command `xe-vfio` as a user runs it, on simulated hosts that are preloaded into it.

mod common;
mod files;
mod probe;
mod transfers;
