// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of behaviours.
//!
//! Each is a function over a [`World`] that opens what it needs, and runs in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::check::{Outcome, failed, skipped};

mod arcs;
mod close;
mod device;
mod faults;
mod fd;
mod features;
mod forbidden;
mod pairs;
mod process;
mod read;
mod reset;
mod restore;
mod size;
mod unsupported;
mod write;

pub use process::helper;

/// What there is to look at: sysfs directories of VFs.
#[derive(Clone, Debug)]
pub struct World {
    /// The VF under test.
    pub device: PathBuf,
    /// Another VF of the same PF.
    pub peer: Option<PathBuf>,
    /// A VF whose platform does not support migration.
    pub plain: Option<PathBuf>,
    /// Where the kernel lab's provider has its faults.
    pub faults: Option<PathBuf>,
}

impl World {
    /// The other VF, or a skip.
    pub fn peer(&self) -> Outcome<&Path> {
        self.peer
            .as_deref()
            .map_or_else(|| skipped("needs a second VF (--peer)"), Ok)
    }

    /// Makes the PF of the VF under test fail: see the provider's faults.c for what can be asked. `clear` ends all faults.
    pub fn fault(&self, request: &str) -> Outcome {
        let Some(root) = &self.faults else {
            return skipped("needs a PF that can be told to fail (--faults debugfs)");
        };
        let file = root.join(format!("vf{}", self.vf_number()?)).join("fault");
        match fs::write(&file, request) {
            Ok(()) => Ok(()),
            Err(error) => failed(format_args!(
                "{} does not take \"{request}\": {error}",
                file.display()
            )),
        }
    }

    /// The VF's number at its PF, from 1.
    fn vf_number(&self) -> Outcome<usize> {
        let own = fs::canonicalize(&self.device).ok();
        let linked =
            |n: &usize| fs::canonicalize(self.device.join(format!("physfn/virtfn{n}"))).ok() == own;
        (0..64).find(linked).map_or_else(
            || failed("the VF is not among its PF's virtfn links"),
            |n| Ok(n + 1),
        )
    }
}

/// One line of the table.
pub struct Behaviour {
    /// Group and sentence, e.g. `read/end_of_stream_is_0_again_and_again`.
    pub name: String,
    run: Box<dyn Fn(&World) -> Outcome>,
}

impl Behaviour {
    fn new(name: String, run: impl Fn(&World) -> Outcome + 'static) -> Self {
        Self {
            name,
            run: Box::new(run),
        }
    }

    /// Looks whether it is so.
    pub fn run(&self, world: &World) -> Outcome {
        (self.run)(world)
    }
}

/// Behaviours named after their functions.
macro_rules! behaviours {
    ($group:literal: $($function:ident),+ $(,)?) => {
        vec![$($crate::suite::Behaviour::new(concat!($group, "/", stringify!($function)).into(), $function)),+]
    };
}
use behaviours;

/// All of them.
pub fn all() -> Vec<Behaviour> {
    [
        device::behaviours(),
        features::behaviours(),
        pairs::behaviours(),
        forbidden::behaviours(),
        arcs::behaviours(),
        fd::behaviours(),
        read::behaviours(),
        write::behaviours(),
        restore::behaviours(),
        size::behaviours(),
        reset::behaviours(),
        close::behaviours(),
        process::behaviours(),
        unsupported::behaviours(),
        faults::behaviours(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
