// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A transfer by the crate, from the outside: two processes, started, told to begin, and waited for.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use crate::host::{Bench, Content};
use crate::side::{Carrying, Done, Ready, Role, Task};

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
    fn start(program: &PathBuf, task: &Task) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
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

    fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes())?)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.tell("go")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It has ended, or is of no use any more.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The sources of a host with their state, which can be sent again and again, each time to destinations of a new process.
pub struct Sources<'a> {
    bench: &'a Bench,
    carrying: Carrying,
    program: PathBuf,
    side: Side,
}

fn task(bench: &Bench, role: Role, carrying: Carrying, url: &str) -> Task {
    let first = match role {
        Role::Source => 1,
        Role::Destination => 1 + bench.pairs(),
    };
    Task {
        host: bench.dir(),
        first,
        count: bench.pairs(),
        role,
        carrying,
        url: url.to_owned(),
    }
}

impl<'a> Sources<'a> {
    /// Opens the sources, fills them and stops them.
    ///
    /// # Errors
    /// What a side failed with stands on stderr.
    pub fn new(bench: &'a Bench, content: Content, carrying: Carrying) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut side = Side::start(&program, &task(bench, Role::Source, carrying, ""))?;
        side.hear::<Ready>()?;
        bench.fill(content)?;
        side.begin()?;
        side.hear::<Ready>()?;
        Ok(Self {
            bench,
            carrying,
            program,
            side,
        })
    }

    fn destination(&self, url: &str) -> anyhow::Result<Side> {
        let task = task(self.bench, Role::Destination, self.carrying, url);
        Side::start(&self.program, &task)
    }

    /// Moves all of it over connections; `url` is where the destination listens.
    ///
    /// # Errors
    /// What a side failed with stands on stderr. When what arrived is not what was sent.
    pub fn over_connections(&mut self, url: &str) -> anyhow::Result<Moved> {
        let mut destination = self.destination(url)?;
        let listens: Ready = destination.hear()?;
        let (wall, source) = self.send_to(&listens.url)?;
        let destination = destination.hear_and_check(self.bench)?;
        Ok(Moved {
            wall,
            source,
            destination,
        })
    }

    /// Saves all of it at `url`, a file or a directory.
    ///
    /// # Errors
    /// As [`Sources::over_connections`].
    pub fn save(&mut self, url: &str) -> anyhow::Result<Moved> {
        let (wall, source) = self.send_to(url)?;
        Ok(Moved {
            wall,
            source,
            destination: Done::default(),
        })
    }

    /// Loads what [`Sources::save`] has saved at `url`.
    ///
    /// # Errors
    /// As [`Sources::over_connections`].
    pub fn load(&self, url: &str) -> anyhow::Result<Moved> {
        let mut side = self.destination(url)?;
        side.hear::<Ready>()?;
        let started = Instant::now();
        side.begin()?;
        let destination = side.hear()?;
        let wall = started.elapsed();
        self.bench.check()?;
        Ok(Moved {
            wall,
            source: Done::default(),
            destination,
        })
    }

    fn send_to(&mut self, url: &str) -> anyhow::Result<(Duration, Done)> {
        self.side.tell(url)?;
        self.side.hear::<Ready>()?;
        let started = Instant::now();
        self.side.begin()?;
        let done = self.side.hear()?;
        Ok((started.elapsed(), done))
    }
}

impl Side {
    /// What it says in the end, when its VFs have what their sources have.
    fn hear_and_check(&mut self, bench: &Bench) -> anyhow::Result<Done> {
        let done = self.hear()?;
        bench.check()?;
        Ok(done)
    }
}
