// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU, which migrates VFs of this kind since 8.1, with one channel and its own defaults.
//!
//! A VF that logs nothing makes all of its guest's memory dirty for ever, so the time that QEMU may stop the guest is set out of reach: it
//! stops it as soon as memory has been sent once.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use demo::host::{SimulatedHost, scratch_directory};
use demo::memory::PeakSampler;
use demo::programs::Programs;
use demo::serial::SerialLog;
use e2e::{ALL_CHECKED, AT_WORK, PATIENCE};
use serde_json::{Value, json};

use super::qmp::{self, Qmp};
use super::{HOST, Migrated, beyond, content, vram};
use crate::row::Row;
use crate::usage::anonymous;

/// A running QEMU; killed by its process id when dropped.
struct Qemu {
    child: Child,
    qmp: Option<Qmp>,
    serial: PathBuf,
    output: PathBuf,
}

impl Qemu {
    /// Starts a VM called `name` with VF 1 of `host`; `more` are further arguments.
    fn start(
        program: &Path,
        name: &str,
        directory: &Path,
        host: &SimulatedHost,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let file = |kind: &str| directory.join(format!("{name}.{kind}"));
        let (output, serial, socket) = (file("out"), file("serial"), file("qmp"));
        let log = File::create(&output)?;
        let child = Command::new(program)
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args([
                "-accel",
                "kvm",
                "-machine",
                "pc,memory-backend=ram",
                "-vga",
                "none",
            ])
            .args([
                "-m",
                "64M",
                "-object",
                "memory-backend-memfd,id=ram,size=64M,share=on",
            ])
            .arg("-kernel")
            .arg(directory.join("guest.elf"))
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-device")
            .arg(format!(
                "vfio-pci,sysfsdev={},enable-migration=on",
                host.vf_path(1)
            ))
            .args(more)
            .envs(host.environment())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("Cannot run {}", program.display()))?;
        let mut qemu = Self {
            child,
            qmp: None,
            serial,
            output,
        };
        let deadline = Instant::now() + PATIENCE;
        while qemu.qmp.is_none() {
            if let Some(status) = qemu.child.try_wait()? {
                bail!("{name} has ended ({status}): {}", qemu.words());
            }
            ensure!(
                Instant::now() < deadline,
                "{name} is silent: {}",
                qemu.words()
            );
            std::thread::sleep(Duration::from_millis(20));
            qemu.qmp = Qmp::connect(&socket, PATIENCE).ok();
        }
        Ok(qemu)
    }

    fn qmp(&mut self) -> anyhow::Result<&mut Qmp> {
        self.qmp.as_mut().context("no connection")
    }

    fn words(&self) -> String {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has ended, or is of no use any more.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Migrates a VM.
///
/// # Errors
/// When it fails, with what QEMU said, or the guest misses something.
pub fn run(program: &Path, row: Row) -> anyhow::Result<Migrated> {
    let programs = Programs::build()?;
    let up = || {
        SimulatedHost::up(
            &programs,
            &[&HOST[..], &["--vfs", "1", "--vram", vram(row)]].concat(),
        )
    };
    let (here, there) = (up()?, up()?);
    let files = scratch_directory("xe-qemu-")?;
    std::fs::write(files.path().join("guest.elf"), guest::image())?;
    let start = |name, host, more: &[&str]| Qemu::start(program, name, files.path(), host, more);
    let mut source = start("source", &here, &[])?;
    let mut serial = SerialLog::new(source.serial.clone());
    let works = serial.wait_for_jobs(AT_WORK, PATIENCE).map(drop);
    works.with_context(|| source.words())?;
    here.command("fill", &content(row))?;
    let mut destination = start("destination", &there, &["-incoming", "defer"])?;
    let pids = [source.child.id(), destination.child.id()];
    let before = pids.map(|pid| anonymous(&pid.to_string()));
    let peaks = pids.map(PeakSampler::start);
    let downtime = migrate(&mut source, &mut destination)
        .with_context(|| format!("{}\n{}", source.words(), destination.words()))?;
    let [source_peak, destination_peak] = peaks.map(|peak| peak.peak());
    serial.moved_to(destination.serial.clone())?;
    let checked = serial.wait_for_jobs(ALL_CHECKED, PATIENCE);
    let lost = checked.with_context(|| destination.words())?.lost();
    ensure!(lost == 0, "the guest has lost {lost} jobs");
    Ok(Migrated {
        downtime,
        source_memory: beyond(source_peak, before[0]),
        destination_memory: beyond(destination_peak, before[1]),
    })
}

/// Migrates and answers the downtime.
fn migrate(source: &mut Qemu, destination: &mut Qemu) -> anyhow::Result<Duration> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let uri = json!({"uri": format!("tcp:127.0.0.1:{port}")});
    let events = json!({"capabilities": [{"capability": "events", "state": true}]});
    let (from, to) = (source.qmp()?, destination.qmp()?);
    from.execute("migrate-set-capabilities", &events)?;
    let limits = json!({"downtime-limit": 2_000_000, "max-bandwidth": 1u64 << 40});
    from.execute("migrate-set-parameters", &limits)?;
    to.execute("migrate-incoming", &uri)?;
    from.execute("migrate", &uri)?;
    let stop = from.event(|event| event["event"] == "STOP" || ended(event))?;
    ensure!(stop["event"] == "STOP", "it did not stop: {stop}");
    let end = from.event(ended)?;
    if end["data"]["status"] != "completed" {
        let why = from.execute("query-migrate", &json!({}))?;
        bail!("{}", why["error-desc"].as_str().unwrap_or("it failed"));
    }
    let resume = to.event(|event| event["event"] == "RESUME")?;
    let (stop, resume) = (qmp::time(&stop), qmp::time(&resume));
    let (stop, resume) = stop.zip(resume).context("events without a time")?;
    Ok(resume.saturating_sub(stop))
}

fn ended(event: &Value) -> bool {
    let status = event["data"]["status"].as_str();
    event["event"] == "MIGRATION" && matches!(status, Some("completed" | "failed" | "cancelled"))
}
