// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a migratable VF behaves at the system calls, told line by line.
//!
//!     conformance --device /sys/bus/pci/devices/<VF> [--peer PATH] [--plain PATH] [--logging PATH] [--tracking PATH] [--untracked PATH]
//!         [--only NAME] [--part K/N] [--faults debugfs|PROGRAM] [--json]
//!
//! It runs on a real kernel and on whatever stands in for one, unchanged, and knows neither. Each behaviour runs in a process of
//! its own with a limit of time, so that one that hangs or crashes fails alone. Status: 0 all passed, 1 otherwise.
//! It resets the VFs it is given: no VM may have them.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::check::{Outcome, Verdict};
use crate::suite::{Faults, World};

mod check;
mod iommufd;
mod stream;
mod suite;
mod sys;
mod vf;

#[derive(Parser)]
#[command(about = "How a migratable VF behaves at the system calls")]
struct Options {
    /// sysfs directory of the VF under test
    #[arg(long)]
    device: Option<PathBuf>,
    /// sysfs directory of another VF of the same PF
    #[arg(long)]
    peer: Option<PathBuf>,
    /// sysfs directory of a VF whose platform does not support migration
    #[arg(long)]
    plain: Option<PathBuf>,
    /// sysfs directory of a VF that offers DMA_LOGGING_*; no Xe VF does
    #[arg(long)]
    logging: Option<PathBuf>,
    /// sysfs directory of a VF behind an IOMMU with dirty tracking
    #[arg(long)]
    tracking: Option<PathBuf>,
    /// sysfs directory of a VF behind an IOMMU without dirty tracking
    #[arg(long)]
    untracked: Option<PathBuf>,
    /// Only behaviours whose name contains this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Only the K-th of N parts of the table, for VFs that work in parallel
    #[arg(long, value_name = "K/N", value_parser = part, default_value = "1/1")]
    part: (usize, usize),
    /// How the PF can be made to fail: none, debugfs (the kernel lab's provider), or a program's path
    #[arg(long, default_value = "none", value_parser = faults)]
    faults: Faults,
    /// One JSON object per line instead of text
    #[arg(long)]
    json: bool,
    /// Seconds that one behaviour may take
    #[arg(long, default_value_t = 90)]
    limit: u64,
    #[command(subcommand)]
    command: Option<Inner>,
}

fn faults(text: &str) -> Result<Faults, String> {
    Ok(match text {
        "none" => Faults::None,
        "debugfs" => Faults::Debugfs("/sys/kernel/debug/xe-lab".into()),
        program => Faults::Program(program.into()),
    })
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    parsed
        .filter(|(k, n)| (1..=*n).contains(k))
        .ok_or_else(|| "expected K/N, such as 1/2".into())
}

impl Options {
    fn wants(&self, at: usize, name: &str) -> bool {
        let (k, n) = self.part;
        at % n == k - 1
            && (self.only.is_empty() || self.only.iter().any(|part| name.contains(part)))
    }
}

/// What this program starts itself as.
#[derive(Subcommand)]
enum Inner {
    /// Runs one behaviour in this process.
    #[command(hide = true)]
    One { name: String },
    /// Plays the other process of a behaviour.
    #[command(hide = true)]
    Helper { role: String },
}

const SKIPPED: u8 = 77;

fn status(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Verdict::Failed(text)) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
        Err(Verdict::Skipped(text)) => {
            eprintln!("{text}");
            ExitCode::from(SKIPPED)
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code().unwrap_or(-1)),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill().and_then(|()| child.wait());
                return None;
            }
        }
    }
}

/// Runs a behaviour as a process of its own.
fn isolated(name: &str, limit: Duration) -> Outcome {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .args(["one", name])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    });
    let mut child =
        started.map_err(|error| Verdict::Failed(format!("cannot be started: {error}")))?;
    let code = wait(&mut child, limit);
    let mut text = String::new();
    if let (Some(_), Some(mut stderr)) = (code, child.stderr.take()) {
        let _ = stderr.read_to_string(&mut text);
    }
    let text = text.trim().to_owned();
    match code {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(SKIPPED) => Err(Verdict::Skipped(text)),
        Some(-1) => Err(Verdict::Failed(format!("it was killed by a signal {text}"))),
        Some(_) => Err(Verdict::Failed(text)),
        None => Err(Verdict::Failed(format!(
            "no end within {} s",
            limit.as_secs()
        ))),
    }
}

fn tell(json: bool, name: &str, outcome: &Outcome, millis: u128) {
    let (word, text) = match outcome {
        Ok(()) => ("ok", ""),
        Err(Verdict::Failed(text)) => ("FAILED", text.as_str()),
        Err(Verdict::Skipped(text)) => ("skipped", text.as_str()),
    };
    if json {
        println!(
            "{}",
            serde_json::json!({"behaviour": name, "outcome": word, "text": text, "ms": millis})
        );
    } else if text.is_empty() {
        println!("{word:<8}{name} ({millis} ms)");
    } else {
        println!("{word:<8}{name}: {text}");
    }
}

fn run_all(options: &Options) -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let all = suite::all().into_iter().enumerate();
    for (_, behaviour) in all.filter(|(at, b)| options.wants(*at, &b.name)) {
        let start = Instant::now();
        let outcome = isolated(&behaviour.name, Duration::from_secs(options.limit));
        match outcome {
            Ok(()) => passed += 1,
            Err(Verdict::Failed(_)) => failed += 1,
            Err(Verdict::Skipped(_)) => skipped += 1,
        }
        tell(
            options.json,
            &behaviour.name,
            &outcome,
            start.elapsed().as_millis(),
        );
    }
    if options.json {
        println!(
            "{}",
            serde_json::json!({"passed": passed, "failed": failed, "skipped": skipped})
        );
    } else {
        println!("conformance: {passed} passed, {failed} failed, {skipped} skipped");
    }
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(Inner::Helper { role }) = &options.command {
        return status(suite::helper(role));
    }
    let Some(device) = options.device.clone() else {
        eprintln!(
            "--device PATH is needed: the sysfs directory of a VF bound to its migration driver"
        );
        return ExitCode::from(2);
    };
    let world = World {
        device,
        peer: options.peer.clone(),
        plain: options.plain.clone(),
        logging: options.logging.clone(),
        tracking: options.tracking.clone(),
        untracked: options.untracked.clone(),
        faults: options.faults.clone(),
    };
    match &options.command {
        Some(Inner::One { name }) => match suite::all().iter().find(|b| b.name == *name) {
            Some(behaviour) => status(behaviour.run(&world)),
            None => ExitCode::from(2),
        },
        _ => run_all(&options),
    }
}
