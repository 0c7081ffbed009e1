// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a comparison is run: row by row, a floor beside each run, within a time.
//!
//! A run and its floor follow each other at once, and the ratio is taken of the two: a machine that is busy is busy for both.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use demo::host::scratch_directory;

use crate::disk::{self, Stretch};
use crate::floor::{Floor, Socket};
use crate::host::VRAM_MIB_IN_FILE;
use crate::ours::{Moved, Pairs};
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
    pairs: Option<Pairs>,
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
        let rows = self.rows.iter();
        rows.map(|row| self.guess_of(*row, results)).sum()
    }

    /// What is still to be run of a row would take this, by a guess: nothing where its program was not given.
    #[must_use]
    pub fn guess_of(&self, row: Row, results: &Results) -> Duration {
        let missing = self.wanted(row).saturating_sub(results.of(row).count());
        // A restore comes with its save.
        let saved = Row {
            way: Way::Save,
            ..row
        };
        let comes = row.way == Way::Restore && self.rows.contains(&saved);
        if missing == 0 || comes || !self.peers.have(row.way) {
            return Duration::ZERO;
        }
        row.guess() * missing as u32 + row.guess_preparation()
    }

    /// Runs what `results` has not, and answers what is missing in the end. Each run is printed as it comes.
    ///
    /// # Errors
    /// When a run without a VMM fails, or when what arrived is not what was sent. A VMM that fails is left out.
    pub fn run(&self, results: &mut Results) -> anyhow::Result<Vec<LeftOut>> {
        let mut things = Things {
            floor: Floor::new(),
            pairs: None,
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
        let shared = |pairs: &Pairs| !row.way.is_vmm() && pairs.are(row);
        if !things.pairs.as_ref().is_some_and(shared) {
            things.pairs = None;
        }
        if things.pairs.is_none()
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

/// Whether there is memory for the VFs of both sides.
fn room_for(row: Row) -> Result<(), String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    // Cloud Hypervisor's hosts have one VF more each, and without the series each side holds its VF's state nearly four times over.
    let times = match row.way {
        Way::CloudHypervisor => 4,
        Way::CloudHypervisorUnpatched => 12,
        _ => 2,
    };
    let (needed, there) = (
        times * row.size + (1 << 30),
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
        pairs: &'a mut Pairs,
        dir: tempfile::TempDir,
    },
    Disk {
        row: Row,
        pairs: &'a mut Pairs,
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
        let Things { floor, pairs } = things;
        if row.way.is_vmm() {
            return Ok(Self::Vmm {
                row,
                floor,
                peers: &plan.peers,
            });
        }
        let pairs = match pairs {
            Some(pairs) => pairs,
            None => pairs.insert(Pairs::new(row)?),
        };
        pairs.fill(row.content)?;
        Ok(if row.way.floor() == FloorKind::Disk {
            Self::Disk {
                row,
                pairs,
                dir: tempfile::tempdir_in(&plan.disk)?,
                run: 0,
            }
        } else {
            Self::Sockets {
                row,
                floor,
                pairs,
                dir: scratch_directory("xe-socket-")?,
            }
        })
    }

    fn run(&mut self) -> anyhow::Result<Vec<Sample>> {
        match self {
            Self::Sockets {
                row,
                floor,
                pairs,
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
                let carrying = match row.way {
                    Way::Plain => Carrying::Plain,
                    Way::TcpSplit => Carrying::Split,
                    Way::Handover => Carrying::DataFd,
                    _ => Carrying::Stream,
                };
                let vfs = row.vfs.into();
                let floor = || Ok(floor.run(socket, row.size / u64::from(row.vfs), vfs)?);
                let (taken, moved) = pairs.over_connections(&url, carrying, floor)?;
                Ok(vec![Sample {
                    floor_cpu: Some(taken.cpu.as_secs_f64()),
                    ..sample(*row, &moved, taken.wall)
                }])
            }
            Self::Disk {
                row,
                pairs,
                dir,
                run,
            } => {
                let vram = |pairs: &Pairs, vf| Stretch {
                    path: pairs.bench().memory_path(vf),
                    from_mib: VRAM_MIB_IN_FILE,
                    mib: row.size >> 20,
                };
                let (from, to) = (vram(pairs, 1), vram(pairs, 2));
                let (plain, file) = (dir.path().join("plain"), dir.path().join("state"));
                let url = format!("file:{}", file.display());
                let written = disk::write(&from, &plain)?;
                let saved = pairs.save(&url)?;
                disk::forget(&plain)?;
                disk::forget(&file)?;
                *run += 1;
                let (read, loaded) = if run.is_multiple_of(2) {
                    let loaded = pairs.load(&url)?;
                    (disk::read(&plain, &to)?, loaded)
                } else {
                    (disk::read(&plain, &to)?, pairs.load(&url)?)
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
