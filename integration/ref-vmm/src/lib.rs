// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small VMM by example: how to put `xe-vfio-device` into a rust-vmm hypervisor.
//!
//! Read it in this order:
//! 1. [`vm`]: a VM put together from memory, accelerator, buses and VFs;
//! 2. [`pci::vfio`]: a VF passed through, and [`pci::passthrough`]: what the crate asks of a VMM;
//! 3. [`migration`]: the VM moves; [`snapshot`]: it is kept on disk;
//! 4. [`api`]: how a user drives it all.

pub mod accel;
pub mod api;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod events;
pub mod memory;
pub mod migration;
pub mod pci;
pub mod reach;
pub mod serial;
pub mod snapshot;
pub mod vcpu;
pub mod vm;
pub mod vmm;

/// An error and everything that led to it, in one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors and libraries that print their source would say everything twice.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
