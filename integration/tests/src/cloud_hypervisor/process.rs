// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One Cloud Hypervisor process with its files, and ch-remote calls to it.
//!
//! Files of a process called NAME in its directory: `NAME.sock` (API), `NAME.log`, `NAME.out` (standard output and error),
//! `NAME.events`. Every wait has an end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Binaries, Events};

/// How long a process may take to start or to end, and a call that does not wait for a guest.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a migration, snapshot or restore may take.
pub(super) const LONG: Duration = Duration::from_secs(180);
/// Log lines begin with the time, so that those of two processes can be put together.
const LOG_FORMAT: &str = "{wallclock} <{thread}> {level} {msg}";

/// A running Cloud Hypervisor; killed by its process id when dropped.
pub struct CloudHypervisor {
    child: Child,
    binaries: Binaries,
    name: String,
    directory: PathBuf,
    environment: Vec<(String, String)>,
}

impl CloudHypervisor {
    /// Starts a VMM called `name` with `arguments` and waits for its API.
    ///
    /// # Errors
    /// When it does not come up, with what it said.
    pub fn start(
        binaries: &Binaries,
        name: &str,
        directory: &Path,
        environment: &[(String, String)],
        arguments: &[String],
    ) -> Result<Self> {
        let mut vmm = Self::spawn(binaries, name, directory, environment, arguments)?;
        let deadline = Instant::now() + PATIENCE;
        while vmm.remote(&["ping"]).is_err() {
            if let Some(status) = vmm.child.try_wait()? {
                bail!("The {name} VMM ended ({status}): {}", vmm.last_words());
            }
            if Instant::now() > deadline {
                bail!("The {name} VMM does not answer: {}", vmm.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(vmm)
    }

    /// The same without a look at its API.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        binaries: &Binaries,
        name: &str,
        directory: &Path,
        environment: &[(String, String)],
        arguments: &[String],
    ) -> Result<Self> {
        let file = |kind: &str| directory.join(format!("{name}.{kind}"));
        let output = File::create(file("out")).context("Cannot create a VMM's output file")?;
        let child = Command::new(&binaries.cloud_hypervisor)
            .arg("-v")
            .arg("--log-file")
            .arg(file("log"))
            .args(["--log-format", LOG_FORMAT])
            .arg("--event-monitor")
            .arg(format!("path={}", file("events").display()))
            .arg("--api-socket")
            .arg(format!("path={}", file("sock").display()))
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("Cannot run {}", binaries.cloud_hypervisor.display()))?;
        Ok(Self {
            child,
            binaries: binaries.clone(),
            name: name.to_owned(),
            directory: directory.to_owned(),
            environment: environment.to_vec(),
        })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}", self.name))
    }

    fn text(&self, kind: &str) -> String {
        let bytes = std::fs::read(self.file(kind)).unwrap_or_default();
        // A log's line can be cut by a kill and padded with zero bytes.
        String::from_utf8_lossy(&bytes).replace('\0', "")
    }

    /// What the VMM has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.text("log")
    }

    /// The warnings and errors it has logged, and what it printed.
    #[must_use]
    pub fn complaints(&self) -> String {
        let log = self.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("> WARN ") || line.contains("> ERROR "));
        lines.map(|line| format!("{line}\n")).collect::<String>() + &self.text("out")
    }

    /// The end of its log and what it printed, for an error message.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("{end}\n{}", self.text("out"))
    }

    /// What its event monitor has written.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::parse(&self.text("events"))
    }

    /// Waits for the first event that has one of `names` and answers its name.
    ///
    /// # Errors
    /// When there is none within three minutes, or the process ends without one.
    pub fn wait_for(&mut self, names: &[&str]) -> Result<String> {
        self.wait_for_new(0, names)
    }

    /// The same without a look at the first `known` events.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_for_new(&mut self, known: usize, names: &[&str]) -> Result<String> {
        let deadline = Instant::now() + LONG;
        loop {
            let ended = self.child.try_wait()?;
            let events = self.events();
            let mut new = events.0.iter().skip(known);
            if let Some(event) = new.find(|event| names.contains(&event.name.as_str())) {
                return Ok(event.name.clone());
            }
            let why = match ended {
                Some(status) => format!("it ended ({status})"),
                None if Instant::now() > deadline => format!("within {LONG:?}"),
                None => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            bail!(
                "No event of {names:?} from the {} VMM, {why}: {}",
                self.name,
                self.last_words()
            );
        }
    }

    /// When the log has the first line with `words`, by the machine's clock.
    ///
    /// # Errors
    /// When it has none, or the line does not begin with a time.
    pub fn time_of(&self, words: &str) -> Result<Duration> {
        let log = self.log();
        let line = log
            .lines()
            .find(|line| line.contains(words))
            .with_context(|| format!("The {} VMM has not logged {words:?}", self.name))?;
        time_of_day(line).with_context(|| format!("No time of day in {line:?}"))
    }

    fn remote_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.ch_remote);
        command
            .arg("--api-socket")
            .arg(self.file("sock"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs `ch-remote ARGUMENTS` and answers what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said; when it takes longer than three minutes.
    pub fn remote(&self, arguments: &[&str]) -> Result<String> {
        Remote::spawn(self.remote_command(arguments), &arguments.join(" "))?.wait(LONG)
    }

    /// Starts `ch-remote ARGUMENTS` and does not wait for its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin_remote(&self, arguments: &[&str]) -> Result<Remote> {
        Remote::spawn(self.remote_command(arguments), &arguments.join(" "))
    }

    /// The same with the files `paths` of this VMM's host open as descriptors 3, 4 and so on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin_remote_with_files(&self, paths: &[&str], arguments: &[&str]) -> Result<Remote> {
        // A shell, since the files are the host's: only a process with the library preloaded has them.
        let opens: String = (3..)
            .zip(paths)
            .map(|(number, path)| format!(" {number}<>{path}"))
            .collect();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("exec{opens}; exec \"$@\""))
            .arg("sh")
            .arg(&self.binaries.ch_remote)
            .arg("--api-socket")
            .arg(self.file("sock"))
            .args(arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        Remote::spawn(command, &arguments.join(" "))
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it is still there after half a minute.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        wait(&mut self.child, PATIENCE, &self.name)
    }

    /// Ends the VMM and its VM in good order.
    ///
    /// # Errors
    /// When it does not end so.
    pub fn shut_down(&mut self) -> Result<ExitStatus> {
        self.remote(&["shutdown-vmm"])?;
        self.wait()
    }

    /// Kills the process as the kernel would for lack of memory, and reaps it.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for CloudHypervisor {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.kill();
        }
    }
}

/// A ch-remote that may still be at work; killed by its process id when dropped.
pub struct Remote {
    child: Child,
    output: File,
    what: String,
}

impl Remote {
    fn spawn(mut command: Command, what: &str) -> Result<Self> {
        // One file for both, read when it has ended: nothing that it prints can fill a pipe.
        let file = tempfile::tempfile().context("Cannot make a file for ch-remote's output")?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file.try_clone()?)
            .spawn()
            .context("Cannot run ch-remote")?;
        Ok(Self {
            child,
            output: file,
            what: what.to_owned(),
        })
    }

    /// Waits for its end and answers what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said; when it takes longer than `patience`.
    pub fn wait(mut self, patience: Duration) -> Result<String> {
        let status = wait(&mut self.child, patience, &self.what)?;
        let mut bytes = vec![0; usize::try_from(self.output.metadata()?.len())?];
        self.output.read_exact_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if status.success() {
            Ok(text)
        } else {
            bail!("ch-remote {}: {}", self.what, text.trim())
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn wait(child: &mut Child, patience: Duration, what: &str) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("{what} did not end within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The time of day at the beginning of a log line, as in `2026-01-02T03:04:05.678901Z <vmm> ...`.
fn time_of_day(line: &str) -> Option<Duration> {
    let time = line.split(' ').next()?.split_once('T')?.1;
    let mut parts = time.trim_end_matches('Z').split(':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    let whole = Duration::from_secs(hours * 3600 + minutes * 60);
    Some(whole + Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_tells_its_time() {
        assert_eq!(
            time_of_day("2026-01-02T03:04:05.250000Z <vmm> INFO Event"),
            Some(Duration::from_millis(((3 * 60 + 4) * 60 + 5) * 1000 + 250))
        );
        assert_eq!(time_of_day("no time here"), None);
    }
}
