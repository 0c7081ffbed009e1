// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VF below the system calls: its states, stream, engine and faults, in one process and in several.

mod altered;
mod command;
mod common;
mod engine;
mod faults;
mod halves;
mod processes;
mod states;
mod stream;
