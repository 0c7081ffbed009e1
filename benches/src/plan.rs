// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a comparison is run: row by row, a floor beside each run, within a time.
//!
//! A run and its floor follow each other at once, and the ratio is taken of the two: a machine that is busy is busy for both.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use demo::host::scratch_directory;

use crate::disk;
use crate::floor::{Floor, Socket};
use crate::host::Bench;
use crate::ours::{Moved, Sources};
use crate::peers::Peers;
use crate::row::{FloorKind, Row, Way};
use crate::sample::{Results, Sample};
use crate::side::Carrying;
use crate::usage;

/// Sizes above this have fewer runs.
const LARGE: u64 = 1 << 30;

const NO_TIME: &str = "there is no time left";

/// What is run.
#[derive(Debug)]
pub struct Plan {
    /// The rows, the important ones first: time may run out.
    pub rows: Vec<Row>,
    /// Runs of each row that there shall be in the end.
    pub runs: usize,
    /// The same for more than 1 GiB.
    pub large_runs: usize,
    /// A directory on the disk.
    pub disk: PathBuf,
    /// No run is begun that would not end before.
    pub until: Option<Instant>,
    /// Other people's programs.
    pub peers: Peers,
}

/// A row with fewer runs than it shall have, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The row.
    pub row: Row,
    /// Why.
    pub why: String,
}

/// What rows have in common, made when the first needs it.
struct Things {
    floor: Floor,
    bench: Option<Bench>,
}

impl Plan {
    /// Runs that a row shall have.
    #[must_use]
    pub fn wanted(&self, row: Row) -> usize {
        if row.size > LARGE {
            self.large_runs
        } else {
            self.runs
        }
    }

    /// Whether a VMM is to be run.
    #[must_use]
    pub fn has_vmms(&self, results: &Results) -> bool {
        let missing = |row: &Row| results.of(*row).count() < self.wanted(*row);
        let vmm = |row: &Row| row.way.is_vmm() && self.peers.have(row.way) && missing(row);
        self.rows.iter().any(vmm)
    }

    /// What is still to be run would take this, by a guess.
    #[must_use]
    pub fn guess(&self, results: &Results) -> Duration {
        let of = |row: &Row| {
            let missing = self.wanted(*row).saturating_sub(results.of(*row).count());
            // A restore comes with its save.
            let shared = row.way == Way::Restore
                && self.rows.contains(&Row {
                    way: Way::Save,
                    ..*row
                });
            row.guess() * if shared { 0 } else { missing as u32 }
        };
        self.rows
            .iter()
            .filter(|row| self.peers.have(row.way))
            .map(of)
            .sum()
    }

    /// Runs what `results` has not, and answers what is missing in the end. Each run is printed as it comes.
    ///
    /// # Errors
    /// When a run without a VMM fails, or when what arrived is not what was sent. A VMM that fails is left out.
    pub fn run(&self, results: &mut Results) -> anyhow::Result<Vec<LeftOut>> {
        let mut things = Things {
            floor: Floor::new(),
            bench: None,
        };
        let mut left = Vec::new();
        for row in &self.rows {
            if let Err(why) = self.row(*row, &mut things, results)? {
                println!("left out: {row}: {why}");
                left.push(LeftOut { row: *row, why });
            }
        }
        Ok(left)
    }

    /// Runs one row to the number of runs that it shall have, or tells why not.
    fn row(
        &self,
        row: Row,
        things: &mut Things,
        results: &mut Results,
    ) -> anyhow::Result<Result<(), String>> {
        let wanted = self.wanted(row);
        if results.of(row).count() >= wanted {
            return Ok(Ok(()));
        }
        if !self.peers.have(row.way) {
            return Ok(Err("its program was not given".to_owned()));
        }
        if self
            .until
            .is_some_and(|until| Instant::now() + row.guess() > until)
        {
            return Ok(Err(NO_TIME.to_owned()));
        }
        // The hosts of a VMM need the memory.
        let shared = |bench: &Bench| !row.way.is_vmm() && bench.is(row);
        if !things.bench.as_ref().is_some_and(shared) {
            things.bench = None;
        }
        if things.bench.is_none()
            && let Err(why) = room_for(row)
        {
            return Ok(Err(why));
        }
        let begun = Instant::now();
        let mut runner = Runner::new(self, row, things)?;
        let mut took = row.guess().max(begun.elapsed());
        while results.of(row).count() < wanted {
            let begun = Instant::now();
            if self.until.is_some_and(|until| begun + took > until) {
                return Ok(Err(NO_TIME.to_owned()));
            }
            let load = usage::load();
            let samples = match runner.run() {
                Ok(samples) => samples,
                Err(error) if row.way.is_vmm() => return Ok(Err(format!("{error:#}"))),
                Err(error) => return Err(error.context(row.to_string())),
            };
            took = begun.elapsed();
            for sample in samples {
                let sample = Sample { load, ..sample };
                println!(
                    "{}: {:.3} s, floor {:.3} s, ratio {:.2}; {:.1} s in all, load {load:.1}",
                    sample.row,
                    sample.wall,
                    sample.floor,
                    sample.ratio(),
                    took.as_secs_f64()
                );
                results.add(sample)?;
            }
        }
        Ok(Ok(()))
    }
}

/// Whether there is memory for the VFs of both sides. Cloud Hypervisor's hosts have one VF more each, and without the series each side holds its VF's state nearly
/// four times over.
fn room_for(row: Row) -> Result<(), String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let (needed, there) = (
        2 * row.size + (1 << 30),
        kib.unwrap_or(u64::MAX >> 10) << 10,
    );
    if needed <= there {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(format!(
        "it needs {:.1} GiB of memory, there are {:.1}",
        gib(needed),
        gib(there)
    ))
}

/// What runs one row again and again.
enum Runner<'a> {
    Sockets {
        row: Row,
        floor: &'a mut Floor,
        sources: Sources<'a>,
        dir: tempfile::TempDir,
    },
    Disk {
        row: Row,
        sources: Sources<'a>,
        /// In memory, what `dd` reads and writes there.
        memory: tempfile::TempDir,
        dir: tempfile::TempDir,
        /// Runs so far: who reads first takes turns, since a disk is not the same for the second.
        run: usize,
    },
    Vmm {
        row: Row,
        floor: &'a mut Floor,
        peers: &'a Peers,
    },
}

impl<'a> Runner<'a> {
    fn new(plan: &'a Plan, row: Row, things: &'a mut Things) -> anyhow::Result<Self> {
        let Things { floor, bench } = things;
        if row.way.is_vmm() {
            return Ok(Self::Vmm {
                row,
                floor,
                peers: &plan.peers,
            });
        }
        if bench.is_none() {
            *bench = Some(Bench::new(row.vfs, row.size / u64::from(row.vfs))?);
        }
        let Some(bench) = bench else {
            bail!("no host");
        };
        let carrying = match row.way {
            Way::Plain => Carrying::Plain,
            Way::TcpSplit => Carrying::Split,
            Way::Handover => Carrying::DataFd,
            _ => Carrying::Stream,
        };
        let sources = Sources::new(bench, row.content, carrying)?;
        if row.way.floor() == FloorKind::Disk {
            let memory = scratch_directory("xe-disk-")?;
            bench.random_file(&memory.path().join("vram"))?;
            return Ok(Self::Disk {
                row,
                sources,
                memory,
                dir: tempfile::tempdir_in(&plan.disk)?,
                run: 0,
            });
        }
        Ok(Self::Sockets {
            row,
            floor,
            sources,
            dir: scratch_directory("xe-socket-")?,
        })
    }

    fn run(&mut self) -> anyhow::Result<Vec<Sample>> {
        match self {
            Self::Sockets {
                row,
                floor,
                sources,
                dir,
            } => {
                let socket = match row.way.floor() {
                    FloorKind::Unix => Socket::Unix,
                    _ => Socket::Tcp,
                };
                let url = match row.way {
                    Way::Unix | Way::Handover => {
                        format!("unix:{}", dir.path().join("socket").display())
                    }
                    _ => "tcp:127.0.0.1:0".to_owned(),
                };
                let vfs = row.vfs.into();
                let taken = floor.run(socket, row.size / u64::from(row.vfs), vfs)?;
                let moved = sources.over_connections(&url)?;
                let sample = sample(*row, &moved, taken.wall);
                Ok(vec![Sample {
                    floor_cpu: Some(taken.cpu.as_secs_f64()),
                    ..sample
                }])
            }
            Self::Disk {
                row,
                sources,
                memory,
                dir,
                run,
            } => {
                let (vram, plain) = (memory.path().join("vram"), dir.path().join("plain"));
                let file = dir.path().join("state");
                let url = format!("file:{}", file.display());
                let written = disk::write(&vram, &plain)?;
                let saved = sources.save(&url)?;
                disk::forget(&plain)?;
                disk::forget(&file)?;
                *run += 1;
                let (read, loaded) = if run.is_multiple_of(2) {
                    let loaded = sources.load(&url)?;
                    (disk::read(&plain, &vram)?, loaded)
                } else {
                    (disk::read(&plain, &vram)?, sources.load(&url)?)
                };
                let row = |way| Row { way, ..*row };
                Ok(vec![
                    sample(row(Way::Save), &saved, written),
                    sample(row(Way::Restore), &loaded, read),
                ])
            }
            Self::Vmm { row, floor, peers } => {
                let taken = floor.run(Socket::Tcp, row.size, 1)?;
                let migrated = peers.run(*row)?;
                Ok(vec![Sample {
                    row: *row,
                    wall: migrated.downtime.as_secs_f64(),
                    floor: taken.wall.as_secs_f64(),
                    cpu: None,
                    floor_cpu: None,
                    source_memory: migrated.source_memory,
                    destination_memory: migrated.destination_memory,
                    state_bytes: 0,
                    stream_bytes: 0,
                    load: 0.0,
                    program: peers.version(row.way),
                }])
            }
        }
    }
}

fn sample(row: Row, moved: &Moved, floor: Duration) -> Sample {
    let Moved {
        wall,
        source,
        destination,
    } = moved;
    Sample {
        row,
        wall: wall.as_secs_f64(),
        floor: floor.as_secs_f64(),
        cpu: Some(source.cpu + destination.cpu),
        floor_cpu: None,
        source_memory: source.memory,
        destination_memory: destination.memory,
        state_bytes: source.state_bytes.max(destination.state_bytes),
        stream_bytes: source.stream_bytes.max(destination.stream_bytes),
        load: 0.0,
        program: None,
    }
}
