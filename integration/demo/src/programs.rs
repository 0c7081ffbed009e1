// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs under test: built with cargo once per process, found beside the running executable.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// Paths of the built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The reference VMM.
    pub ref_vmm: PathBuf,
    /// The simulated host's command.
    pub host_sim: PathBuf,
    /// The simulated host as a library to preload.
    pub host_sim_library: PathBuf,
}

impl Programs {
    /// The command that reads a VF's state without a VMM.
    #[must_use]
    pub fn xe_vfio(&self) -> PathBuf {
        self.ref_vmm.with_file_name("xe-vfio")
    }

    /// Builds what is not up to date, in the profile and target directory of the running executable.
    ///
    /// # Errors
    /// When cargo fails, with what it printed.
    pub fn build() -> Result<Self> {
        static BUILT: OnceLock<std::result::Result<Programs, String>> = OnceLock::new();
        BUILT
            .get_or_init(|| build().map_err(|e| format!("{e:#}")))
            .clone()
            .map_err(anyhow::Error::msg)
    }
}

fn build() -> Result<Programs> {
    let executable = std::env::current_exe().context("Cannot tell which executable is running")?;
    let directory = profile_directory(&executable)?;
    let target = directory
        .parent()
        .context("The executable is not in a cargo target directory")?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some("release") => "release",
        other => bail!("Cannot tell the cargo profile from the directory {other:?}"),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--profile",
            profile,
            "-p",
            "host-sim",
            "-p",
            "ref-vmm",
            "-p",
            "xe-vfio-device",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .context("Cannot run cargo to build host-sim and ref-vmm")?;
    if !output.status.success() {
        bail!(
            "Building host-sim and ref-vmm failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let programs = Programs {
        ref_vmm: directory.join("ref-vmm"),
        host_sim: directory.join("host-sim"),
        host_sim_library: directory.join("libhost_sim.so"),
    };
    for path in [
        &programs.ref_vmm,
        &programs.host_sim,
        &programs.host_sim_library,
    ] {
        if !path.exists() {
            bail!(
                "cargo built the workspace, but {} is not there",
                path.display()
            );
        }
    }
    Ok(programs)
}

/// `target/PROFILE` of an executable in it or in its `deps`.
fn profile_directory(executable: &Path) -> Result<PathBuf> {
    let directory = executable
        .parent()
        .context("The executable has no directory")?;
    if directory.ends_with("deps") {
        Ok(directory.parent().context("deps has no parent")?.to_owned())
    } else {
        Ok(directory.to_owned())
    }
}
