// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `host-sim storm`: a VF writes guest memory as hard as it can, and somebody compares.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use host_sim::host::Host;
use host_sim::vf::{StormCheck, StormSpec};

use super::{Error, size, vf};

/// What to do with a storm.
#[derive(Debug, Subcommand)]
pub enum Storm {
    /// Let the VF write random pages of an IOVA range whenever it is in RUNNING, until stop, a reset or the last close
    Start(Start),
    /// End the storm; what it wrote can be checked after it
    Stop {
        #[command(flatten)]
        of: Of,
    },
    /// Have the VF read the range by DMA and compare it with what was written last, by itself or by a VF of another host
    Check(Check),
}

/// A VF of a host.
#[derive(Debug, clap::Args)]
pub struct Of {
    /// Directory of the host
    dir: PathBuf,
    /// The VF
    #[arg(long)]
    vf: u16,
}

/// Arguments of `host-sim storm start`.
#[derive(Debug, clap::Args)]
pub struct Start {
    #[command(flatten)]
    of: Of,
    /// First IOVA, a guest physical address without a virtual IOMMU, such as 32M
    #[arg(long, value_parser = size::parse)]
    iova: u64,
    /// Bytes of the range, such as 64M
    #[arg(long, value_parser = size::parse)]
    len: u64,
    /// Pages per second; 0 for as many as possible
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Bytes written in each page, 32 to 4096
    #[arg(long, default_value_t = 4096)]
    unit: u32,
    /// Another seed, other pages and contents
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write each page once, in order, and end
    #[arg(long)]
    sweep: bool,
}

/// Arguments of `host-sim storm check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    of: Of,
    /// Directory of the host whose VF wrote; this host when left out
    #[arg(long)]
    written_by: Option<PathBuf>,
    /// The VF that wrote; the one of --vf when left out
    #[arg(long)]
    written_by_vf: Option<u16>,
    /// Most seconds to wait for the VF
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Storm {
    /// Does it.
    pub fn run(&self) -> Result<(), Error> {
        match self {
            Self::Start(start) => start.run(),
            Self::Stop { of } => {
                let vf = vf(&Host::open(&of.dir)?, of.vf)?;
                vf.storm_stop();
                if let Some(status) = vf.storm_status() {
                    println!("{} writes, {} faults", status.writes, status.faults);
                }
                Ok(())
            }
            Self::Check(check) => check.run(),
        }
    }
}

impl Start {
    fn run(&self) -> Result<(), Error> {
        let spec = StormSpec {
            iova: self.iova,
            len: self.len,
            rate: self.rate,
            unit: self.unit,
            seed: self.seed,
            sweep: self.sweep,
        };
        let vf = vf(&Host::open(&self.of.dir)?, self.of.vf)?;
        vf.storm_start(&spec).map_err(Error::StormStart)
    }
}

impl Check {
    fn run(&self) -> Result<(), Error> {
        let host = Host::open(&self.of.dir)?;
        let reader = vf(&host, self.of.vf)?;
        let index = self.written_by_vf.unwrap_or(self.of.vf);
        let writer = match &self.written_by {
            Some(dir) => vf(&Host::open(dir)?, index)?,
            None => vf(&host, index)?,
        };
        // The same VF, not another mapping of it.
        let same = writer.index() == reader.index() && self.written_by.is_none();
        let source = if same { &reader } else { &writer };
        let check = reader.storm_check(source, Duration::from_secs(self.seconds))?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&check)?);
        } else {
            print(&check);
        }
        if check.is_right() {
            Ok(())
        } else {
            Err(Error::StormWrong)
        }
    }
}

fn print(check: &StormCheck) {
    println!(
        "{} pages intact, {} lost, {} torn, {} ahead, {} unreadable",
        check.intact, check.lost, check.torn, check.ahead, check.unreadable
    );
    if let Some(iova) = check.first_bad.checked_sub(1) {
        println!("first at {iova:#x}");
    }
}
