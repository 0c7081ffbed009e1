// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of behaviours.
//!
//! Each is a function over a [`World`] that opens what it needs, and runs in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::check::{Outcome, failed, skipped};

mod arcs;
mod close;
mod device;
mod dirty;
mod faults;
mod fd;
mod features;
mod files;
mod forbidden;
mod logging;
mod pairs;
mod process;
mod read;
mod reset;
mod restore;
mod size;
mod tracking;
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
    /// A VF that logs its DMA; no Xe VF does.
    pub logging: Option<PathBuf>,
    /// A VF behind an IOMMU with dirty tracking.
    pub tracking: Option<PathBuf>,
    /// A VF behind an IOMMU without.
    pub untracked: Option<PathBuf>,
    /// How the PF is made to fail.
    pub faults: Faults,
}

/// Who makes a PF fail. A request is `OPERATION errno|delay-ms VALUE [NTH [COUNT]]`, `OPERATION stuck 0 [NTH]` or `clear`, as
/// the kernel lab's provider (faults.c) takes it.
#[derive(Clone, Debug)]
pub enum Faults {
    /// Nobody can.
    None,
    /// The provider's directory in debugfs.
    Debugfs(PathBuf),
    /// A program, started with the VF's number and the words of the request; status 77 says that it cannot be done there.
    Program(PathBuf),
}

impl World {
    /// The other VF, or a skip.
    pub fn peer(&self) -> Outcome<&Path> {
        self.peer
            .as_deref()
            .map_or_else(|| skipped("needs a second VF (--peer)"), Ok)
    }

    /// Makes the PF of the VF under test fail: see [`Faults`] for what can be asked. `clear` ends all faults.
    pub fn fault(&self, request: &str) -> Outcome {
        match &self.faults {
            Faults::None => skipped("needs a PF that can be told to fail (--faults)"),
            Faults::Debugfs(root) => {
                let file = root.join(format!("vf{}", self.vf_number()?)).join("fault");
                fs::write(&file, request).or_else(|error| {
                    failed(format_args!(
                        "{} does not take \"{request}\": {error}",
                        file.display()
                    ))
                })
            }
            Faults::Program(program) => self.fault_by(program, request),
        }
    }

    fn fault_by(&self, program: &Path, request: &str) -> Outcome {
        let arguments = [self.vf_number()?.to_string()];
        let answer = Command::new(program)
            .args(arguments)
            .args(request.split(' '))
            .output();
        match answer.as_ref().map(|output| output.status.code()) {
            Ok(Some(0)) => Ok(()),
            Ok(Some(77)) => skipped(format_args!("this PF cannot be told \"{request}\"")),
            _ => failed(format_args!(
                "{} does not take \"{request}\": {answer:?}",
                program.display()
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
        files::behaviours(),
        read::behaviours(),
        write::behaviours(),
        restore::behaviours(),
        size::behaviours(),
        reset::behaviours(),
        close::behaviours(),
        process::behaviours(),
        unsupported::behaviours(),
        dirty::behaviours(),
        tracking::behaviours(),
        logging::behaviours(),
        faults::behaviours(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
