// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Transfers by the crate, from the outside: a process for each side, told what to do and waited for.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::{Bench, Content};
use crate::row::Row;
use crate::side::{Carrying, Done, Job, Ready, Role, Task};

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
    fn start(program: &Path, task: &Task) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg("side")
            .arg(serde_json::to_string(task)?)
            // Buffers that are freed go at once, so that the next transfer is seen to take its own.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a side cannot be started")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a side without its pipes");
        };
        let mut side = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        side.hear::<Ready>()?;
        Ok(side)
    }

    fn hear<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("a side has ended: {}", self.child.wait()?);
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn tell(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(value)? + "\n";
        Ok(self.input.write_all(line.as_bytes())?)
    }

    /// Has a job prepared as far as it can be before it begins; answers where a destination listens.
    fn prepare(&mut self, url: &str, carrying: Carrying) -> anyhow::Result<String> {
        let url = url.to_owned();
        self.tell(&Job { url, carrying })?;
        Ok(self.hear::<Ready>()?.url)
    }

    /// Has the job done that was prepared, and answers how long it took.
    fn go(&mut self) -> anyhow::Result<(Duration, Done)> {
        let started = Instant::now();
        self.tell(&())?;
        let done = self.hear()?;
        Ok((started.elapsed(), done))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It has ended, or is of no use any more.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A host with sources and destinations in a process for each side. What a source has can be sent again and again, since a save consumes nothing;
/// a destination is reset before each transfer, which empties it.
pub struct Pairs {
    // Before the host that they are on.
    source: Side,
    destination: Side,
    bench: Bench,
    content: Option<Content>,
}

impl Pairs {
    /// Makes the host of `row`, and starts both sides.
    ///
    /// # Errors
    /// When there is not enough memory, among others. What a side failed with stands on stderr.
    pub fn new(row: Row) -> anyhow::Result<Self> {
        let bench = Bench::new(row.vfs, row.size / u64::from(row.vfs))?;
        let program = std::env::current_exe()?;
        let side = |role, first| {
            let task = Task {
                host: bench.dir(),
                first,
                count: bench.pairs(),
                role,
            };
            Side::start(&program, &task)
        };
        Ok(Self {
            source: side(Role::Source, 1)?,
            destination: side(Role::Destination, 1 + bench.pairs())?,
            bench,
            content: None,
        })
    }

    /// The host.
    pub fn bench(&self) -> &Bench {
        &self.bench
    }

    /// Whether its VFs are those of `row`.
    pub fn are(&self, row: Row) -> bool {
        self.bench.is(row)
    }

    /// Fills the sources, if they do not hold that already.
    ///
    /// # Errors
    /// Those of writing it.
    pub fn fill(&mut self, content: Content) -> anyhow::Result<()> {
        if self.content != Some(content) {
            self.content = None;
            self.bench.fill(content)?;
            self.content = Some(content);
        }
        Ok(())
    }

    /// Moves all of it over connections; `url` is where the destination listens. Once the destination waits there, `before` is done, and the
    /// transfer follows at once.
    ///
    /// # Errors
    /// What a side failed with stands on stderr. When what arrived is not what was sent. Those of `before`.
    pub fn over_connections<T>(
        &mut self,
        url: &str,
        carrying: Carrying,
        before: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Moved)> {
        let url = self.destination.prepare(url, carrying)?;
        self.bench.soil()?;
        let before = before()?;
        self.source.prepare(&url, carrying)?;
        let (wall, source) = self.source.go()?;
        let destination = self.destination.hear()?;
        self.check()?;
        let moved = Moved {
            wall,
            source,
            destination,
        };
        Ok((before, moved))
    }

    /// Saves the VF's state in the file at `url`.
    ///
    /// # Errors
    /// As [`Pairs::over_connections`].
    pub fn save(&mut self, url: &str) -> anyhow::Result<Moved> {
        self.source.prepare(url, Carrying::Stream)?;
        let (wall, source) = self.source.go()?;
        Ok(Moved {
            wall,
            source,
            destination: Done::default(),
        })
    }

    /// Loads what [`Pairs::save`] has saved at `url`.
    ///
    /// # Errors
    /// As [`Pairs::over_connections`].
    pub fn load(&mut self, url: &str) -> anyhow::Result<Moved> {
        self.destination.prepare(url, Carrying::Stream)?;
        self.bench.soil()?;
        let (wall, destination) = self.destination.go()?;
        self.check()?;
        Ok(Moved {
            wall,
            source: Done::default(),
            destination,
        })
    }

    fn check(&self) -> anyhow::Result<()> {
        let content = self.content.context("the sources were not filled")?;
        self.bench.check(content)
    }
}
