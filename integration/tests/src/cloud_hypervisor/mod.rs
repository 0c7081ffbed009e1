// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real Cloud Hypervisor processes on simulated hosts.
//!
//! `CLOUD_HYPERVISOR` names the directory of a built, patched `cloud-hypervisor` and `ch-remote`,
//! `CLOUD_HYPERVISOR_UNPATCHED` that of an unpatched pair. A test begins with [`patched!`](crate::patched) or
//! [`unpatched!`](crate::unpatched), which end it with a printed skip when its variable is not set, and goes on with a [`Rig`]:
//! two hosts, a VM at work on the first, seccomp filters on.

mod destination;
mod events;
mod process;
mod rig;
mod serial_pipe;
pub mod tls;

use std::path::{Path, PathBuf};

pub use destination::Destination;
pub use events::{Event, Events};
pub use process::{CloudHypervisor, Remote};
pub use rig::{Failed, Moved, Rig, Setup, Watcher, vf_status};

/// The two programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The VMM.
    pub cloud_hypervisor: PathBuf,
    /// Its remote control.
    pub ch_remote: PathBuf,
}

impl Binaries {
    /// Those in the directory that the environment variable `variable` names, or `None` with a printed skip of `test`.
    ///
    /// # Panics
    /// When the directory does not have both.
    #[must_use]
    pub fn of(variable: &str, test: &str) -> Option<Self> {
        let Some(directory) = std::env::var_os(variable).filter(|value| !value.is_empty()) else {
            println!(
                "skipped: {test}: {variable} is not set to a directory with cloud-hypervisor and ch-remote"
            );
            return None;
        };
        let found = |name: &str| {
            let path = Path::new(&directory).join(name);
            assert!(path.is_file(), "{variable}: there is no {}", path.display());
            path
        };
        Some(Self {
            cloud_hypervisor: found("cloud-hypervisor"),
            ch_remote: found("ch-remote"),
        })
    }
}

/// Name of the function around a closure, for [`patched!`](crate::patched).
#[must_use]
pub fn function_around<F>(_: &F) -> &'static str {
    std::any::type_name::<F>().trim_end_matches("::{{closure}}")
}

/// The patched programs; ends the test with a printed skip when there are none.
#[macro_export]
macro_rules! patched {
    () => {
        $crate::binaries_or_skip!("CLOUD_HYPERVISOR")
    };
}

/// The unpatched programs; ends the test with a printed skip when there are none.
#[macro_export]
macro_rules! unpatched {
    () => {
        $crate::binaries_or_skip!("CLOUD_HYPERVISOR_UNPATCHED")
    };
}

/// What [`patched!`] and [`unpatched!`] have in common.
#[doc(hidden)]
#[macro_export]
macro_rules! binaries_or_skip {
    ($variable:literal) => {{
        let here = || {};
        let test = $crate::cloud_hypervisor::function_around(&here);
        match $crate::cloud_hypervisor::Binaries::of($variable, test) {
            Some(binaries) => binaries,
            None => return,
        }
    }};
}
