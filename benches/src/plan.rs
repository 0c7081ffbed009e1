// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a comparison runs: each way, size, content and number of VFs, a floor beside each run.
//!
//! A run and its floor follow each other at once, and the ratio is taken of the two: a machine that is busy is busy for both.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::disk;
use crate::floor::{Floor, Socket};
use crate::host::{Bench, Content};
use crate::ours::{self, Moved};
use crate::table::{Figures, Table};

/// How state goes from one VF to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// TCP over loopback.
    Tcp,
    /// TCP without the crate's pipeline: data fds and socket alone.
    Plain,
    /// A unix socket.
    Unix,
    /// To a file on the disk.
    Save,
    /// From a file on the disk.
    Restore,
}

/// What is compared.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Ways.
    pub ways: Vec<Way>,
    /// Bytes of VRAM in all.
    pub sizes: Vec<u64>,
    /// Contents.
    pub contents: Vec<Content>,
    /// Numbers of VFs that share the size.
    pub vfs: Vec<u16>,
    /// Runs of each.
    pub runs: usize,
    /// A directory on the disk.
    pub disk: PathBuf,
}

/// Figures of one row.
#[derive(Debug, Default)]
struct Row {
    wall: Figures,
    floor: Figures,
    ratio: Figures,
    cpu: Figures,
    cpu_ratio: Figures,
    memory: u64,
    stream: u64,
    state: u64,
}

impl Plan {
    /// Runs everything and answers the table; each row is printed as it comes.
    ///
    /// # Errors
    /// When a run fails, or when what arrived is not what was sent.
    pub fn run(&self) -> anyhow::Result<Table> {
        let heads = [
            "way",
            "VRAM",
            "content",
            "VFs",
            "ours, s",
            "floor, s",
            "ratio",
            "quartiles",
            "CPU ours / floor, s",
            "CPU ratio",
            "stream / state",
            "memory, MiB",
        ];
        let mut table = Table::new(&heads);
        let mut floor = Floor::new();
        for size in &self.sizes {
            for vfs in &self.vfs {
                let bench = Bench::new(*vfs, size / u64::from(*vfs))?;
                for content in &self.contents {
                    for way in &self.ways {
                        if *vfs > 1 && matches!(way, Way::Save | Way::Restore) {
                            continue;
                        }
                        let cells = self.row(&bench, &mut floor, *way, *size, *content)?;
                        println!("{}", cells.join(" | "));
                        table.row(&cells);
                    }
                }
            }
        }
        Ok(table)
    }

    fn row(
        &self,
        bench: &Bench,
        floor: &mut Floor,
        way: Way,
        size: u64,
        content: Content,
    ) -> anyhow::Result<Vec<String>> {
        let dir = tempfile::tempdir_in(&self.disk)?;
        let mut row = Row::default();
        let mut floor_cpu = Figures::default();
        for _ in 0..self.runs {
            let (floor, cpu, moved) = match way {
                Way::Tcp | Way::Plain | Way::Unix => {
                    over_sockets(bench, floor, way, content, dir.path())?
                }
                Way::Save | Way::Restore => through_files(bench, way, content, dir.path())?,
            };
            row.add(floor, cpu, &moved);
            floor_cpu.add(cpu);
        }
        let (low, high) = row.ratio.spread();
        Ok(vec![
            format!("{way:?}").to_lowercase(),
            if size >= 1 << 30 {
                format!("{} GiB", size >> 30)
            } else {
                format!("{} MiB", size >> 20)
            },
            format!("{content:?}").to_lowercase(),
            bench.pairs().to_string(),
            format!("{:.3}", row.wall.median()),
            format!("{:.3}", row.floor.median()),
            format!("{:.2}", row.ratio.median()),
            format!("{low:.2} to {high:.2}"),
            format!("{:.2} / {:.2}", row.cpu.median(), floor_cpu.median()),
            format!("{:.2}", row.cpu_ratio.median()),
            format!("{:.3}", row.stream as f64 / row.state as f64),
            format!("{:.1}", row.memory as f64 / (1 << 20) as f64),
        ])
    }
}

impl Row {
    fn add(&mut self, floor: f64, floor_cpu: f64, moved: &Moved) {
        let wall = moved.wall.as_secs_f64();
        self.wall.add(wall);
        self.floor.add(floor);
        self.ratio.add(wall / floor);
        let cpu = moved.source.cpu + moved.destination.cpu;
        self.cpu.add(cpu);
        self.cpu_ratio.add(cpu / floor_cpu);
        for side in [&moved.source, &moved.destination] {
            self.memory = self.memory.max(side.memory);
            if side.state_bytes > 0 {
                (self.state, self.stream) = (side.state_bytes, side.stream_bytes);
            }
        }
    }
}

type Run = (f64, f64, Moved);

fn over_sockets(
    bench: &Bench,
    floor: &mut Floor,
    way: Way,
    content: Content,
    dir: &Path,
) -> anyhow::Result<Run> {
    let (socket, url) = match way {
        Way::Tcp | Way::Plain => (Socket::Tcp, "tcp:127.0.0.1:0".to_owned()),
        Way::Unix => (
            Socket::Unix,
            format!("unix:{}", dir.join("socket").display()),
        ),
        Way::Save | Way::Restore => bail!("no socket"),
    };
    let taken = floor.run(socket, bench.vram(), bench.pairs().into())?;
    let moved = ours::over_connections(bench, content, way == Way::Plain, &url)?;
    Ok((taken.wall.as_secs_f64(), taken.cpu.as_secs_f64(), moved))
}

fn through_files(bench: &Bench, way: Way, content: Content, dir: &Path) -> anyhow::Result<Run> {
    let shm = tempfile::tempdir_in("/dev/shm")?;
    let (memory, plain) = (shm.path().join("vram"), dir.join("plain"));
    bench.random_file(&memory)?;
    let written = disk::write(&memory, &plain)?;
    let [saved, loaded] = ours::through_files(bench, content, &format!("file:{}", dir.display()))?;
    if way == Way::Save {
        return Ok((written.as_secs_f64(), f64::NAN, saved));
    }
    let read = disk::read(&plain, &memory)?;
    Ok((read.as_secs_f64(), f64::NAN, loaded))
}
