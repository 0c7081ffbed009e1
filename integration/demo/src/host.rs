// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated host for the time of a run: brought up in a directory of its own, taken down when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::programs::Programs;

/// A host in a directory.
pub struct SimulatedHost {
    programs: Programs,
    directory: PathBuf,
    bus: u8,
    _parent: TempDir,
}

impl SimulatedHost {
    /// Brings a host up with `options` as `host-sim up` takes them.
    ///
    /// # Errors
    /// When `host-sim up` fails, with what it said.
    pub fn up(programs: &Programs, options: &[&str]) -> Result<Self> {
        Self::with_bus(programs, 3, options)
    }

    /// As [`SimulatedHost::up`], with other numbers for its devices: a process can be on this host and on one of the other kind at a time, as on a
    /// machine with two cards.
    ///
    /// # Errors
    /// As there.
    pub fn up_beside(programs: &Programs, options: &[&str]) -> Result<Self> {
        let others = [
            options,
            &["--bus", "4", "--group-base", "600", "--cdev-base", "600"],
        ];
        Self::with_bus(programs, 4, &others.concat())
    }

    fn with_bus(programs: &Programs, bus: u8, options: &[&str]) -> Result<Self> {
        let parent = scratch_directory("xe-host-")?;
        let directory = parent.path().join("host");
        let host = Self {
            programs: programs.clone(),
            directory,
            bus,
            _parent: parent,
        };
        let mut arguments = vec!["up", host.directory_str()];
        arguments.extend_from_slice(options);
        run(&host.programs.host_sim, &arguments)?;
        Ok(host)
    }

    /// The host's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Environment that puts a process on this host.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_of(self.directory_str())
    }

    /// Environment that puts a process on this host and on one that was brought up beside it.
    #[must_use]
    pub fn environment_with(&self, other: &Self) -> Vec<(String, String)> {
        self.environment_of(&format!(
            "{}:{}",
            self.directory_str(),
            other.directory_str()
        ))
    }

    fn environment_of(&self, hosts: &str) -> Vec<(String, String)> {
        let library = self.programs.host_sim_library.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), library),
            ("HOST_SIM".to_owned(), hosts.to_owned()),
        ]
    }

    /// sysfs directory of VF `number`, counted from 1 as SR-IOV does, as the host's own processes see it.
    #[must_use]
    pub fn vf_path(&self, number: u16) -> String {
        // The PF is function 0 and VF n function n, eight functions to a device.
        format!(
            "/sys/bus/pci/devices/0000:{:02x}:{:02x}.{}",
            self.bus,
            number / 8,
            number % 8
        )
    }

    /// Runs `host-sim VERB DIR ARGUMENTS` and answers what it printed.
    ///
    /// # Errors
    /// When the command fails, with what it said.
    pub fn command(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        let mut all = vec![verb, self.directory_str()];
        all.extend_from_slice(arguments);
        run(&self.programs.host_sim, &all)
    }

    fn directory_str(&self) -> &str {
        self.directory
            .to_str()
            .expect("scratch directories have ASCII names")
    }
}

impl Drop for SimulatedHost {
    fn drop(&mut self) {
        // The directory goes with `_parent`; `down` only tells whether somebody still held a VF.
        if self.directory.exists()
            && let Err(error) = self.command("down", &[])
        {
            eprintln!("Taking the simulated host down: {error:#}");
        }
    }
}

/// A directory in shared memory where there is room, so that VRAM never meets a disk.
///
/// # Errors
/// When no temporary directory can be made.
pub fn scratch_directory(prefix: &str) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(prefix);
    let directory = builder
        .tempdir_in("/dev/shm")
        .or_else(|_| builder.tempdir())
        .context("Cannot make a temporary directory")?;
    crate::cleanup::directory(directory.path().to_owned());
    Ok(directory)
}

/// Runs a program to its end and answers its standard output.
///
/// # Errors
/// When it cannot be started or fails, with its standard error.
pub fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("Cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} {}: {}",
            program.file_name().unwrap_or_default().to_string_lossy(),
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
