// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What compression does on links of several rates: `link [--mib N] [--runs N] [--rates G,G,...] [--write DOCUMENT]`.
//!
//! State goes from one simulated VF to another over TCP on loopback whose sender is held up (see `benches::link`), in one process, and is compared when
//! it has arrived. The table is medians; it goes between the marks `link` of a document.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use benches::host::{Bench, VRAM_MIB_IN_FILE};
use benches::link::{HELD, Link};
use benches::table::{Table, replace};
use benches::usage;
use benches::vf::{Device, open};
use clap::Parser;
use host_sim::boundary;
use host_sim::host::Host;
use xe_vfio_device::stream::Totals;
use xe_vfio_device::transfer::{Compression, Deadlines, Incoming};

const MIB: u64 = 1 << 20;

#[derive(Parser)]
struct Options {
    /// MiB of VRAM
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// Runs of each row
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Gbit/s, 0 for loopback as it is
    #[arg(long, value_delimiter = ',', default_value = "0.5,1,2.5,5,10,0")]
    rates: Vec<f64>,
    /// Puts the table between its marks in a document
    #[arg(long, value_name = "DOCUMENT")]
    write: Option<PathBuf>,
}

/// What VRAM holds.
#[derive(Clone, Copy, PartialEq)]
enum Content {
    /// Words of a vocabulary, in no order.
    Text,
    /// Bytes without a pattern.
    Random,
}

impl Content {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Random => "random",
        }
    }

    /// Its `number`th MiB.
    fn make(self, number: u64) -> Vec<u8> {
        let mut state = number << 20 | 1;
        let mut random = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let word = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        let mut bytes = Vec::with_capacity(MIB as usize + 16);
        while bytes.len() < MIB as usize {
            let drawn = random();
            match self {
                Self::Random => bytes.extend_from_slice(&(drawn ^ drawn >> 31).to_le_bytes()),
                Self::Text => {
                    // Of 4096 words of 3 to 10 letters, those of few letters more often.
                    let word = (drawn >> 52).wrapping_mul(0x5851_f42d_4c95_7f2d);
                    let length = 3 + (word >> 60) as usize % 8;
                    let letters = (0..length).map(|at| b'a' + (word >> (5 * at) & 15) as u8);
                    bytes.extend(letters);
                    bytes.push(b' ');
                }
            }
        }
        bytes.truncate(MIB as usize);
        bytes
    }
}

/// One transfer.
struct Run {
    wall: Duration,
    cpu: Duration,
    totals: Totals,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let vram = options.mib * MIB;
    let bench = Bench::new(1, vram)?;
    boundary::attach(&bench.dir())?;
    let host = Host::open(&bench.dir())?;
    let source = open(&host, 1, "vf0".to_owned())?;
    let destination = open(&host, 2, "vf0".to_owned())?;
    let mut table = Table::new(&[
        "link",
        "content",
        "compression",
        "time, s",
        "to off",
        "quartiles",
        "stream / state",
        "frames lz4 / zstd / all",
        "CPU, s",
    ]);
    for content in [Content::Text, Content::Random] {
        let (from, to) = (
            File::options().write(true).open(bench.memory_path(1))?,
            VRAM_MIB_IN_FILE,
        );
        for number in 0..options.mib {
            from.write_all_at(&content.make(number), (to + number) * MIB)?;
        }
        for rate in &options.rates {
            row(
                &options,
                *rate,
                content,
                &bench,
                (&source, &destination),
                &mut table,
            )?;
        }
    }
    let cores = thread::available_parallelism()?;
    let text = format!(
        "{}\n{cores} cores for both sides, {} MiB of VRAM, {} runs, medians; the link holds {} MiB. Load of the machine at the end: {:.1}.\n",
        table.text(),
        options.mib,
        options.runs,
        HELD >> 20,
        usage::load()
    );
    match &options.write {
        Some(document) => replace(document, "link", &text),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// Every way on one link with one content; runs take turns, so that what else the machine does meets all of them.
fn row(
    options: &Options,
    gbit: f64,
    content: Content,
    bench: &Bench,
    devices: (&Device, &Device),
    table: &mut Table,
) -> anyhow::Result<()> {
    let rate = (gbit > 0.0).then(|| gbit * 1e9 / 8.0);
    let mut runs: Vec<Vec<Run>> = Compression::ALL.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.runs {
        for (compression, runs) in Compression::ALL.into_iter().zip(&mut runs) {
            runs.push(moved(devices, compression, rate)?);
            compare(&bench.memory_path(1), &bench.memory_path(2), options.mib)?;
        }
    }
    let link = match rate {
        Some(_) => format!("{gbit} Gbit/s"),
        None => "loopback".to_owned(),
    };
    for (compression, of) in Compression::ALL.into_iter().zip(&runs) {
        let seconds = |of: &dyn Fn(&Run) -> f64, runs: &[Run]| -> Vec<f64> {
            let mut all: Vec<f64> = runs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let wall = seconds(&|run| run.wall.as_secs_f64(), of);
        let cpu = seconds(&|run| run.cpu.as_secs_f64(), of);
        let mut ratios: Vec<f64> = of
            .iter()
            .zip(&runs[0])
            .map(|(run, off)| run.wall.as_secs_f64() / off.wall.as_secs_f64())
            .collect();
        ratios.sort_by(f64::total_cmp);
        let middle = |sorted: &[f64]| sorted[sorted.len() / 2];
        let quarter = |sorted: &[f64], nth: usize| sorted[(sorted.len() - 1) * nth / 4];
        let totals = &of[of.len() / 2].totals;
        let cells = [
            link.clone(),
            content.name().to_owned(),
            compression.to_string(),
            format!("{:.2}", middle(&wall)),
            format!("{:.2}", middle(&ratios)),
            format!("{:.2} to {:.2}", quarter(&ratios, 1), quarter(&ratios, 3)),
            format!(
                "{:.3}",
                totals.wire_bytes as f64 / totals.payload_bytes as f64
            ),
            format!(
                "{} / {} / {}",
                totals.lz4.frames, totals.zstd.frames, totals.frames
            ),
            format!("{:.2}", middle(&cpu)),
        ];
        eprintln!("{}", cells.join(" | "));
        table.row(&cells);
    }
    Ok(())
}

/// Moves the source's state once.
fn moved(
    (source, destination): (&Device, &Device),
    compression: Compression,
    rate: Option<f64>,
) -> anyhow::Result<Run> {
    for step in [Device::start, Device::quiesce, Device::stop] {
        step(source)?;
    }
    destination.unstop()?;
    destination.run()?;
    destination.prepare_load()?;
    source.compress(compression);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let here = TcpStream::connect(listener.local_addr()?)?;
    let there = listener.accept()?.0;
    let (started, before) = (Instant::now(), usage::cpu());
    let (sent, loaded) = thread::scope(|scope| {
        let load = || {
            let incoming = Incoming::accept(there, &Deadlines::default())?;
            anyhow::Ok(destination.load_from(incoming)?)
        };
        let loading = scope.spawn(load);
        let sent = source.send_over(Link::new(here, rate));
        let loaded = loading.join();
        (sent, loaded.unwrap_or_else(|_| bail!("a thread panicked")))
    });
    let (report, _) = (sent?, loaded?);
    Ok(Run {
        wall: started.elapsed(),
        cpu: usage::cpu().saturating_sub(before),
        totals: report.totals,
    })
}

/// Fails unless both VRAMs have the same bytes.
fn compare(one: &Path, other: &Path, mib: u64) -> anyhow::Result<()> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (mut here, mut there) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    for number in VRAM_MIB_IN_FILE..VRAM_MIB_IN_FILE + mib {
        one.read_exact_at(&mut here, number * MIB)
            .and_then(|()| other.read_exact_at(&mut there, number * MIB))
            .context("VRAM cannot be read")?;
        ensure!(here == there, "MiB {number} is another one");
    }
    Ok(())
}
