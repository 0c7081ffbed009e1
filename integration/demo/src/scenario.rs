// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The demo's plot: two hosts, a working guest, one migration, and what the guest says of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use demo::host::{SimulatedHost, scratch_directory};
use demo::memory::PeakSampler;
use demo::programs::Programs;
use demo::serial::{SerialLog, Tally};
use demo::vmm::Vmm;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::options::{Options, Transport, name};
use crate::report::{ExtraRss, Report};

/// Jobs of each VF before the migration starts: the guest's VRAM slots have all been used once.
const JOBS_BEFORE: u32 = 1280;
/// Jobs of each VF after it: every slot and every page written by DMA before the move is checked again.
const JOBS_AFTER: u32 = 2304;
/// The emulated processor of a small machine does some hundred jobs a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// The guest works in the first 4 MiB of VRAM; what lies beyond has to be the same on both hosts.
const BEYOND_WORKING_SET: &str = "4M";

/// Runs the whole demo.
///
/// # Errors
/// When a step cannot be done. That the guest found something lost is not an error but in the report.
pub fn run(options: &Options) -> Result<Report> {
    let step = Steps::new();
    step.say("building host-sim and ref-vmm");
    let programs = Programs::build()?;
    let files = scratch_directory("xe-demo-")?;
    if options.source_device.is_empty() {
        has_room(files.path(), options)?;
    }

    step.say("bringing up the source and the destination host");
    let stage = Stage::set(&programs, options)?;
    let url = destination_url(options.transport, files.path())?;

    step.say("booting the guest");
    let mut source = start(
        &programs,
        "source",
        files.path(),
        &stage.source,
        options,
        &[],
    )?;
    let mut serial = SerialLog::new(source.serial_path());
    serial
        .wait_for_jobs(JOBS_BEFORE, PATIENCE)
        .with_context(|| source.log_tail())?;

    step.say("filling VRAM beyond the guest's working set");
    stage.fill(&name(&options.fill))?;

    let receive = ["--receive-migration".to_owned(), url.clone()];
    let mut destination = start(
        &programs,
        "destination",
        files.path(),
        &stage.destination,
        options,
        &receive,
    )?;
    let peaks = (
        PeakSampler::start(source.pid()),
        PeakSampler::start(destination.pid()),
    );

    let source_accel = accelerator(&source)?;
    step.say("migrating");
    let mut request = vec!["send-migration", url.as_str()];
    if is_local(options) {
        request.push("--local");
    }
    let migration = source.remote(&request).with_context(|| {
        format!(
            "Source:\n{}\nDestination:\n{}",
            source.log_tail(),
            destination.log_tail()
        )
    })?;
    let source_status = source.wait()?;
    if !source_status.success() {
        bail!(
            "The source VMM ended with {source_status} after it handed over: {}",
            source.log_tail()
        );
    }

    step.say("the guest checks what it finds at the destination");
    serial.moved_to(destination.serial_path())?;
    let mut discrepancies = Vec::new();
    if let Err(error) = serial.wait_for_jobs(JOBS_AFTER, PATIENCE) {
        discrepancies.push(format!("{error:#}"));
    }
    let tally = serial.read()?.clone();
    discrepancies.extend(stage.compare_vram()?);
    discrepancies.extend(tally.out_of_order.iter().cloned());
    let destination_accel = accelerator(&destination)?;
    let accel = if source_accel == destination_accel {
        source_accel
    } else {
        format!("{source_accel} to {destination_accel}")
    };
    let extra_rss_bytes = ExtraRss {
        source: peaks.0.peak(),
        destination: peaks.1.peak(),
    };
    destination.remote(&["shutdown"])?;
    destination.wait()?;
    step.done();
    report(
        options,
        &migration,
        &tally,
        discrepancies,
        extra_rss_bytes,
        accel,
        stage.is_simulated(),
    )
}

fn report(
    options: &Options,
    migration: &Value,
    tally: &Tally,
    discrepancies: Vec<String>,
    extra_rss_bytes: ExtraRss,
    accel: String,
    simulated: bool,
) -> Result<Report> {
    let number = |key: &str| {
        migration[key]
            .as_u64()
            .with_context(|| format!("send-migration did not answer `{key}`"))
    };
    fn answered<T: serde::de::DeserializeOwned>(migration: &Value, key: &str) -> Result<T> {
        serde_json::from_value(migration[key].clone())
            .with_context(|| format!("send-migration did not answer `{key}`"))
    }
    Ok(Report {
        verified: tally.verified(),
        lost: discrepancies.len() as u64,
        discrepancies,
        downtime_ms: migration["downtime_ms"]
            .as_f64()
            .context("send-migration did not answer `downtime_ms`")?,
        state_bytes: number("state_bytes")?,
        wire_bytes: number("wire_bytes")?,
        memory_bytes: number("memory_bytes")?,
        phases: answered(migration, "phases")?,
        prediction: answered(migration, "prediction")?,
        devices: answered(migration, "devices")?,
        timeline: answered(migration, "timeline")?,
        extra_rss_bytes,
        accel,
        vfs: options.vf_count(),
        vram_bytes: if simulated { options.vram } else { 0 },
        vram_compared: simulated,
    })
}

/// Where the two VMMs run.
struct Stage {
    hosts: Option<(SimulatedHost, SimulatedHost)>,
    vfs: u16,
    source: Side,
    destination: Side,
}

/// One VMM's devices and what its process needs to see them.
struct Side {
    environment: Vec<(String, String)>,
    devices: Vec<String>,
}

impl Stage {
    fn set(programs: &Programs, options: &Options) -> Result<Self> {
        if !options.source_device.is_empty() {
            let side = |paths: &[std::path::PathBuf]| Side {
                environment: Vec::new(),
                devices: paths
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect(),
            };
            return Ok(Self {
                hosts: None,
                vfs: options.vf_count(),
                source: side(&options.source_device),
                destination: side(&options.destination_device),
            });
        }
        let (vfs, vram) = (options.vfs.to_string(), options.vram.to_string());
        // A card has its VRAM; a simulated one would otherwise find memory for it while the guest stands still.
        let up = ["--vfs", &vfs, "--vram", &vram, "--populate"];
        let source = SimulatedHost::up(programs, &up)?;
        let local = is_local(options);
        let destination = if local {
            SimulatedHost::up_beside(programs, &up)?
        } else {
            SimulatedHost::up(programs, &up)?
        };
        let hosts = (source, destination);
        let side = |host: &SimulatedHost| Side {
            environment: if local {
                hosts.0.environment_with(&hosts.1)
            } else {
                host.environment()
            },
            devices: (1..=options.vfs).map(|vf| host.vf_path(vf)).collect(),
        };
        Ok(Self {
            vfs: options.vfs,
            source: side(&hosts.0),
            destination: side(&hosts.1),
            hosts: Some(hosts),
        })
    }

    fn is_simulated(&self) -> bool {
        self.hosts.is_some()
    }

    fn fill(&self, content: &str) -> Result<()> {
        let Some((source, _)) = &self.hosts else {
            return Ok(());
        };
        for vf in 1..=self.vfs {
            let seed = vf.to_string();
            let arguments = [
                "--vf",
                &vf.to_string(),
                content,
                "--from",
                BEYOND_WORKING_SET,
                "--seed",
                &seed,
            ];
            source.command("fill", &arguments)?;
        }
        Ok(())
    }

    fn compare_vram(&self) -> Result<Vec<String>> {
        let Some((source, destination)) = &self.hosts else {
            return Ok(Vec::new());
        };
        let mut different = Vec::new();
        for vf in 1..=self.vfs {
            let vf = vf.to_string();
            let arguments = ["--vf", vf.as_str(), "--from", BEYOND_WORKING_SET];
            let digests = (
                source.command("digest", &arguments)?,
                destination.command("digest", &arguments)?,
            );
            if digests.0 != digests.1 {
                different.push(format!(
                    "VRAM of VF {vf} differs between the hosts: {} and {}",
                    digests.0.trim(),
                    digests.1.trim()
                ));
            }
        }
        Ok(different)
    }
}

fn start(
    programs: &Programs,
    role: &str,
    files: &Path,
    side: &Side,
    options: &Options,
    more: &[String],
) -> Result<Vmm> {
    let mut arguments = vec![
        "--memory".to_owned(),
        format!("size={}", options.memory),
        "--accel".to_owned(),
        name(&options.accel),
        "--connections".to_owned(),
        options.connections.to_string(),
        "--compression".to_owned(),
        options.compression.clone(),
    ];
    for (index, path) in side.devices.iter().enumerate() {
        arguments.push("--device".to_owned());
        arguments.push(format!("path={path},id=vf{}", index + 1));
    }
    if options.iommufd {
        arguments.push("--iommufd".to_owned());
    }
    if let Some(history) = &options.history {
        let history = std::path::absolute(history)?.display().to_string();
        arguments.extend(["--migration-history".to_owned(), history]);
    }
    arguments.extend_from_slice(more);
    Vmm::start(programs, role, files, &side.environment, &arguments)
}

/// Whether the two VMMs are on one machine, and the data fds are handed over.
fn is_local(options: &Options) -> bool {
    matches!(options.transport, Transport::Local)
}

fn destination_url(transport: Transport, files: &Path) -> Result<String> {
    Ok(match transport {
        Transport::Unix | Transport::Local => {
            format!("unix:{}", files.join("migration.sock").display())
        }
        Transport::Tcp => {
            // Bound and let go: the kernel does not hand the same port out again soon.
            let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
                .local_addr()?
                .port();
            format!("tcp:127.0.0.1:{port}")
        }
    })
}

/// Refuses a run whose VRAM, twice for the two hosts, and guest memory, once it has arrived, would not fit where they live.
fn has_room(scratch: &Path, options: &Options) -> Result<()> {
    let vram = options.vram.checked_next_power_of_two();
    let vram = vram.unwrap_or(u64::MAX).saturating_mul(options.vfs.into());
    let needed = vram.saturating_add(options.memory).saturating_mul(2);
    let free = free_bytes(scratch)?.min(available_memory()?);
    if needed > free {
        bail!(
            "The two simulated hosts need {} MiB and there are {} MiB: choose a smaller --vram, --vfs or --memory",
            needed >> 20,
            free >> 20
        );
    }
    Ok(())
}

/// Room in the file system of `path`.
fn free_bytes(path: &Path) -> Result<u64> {
    let path = path.display().to_string();
    let text = demo::host::run(Path::new("df"), &["--output=avail", "-B1", &path])?;
    let line = text.lines().nth(1).context("df answered nothing")?;
    line.trim()
        .parse()
        .with_context(|| format!("df answered {line}"))
}

/// Memory that can be had without swapping.
fn available_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("Cannot read /proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .context("/proc/meminfo does not tell the available memory")?;
    Ok(kib * 1024)
}

/// What runs the vCPU of a VMM's guest.
fn accelerator(vmm: &Vmm) -> Result<String> {
    let info = vmm.remote(&["info"])?;
    Ok(info["accel"]
        .as_str()
        .context("info did not answer `accel`")?
        .to_owned())
}

/// One line that says what is going on, and the time each step took once it is over.
struct Steps(ProgressBar);

impl Steps {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    fn say(&self, message: &'static str) {
        if self.0.is_hidden() {
            eprintln!("{message}");
        }
        self.0.set_message(message);
    }

    fn done(&self) {
        self.0.finish_and_clear();
    }
}
