// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Local hand-over on a simulated host, through the system calls that it makes on a real one.

// Beside the suite in tests/host, which uses all of them: a process has room for so many hosts.
#[allow(dead_code)]
#[path = "../host/common.rs"]
mod common;
mod hand_over;
#[allow(dead_code)]
#[path = "../host/pair.rs"]
mod pair;
