// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `host-sim fault`.

use std::path::PathBuf;

use host_sim::host::Host;
use host_sim::vf::{Effect, Errno, FaultSpec, Op};

use super::{Error, vf};

/// Arguments of `host-sim fault`.
#[derive(Debug, clap::Args)]
pub struct Fault {
    /// Directory of the host
    dir: PathBuf,
    /// The VF; with --clear all of them when left out
    #[arg(long, required_unless_present = "clear")]
    vf: Option<u16>,
    /// Operation: read, write, reset, map-dma, arc:RUNNING->RUNNING_P2P, ... (a wrong name prints them all)
    #[arg(long, required_unless_present = "clear")]
    op: Option<String>,
    /// First call that is hit, counted from now
    #[arg(long, default_value_t = 1, conflicts_with = "clear")]
    nth: u32,
    /// Number of calls that are hit
    #[arg(long, default_value_t = 1, conflicts_with = "clear")]
    count: u32,
    #[command(flatten)]
    effect: EffectArgs,
    /// End the faults: of all VFs, or those of --vf and --op
    #[arg(long, conflicts_with = "EffectArgs")]
    clear: bool,
}

/// What happens.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct EffectArgs {
    /// The call answers this errno, such as EIO
    #[arg(long, value_parser = errno)]
    errno: Option<Errno>,
    /// A read or write moves at most so many bytes
    #[arg(long)]
    short: Option<u64>,
    /// The call takes so many milliseconds longer
    #[arg(long)]
    delay_ms: Option<u64>,
    /// The call does not end until the fault is cleared
    #[arg(long)]
    stuck: bool,
}

fn errno(name: &str) -> Result<Errno, String> {
    Errno::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Errno::NAMED.iter().map(|(name, _)| *name).collect();
        format!("use a number or one of {}", names.join(", "))
    })
}

impl EffectArgs {
    fn effect(&self) -> Option<Effect> {
        let stuck = self.stuck.then_some(Effect::Stuck);
        let errno = self.errno.map(Effect::Errno);
        errno
            .or(self.short.map(Effect::Short))
            .or(self.delay_ms.map(Effect::DelayMs))
            .or(stuck)
    }
}

impl Fault {
    /// Sets or clears faults.
    pub fn run(&self) -> Result<(), Error> {
        let host = Host::open(&self.dir)?;
        let op = self.op.as_deref().map(str::parse::<Op>).transpose()?;
        if self.clear {
            let chosen = match self.vf {
                Some(index) => vec![vf(&host, index)?],
                None => host.vfs().to_vec(),
            };
            for vf in chosen {
                vf.faults().clear(op);
            }
            return Ok(());
        }
        let (Some(index), Some(op)) = (self.vf, op) else {
            return Err(Error::Usage(
                "Say which VF and which operation: --vf N --op OP",
            ));
        };
        let Some(effect) = self.effect.effect() else {
            return Err(Error::Usage(
                "Say what happens: --errno NAME, --short N, --delay-ms N or --stuck",
            ));
        };
        vf(&host, index)?.faults().add(&FaultSpec {
            op,
            nth: self.nth,
            count: self.count,
            effect,
        })?;
        Ok(())
    }
}
