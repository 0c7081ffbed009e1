// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole saves and loads beside their floors: `cargo run --release -p benches --bin compare`.
//!
//! With `--results FILE` runs are kept, and a comparison that was ended goes on where it was. With `--write docs/performance.md` the table there
//! and the pictures beside it are replaced by what the results say; `--runs 0` does only that. 8 GiB need 17 GiB of memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use benches::host::Content;
use benches::peers::Peers;
use benches::plan::Plan;
use benches::report;
use benches::row::{Selection, Way};
use benches::sample::Results;
use benches::side::{self, Task};
use clap::{Parser, ValueEnum};
use demo::programs::Programs;
use e2e::cloud_hypervisor::Binaries;

/// Moves device state between simulated VFs and compares with the least that it can cost
#[derive(Debug, Parser)]
struct Args {
    /// Ways that the state goes; all when none is given
    #[arg(long, value_delimiter = ',')]
    ways: Vec<Way>,
    /// VRAM in all, in MiB; with any of sizes, contents and VFs given all combinations are run, else the usual ones
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<u64>,
    /// What is in VRAM
    #[arg(long, value_delimiter = ',')]
    contents: Vec<Content>,
    /// Numbers of VFs that share the VRAM
    #[arg(long, value_delimiter = ',')]
    vfs: Vec<u16>,
    /// Runs of each row
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Runs of rows with more than 1 GiB; as many as of the others when it is not given
    #[arg(long)]
    large_runs: Option<usize>,
    /// Begin no run that would end later than this from the first
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Print the rows and how long they would take, and end
    #[arg(long)]
    list: bool,
    /// Keep runs in this file, and do not repeat what it has
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// A directory on the disk that snapshots go to
    #[arg(long, default_value = ".")]
    disk: PathBuf,
    /// A directory with cloud-hypervisor and ch-remote, built with the series in vmm-patches/
    #[arg(long, value_name = "DIR")]
    cloud_hypervisor: Option<PathBuf>,
    /// The same, built without
    #[arg(long, value_name = "DIR")]
    cloud_hypervisor_unpatched: Option<PathBuf>,
    /// qemu-system-x86_64, 8.1 or newer
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
    /// A document to write the table to, and pictures to img/ beside it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

fn binaries(dir: &Path) -> anyhow::Result<Binaries> {
    let [cloud_hypervisor, ch_remote] =
        ["cloud-hypervisor", "ch-remote"].map(|name| dir.join(name));
    for program in [&cloud_hypervisor, &ch_remote] {
        ensure!(program.is_file(), "There is no {}", program.display());
    }
    Ok(Binaries {
        cloud_hypervisor,
        ch_remote,
    })
}

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("side") {
        let task: Task = serde_json::from_str(&words.next().unwrap_or_default())?;
        return side::run(&task);
    }
    let args = Args::parse();
    let selection = Selection {
        ways: if args.ways.is_empty() {
            Way::value_variants().to_vec()
        } else {
            args.ways
        },
        sizes: args.sizes.iter().map(|mib| mib << 20).collect(),
        contents: args.contents,
        vfs: args.vfs,
    };
    let both = |dir: &Option<PathBuf>| dir.as_deref().map(binaries).transpose();
    let peers = Peers {
        cloud_hypervisor: both(&args.cloud_hypervisor)?,
        cloud_hypervisor_unpatched: both(&args.cloud_hypervisor_unpatched)?,
        qemu: args.qemu,
    };
    let minutes = args
        .minutes
        .map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let mut plan = Plan {
        rows: selection.rows(),
        runs: args.runs,
        large_runs: args.large_runs.unwrap_or(args.runs),
        disk: args.disk,
        until: None,
        peers,
    };
    let mut results = Results::open(args.results.as_deref())?;
    let guess = plan.guess(&results).as_secs_f64() / 60.0;
    if args.list {
        for &row in &plan.rows {
            let (done, wanted) = (results.of(row).count(), plan.wanted(row));
            let seconds = plan.guess_of(row, &results).as_secs_f64();
            println!("{row}: {done} of {wanted} runs, {seconds:.0} s left");
        }
        println!("about {guess:.1} minutes");
        return Ok(());
    }
    demo::cleanup::on_signals()?;
    println!("{} rows, about {guess:.1} minutes", plan.rows.len());
    if plan.has_vmms(&results) {
        Programs::build()?;
    }
    plan.until = minutes.map(|minutes| Instant::now() + minutes);
    let left = plan.run(&mut results)?;
    print!(
        "{}{}",
        report::table(&results).text(),
        report::note(&results, &report::machine())
    );
    for left in &left {
        println!("left out: {}: {}", left.row, left.why);
    }
    if let Some(document) = args.write {
        report::write(&results, &document)?;
    }
    Ok(())
}
