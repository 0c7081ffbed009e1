// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sessions, transfers and devices on a simulated host, through the system calls that they make on a real one.

mod arcs;
mod common;
mod device;
mod hazards;
mod pair;
mod transfers;
