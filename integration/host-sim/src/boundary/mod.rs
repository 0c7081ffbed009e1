// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's side of the system call boundary: a process on a host sees its device nodes, sysfs, VFIO and iommufd.
//!
//! A program that links this crate calls [`attach`] before it opens anything. Any other program is started with the shared
//! object preloaded and the directories of its hosts in the environment:
//!
//! ```sh
//! LD_PRELOAD=/path/to/libhost_sim.so HOST_SIM=DIR1[:DIR2] program
//! ```
//!
//! `symbols/` is what the program calls, `paths` and `object` decide what is ours, `vfio/` answers it, `ioas` and `engine`
//! are the IOMMU and the VFs' work. Everything else goes on to the C library.

mod bitmap;
mod config_space;
mod engine;
mod hosts;
mod ioas;
mod irqs;
mod kvm;
mod lock;
mod next;
mod object;
mod paths;
mod symbols;
mod sys;
pub mod sysfs;
mod table;
mod user;
mod vfio;
mod worker;

use std::path::Path;

pub use hosts::AttachError;

/// Puts this process on the host in `dir`. Again for the same directory does nothing; up to 64 hosts with different
/// device, group and node numbers can be attached.
///
/// # Errors
/// When the host cannot be opened, or has numbers that another attached host has.
pub fn attach(dir: &Path) -> Result<(), AttachError> {
    symbols::keep();
    hosts::attach(dir)
}

/// Whether this process is on a host.
#[must_use]
pub fn is_attached() -> bool {
    hosts::any()
}

/// Attaches to the hosts that `HOST_SIM` names; ends the program when one cannot be attached, since it would go on without
/// the devices that it was promised.
extern "C" fn attach_from_environment() {
    let Some(hosts) = std::env::var_os("HOST_SIM") else {
        return;
    };
    for dir in std::env::split_paths(&hosts).filter(|d| !d.as_os_str().is_empty()) {
        if let Err(error) = attach(&dir) {
            use std::error::Error;
            let mut text = format!("host-sim: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                text += &format!(": {error}");
                source = error.source();
            }
            eprintln!("{text} ({})", dir.display());
            std::process::exit(127);
        }
    }
}

// Unsafe: places a function where the dynamic linker runs it before main.
#[allow(unsafe_code)]
// SAFETY: the section holds addresses of functions that take nothing they need.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = attach_from_environment;
