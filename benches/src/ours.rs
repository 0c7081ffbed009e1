// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A transfer by the crate, from the outside: two processes, started, told to begin, and waited for.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use crate::host::{Bench, Content};
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

fn task(bench: &Bench, role: Role, plain: bool, url: &str) -> Task {
    let first = match role {
        Role::Source => 1,
        Role::Destination => 1 + bench.pairs(),
    };
    Task {
        host: bench.dir(),
        first,
        count: bench.pairs(),
        role,
        plain,
        url: url.to_owned(),
    }
}

/// A source whose VFs are open and hold `content`.
fn filled_source(bench: &Bench, content: Content, plain: bool, url: &str) -> anyhow::Result<Side> {
    let mut source = Side::start(&task(bench, Role::Source, plain, url))?;
    source.hear::<Ready>()?;
    bench.fill(content)?;
    source.begin()?;
    source.hear::<Ready>()?;
    Ok(source)
}

/// Moves all pairs over connections; `url` is where the destination listens; `plain` leaves the crate's pipeline out.
///
/// # Errors
/// What a side failed with stands on stderr. When what arrived is not what was sent.
pub fn over_connections(
    bench: &Bench,
    content: Content,
    plain: bool,
    url: &str,
) -> anyhow::Result<Moved> {
    let mut destination = Side::start(&task(bench, Role::Destination, plain, url))?;
    let listens: Ready = destination.hear()?;
    let mut source = filled_source(bench, content, plain, &listens.url)?;
    let started = Instant::now();
    source.begin()?;
    let done = source.hear()?;
    let wall = started.elapsed();
    let loaded = destination.hear()?;
    bench.check()?;
    Ok(Moved {
        wall,
        source: done,
        destination: loaded,
    })
}

/// Saves all pairs to a directory, then loads them from there; answers both.
///
/// # Errors
/// As [`over_connections`].
pub fn through_files(bench: &Bench, content: Content, url: &str) -> anyhow::Result<[Moved; 2]> {
    let mut source = filled_source(bench, content, false, url)?;
    let (saved, from) = alone(&mut source)?;
    let mut destination = Side::start(&task(bench, Role::Destination, false, url))?;
    destination.hear::<Ready>()?;
    let (loaded, to) = alone(&mut destination)?;
    bench.check()?;
    Ok([
        Moved {
            wall: saved,
            source: from,
            destination: Done::default(),
        },
        Moved {
            wall: loaded,
            source: Done::default(),
            destination: to,
        },
    ])
}

fn alone(side: &mut Side) -> anyhow::Result<(Duration, Done)> {
    let started = Instant::now();
    side.begin()?;
    let done = side.hear()?;
    Ok((started.elapsed(), done))
}
