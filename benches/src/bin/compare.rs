// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole saves and loads beside their floors: `cargo run --release -p benches --bin compare`.
//!
//! With `--write docs/performance.md` the table replaces the one there. An 8 GiB run needs 17 GiB of /dev/shm.

use std::path::PathBuf;

use benches::host::Content;
use benches::plan::{Plan, Way};
use benches::side::{self, Task};
use benches::table;
use clap::Parser;

/// Moves device state between simulated VFs and compares with the least that it can cost
#[derive(Debug, Parser)]
struct Args {
    /// Ways that the state goes
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "tcp,plain,unix,save,restore"
    )]
    ways: Vec<Way>,
    /// VRAM in all, in MiB
    #[arg(long, value_delimiter = ',', default_value = "256,1024,4096")]
    sizes: Vec<u64>,
    /// What is in VRAM
    #[arg(long, value_delimiter = ',', default_value = "random,half,zero")]
    contents: Vec<Content>,
    /// Numbers of VFs that share the VRAM
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    vfs: Vec<u16>,
    /// Runs of each
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// A directory on the disk that snapshots go to
    #[arg(long, default_value = ".")]
    disk: PathBuf,
    /// A document to write the table to
    #[arg(long)]
    write: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("side") {
        let task: Task = serde_json::from_str(&words.next().unwrap_or_default())?;
        return side::run(&task);
    }
    let args = Args::parse();
    let plan = Plan {
        ways: args.ways,
        sizes: args.sizes.iter().map(|mib| mib << 20).collect(),
        contents: args.contents,
        vfs: args.vfs,
        runs: args.runs,
        disk: args.disk,
    };
    let written = plan.run()?;
    if let Some(document) = args.write {
        table::replace(&document, "compare", written.text())?;
    }
    Ok(())
}
