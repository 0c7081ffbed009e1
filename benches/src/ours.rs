// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A transfer by the crate, from the outside: two processes, started, told to begin, and waited for.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use crate::host::Bench;
use crate::side::{Done, Ready, Role, Task};

/// What a transfer took.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// From "begin" to "it is loaded".
    pub wall: Duration,
    /// The saving side, when there was one.
    pub source: Done,
    /// The loading side, when there was one.
    pub destination: Done,
}

/// A side's process; ended with this value.
struct Side {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Side {
    fn start(task: &Task) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("side")
            .arg(serde_json::to_string(task)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a side cannot be started")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a side without its pipes");
        };
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn hear<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("a side has ended: {}", self.child.wait()?);
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        Ok(self.input.write_all(b"go\n")?)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It has ended, or is of no use any more.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn task(bench: &Bench, role: Role, url: &str) -> Task {
    let first = match role {
        Role::Source => 1,
        Role::Destination => 1 + bench.pairs(),
    };
    Task {
        host: bench.dir(),
        first,
        count: bench.pairs(),
        role,
        url: url.to_owned(),
    }
}

/// Moves all pairs over connections; `url` is where the destination listens.
///
/// # Errors
/// What a side failed with stands on stderr.
pub fn over_connections(bench: &Bench, url: &str) -> anyhow::Result<Moved> {
    let mut destination = Side::start(&task(bench, Role::Destination, url))?;
    let listens: Ready = destination.hear()?;
    let mut source = Side::start(&task(bench, Role::Source, &listens.url))?;
    source.hear::<Ready>()?;
    let started = Instant::now();
    source.begin()?;
    let done = source.hear()?;
    let wall = started.elapsed();
    Ok(Moved {
        wall,
        source: done,
        destination: destination.hear()?,
    })
}

/// Saves all pairs to a directory.
///
/// # Errors
/// As [`over_connections`].
pub fn to_files(bench: &Bench, url: &str) -> anyhow::Result<Moved> {
    let (wall, source) = alone(bench, Role::Source, url)?;
    Ok(Moved {
        wall,
        source,
        destination: Done::default(),
    })
}

/// Loads all pairs from a directory.
///
/// # Errors
/// As [`over_connections`].
pub fn from_files(bench: &Bench, url: &str) -> anyhow::Result<Moved> {
    let (wall, destination) = alone(bench, Role::Destination, url)?;
    Ok(Moved {
        wall,
        source: Done::default(),
        destination,
    })
}

fn alone(bench: &Bench, role: Role, url: &str) -> anyhow::Result<(Duration, Done)> {
    let mut side = Side::start(&task(bench, role, url))?;
    side.hear::<Ready>()?;
    let started = Instant::now();
    side.begin()?;
    let done = side.hear()?;
    Ok((started.elapsed(), done))
}
