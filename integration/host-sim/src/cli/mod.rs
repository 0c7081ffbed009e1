// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arguments of the command `host-sim` and what they lead to.

mod content;
mod fault;
mod report;
mod size;
mod storm;
mod up;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use host_sim::host::{self, Host};
use host_sim::vf::{Errno, FaultError, StormError, UnknownOp, Vf};

/// Simulated hosts with Intel Xe VFs that migrate. A host is a directory; several are several hosts.
#[derive(Debug, clap::Parser)]
#[command(version, name = "host-sim")]
pub enum Command {
    #[command(flatten)]
    Action(Action),
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make a host
    Up(up::Up),
    /// Remove a host; refused while a VMM has something of it open
    Down {
        /// Directory of the host
        dir: PathBuf,
    },
    /// Show what every VF is doing
    Status {
        /// Directory of the host
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make an operation of a VF fail, now or later, or end all faults
    Fault(fault::Fault),
    /// Give a VF's VRAM a content
    Fill(content::Fill),
    /// Print a hash of a VF's VRAM, equal on two hosts when the content is
    Digest(content::Digest),
    /// Let a VF write guest memory at its worst, and compare
    #[command(subcommand)]
    Storm(storm::Storm),
    /// Print the environment in which a VMM sees the host, for `env $(host-sim env DIR) VMM ...`
    Env {
        /// Directory of the host
        dir: PathBuf,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The fault's table.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// The fault's operation.
    #[error(transparent)]
    Op(#[from] UnknownOp),
    /// `--vf`.
    #[error("There is no VF {asked}: the host has 1 to {}", .last)]
    NoVf {
        /// VF asked for.
        asked: u16,
        /// Last VF.
        last: u16,
    },
    /// A VF's memory.
    #[error("Cannot {what} the VRAM")]
    Vram {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A storm cannot be raised.
    #[error(
        "Cannot raise the storm: pages of 4 KiB, at most 16 GiB, a unit of 32 to 4096 bytes in steps of 8, and one at a time"
    )]
    StormStart(#[source] Errno),
    /// A storm's pages cannot be compared.
    #[error(transparent)]
    Storm(#[from] StormError),
    /// They have been, and are wrong.
    #[error("The memory is not what the VF wrote")]
    StormWrong,
    /// The library to preload.
    #[error("There is no {} to preload: build the package host-sim, library and all", .0.display())]
    NoLibrary(PathBuf),
    /// The command's own path.
    #[error("Cannot tell where host-sim is installed")]
    Executable(#[source] std::io::Error),
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(&'static str),
    /// JSON.
    #[error("Cannot print JSON")]
    Json(#[from] serde_json::Error),
}

/// Does what the command line says.
///
/// # Errors
/// When it cannot be done.
pub fn run(Command::Action(action): Command) -> Result<(), Error> {
    match action {
        Action::Up(up) => up.run(),
        Action::Down { dir } => Ok(Host::open(&dir)?.remove()?),
        Action::Status { dir, json } => report::status(&Host::open(&dir)?, json),
        Action::Fault(fault) => fault.run(),
        Action::Fill(fill) => fill.run(),
        Action::Digest(digest) => digest.run(),
        Action::Storm(storm) => storm.run(),
        Action::Env { dir } => report::env(&Host::open(&dir)?),
    }
}

fn vf(host: &Host, index: u16) -> Result<Arc<Vf>, Error> {
    host.vf(index).ok_or(Error::NoVf {
        asked: index,
        last: host.config().vfs,
    })
}
