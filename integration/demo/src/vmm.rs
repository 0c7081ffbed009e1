// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VMM process and its API socket, used through its command line.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cleanup;
use crate::programs::Programs;

/// How long a VMM may take to open its API socket, or to end after a shutdown.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running reference VMM; killed by its process id when dropped.
pub struct Vmm {
    child: Child,
    program: PathBuf,
    name: String,
    directory: PathBuf,
}

impl Vmm {
    /// Starts a VMM called `name` with its files (`NAME.sock`, `NAME.serial`, `NAME.log`) in `directory`.
    ///
    /// # Errors
    /// When it cannot be started or does not open its API socket; the error has the end of its log.
    pub fn start(
        programs: &Programs,
        name: &str,
        directory: &Path,
        environment: &[(String, String)],
        arguments: &[String],
    ) -> Result<Self> {
        let mut vmm = Self::spawn(programs, name, directory, environment, arguments)?;
        let deadline = Instant::now() + PATIENCE;
        while vmm.remote(&["ping"]).is_err() {
            if let Some(status) = vmm.child.try_wait()? {
                bail!("The {name} VMM ended ({status}): {}", vmm.log_tail());
            }
            if Instant::now() > deadline {
                bail!(
                    "The {name} VMM does not answer on its API socket: {}",
                    vmm.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(vmm)
    }

    /// Starts a VMM without waiting for its API socket.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        programs: &Programs,
        name: &str,
        directory: &Path,
        environment: &[(String, String)],
        arguments: &[String],
    ) -> Result<Self> {
        let log = std::fs::File::create(directory.join(format!("{name}.log")))
            .with_context(|| format!("Cannot create the log of the {name} VMM"))?;
        let child = Command::new(&programs.ref_vmm)
            .arg("--api-socket")
            .arg(directory.join(format!("{name}.sock")))
            .arg("--serial")
            .arg(format!(
                "file={}",
                directory.join(format!("{name}.serial")).display()
            ))
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("Cannot run {}", programs.ref_vmm.display()))?;
        cleanup::process(child.id());
        Ok(Self {
            child,
            program: programs.ref_vmm.clone(),
            name: name.to_owned(),
            directory: directory.to_owned(),
        })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// File with the guest's serial output.
    #[must_use]
    pub fn serial_path(&self) -> PathBuf {
        self.directory.join(format!("{}.serial", self.name))
    }

    /// What the VMM printed, from the start.
    #[must_use]
    pub fn log(&self) -> String {
        let path = self.directory.join(format!("{}.log", self.name));
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Runs `ref-vmm remote ARGUMENTS` against this VMM and answers the JSON it printed (null when nothing).
    ///
    /// # Errors
    /// When the command fails, with its message.
    pub fn remote(&self, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(&self.program)
            .arg("remote")
            .arg("--api-socket")
            .arg(self.directory.join(format!("{}.sock", self.name)))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("Cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("Not JSON: {text}"))
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it is still there after 20 s.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                cleanup::reaped(self.child.id());
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("The {} VMM did not end within {PATIENCE:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the process as the kernel would for lack of memory, and reaps it.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        cleanup::reaped(self.child.id());
        Ok(())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.kill();
        }
    }
}
