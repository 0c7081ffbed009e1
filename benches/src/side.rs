// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One side of a transfer in a process of its own, and the talk with the process that runs the comparison.
//!
//! A side says [`Ready`] on its stdout when its VFs are open, since opening one clears it. From then on it takes a [`Job`] after the other, one line
//! each on its stdin. For each it does what a VMM does before its guest stops and says `Ready`: a destination has emptied its VFs and listens,
//! a source has connected. At one more line, or when a source connects, it does the job and says [`Done`]; a source has its state still.
//! Both stay until their stdin ends, because a VF that is closed is cleared too.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use host_sim::boundary;
use host_sim::host::Host;
use serde::{Deserialize, Serialize};
use xe_vfio_device::transfer::{
    AttemptId, Cancel, Connection, Deadlines, Endpoint, Gather, Incoming,
};

use crate::vf::{Device, open};
use crate::{plain, usage};

/// What a side is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The simulated host.
    pub host: PathBuf,
    /// Its first VF that is moved.
    pub first: u16,
    /// How many are moved.
    pub count: u16,
    /// Which side.
    pub role: Role,
}

/// A transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Where a destination listens or loads from, and a source connects or saves to.
    pub url: String,
    /// What goes over a connection.
    pub carrying: Carrying,
}

/// Which side of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Saves.
    Source,
    /// Loads.
    Destination,
}

/// What goes over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrying {
    /// The crate's stream.
    Stream,
    /// The crate's stream over several connections for each device.
    Split,
    /// State without anything of the crate's pipeline.
    Plain,
    /// The data fd.
    DataFd,
}

/// How long a destination waits for its source, which the floor goes before.
const PATIENCE: Duration = Duration::from_secs(300);

/// Connections of a stream that is split.
const SPLIT: usize = 4;

impl Carrying {
    /// Connections of each device.
    fn connections(self) -> usize {
        if self == Self::Split { SPLIT } else { 1 }
    }
}

/// A side waits for its next line, or its source.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ready {
    /// Where a destination listens; else empty.
    pub url: String,
}

/// What a side has done.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Done {
    /// Seconds of user and system time.
    pub cpu: f64,
    /// Most bytes of memory beyond what there was before.
    pub memory: u64,
    /// Bytes of device state.
    pub state_bytes: u64,
    /// Bytes of stream.
    pub stream_bytes: u64,
}

struct Moved {
    state: u64,
    stream: u64,
}

/// Runs a side to its end, talking on stdin and stdout.
///
/// # Errors
/// Whatever fails in it.
pub fn run(task: &Task) -> anyhow::Result<()> {
    boundary::attach(&task.host)?;
    let host = Host::open(&task.host)?;
    let devices = (0..task.count)
        .map(|n| open(&host, task.first + n, format!("vf{n}")))
        .collect::<Result<Vec<_>, _>>()?;
    say(&Ready::default())?;
    while let Some(line) = line()? {
        let Job { url, carrying } = serde_json::from_str(&line)?;
        let endpoint = url.parse()?;
        match task.role {
            Role::Source => sent(&devices, &endpoint, carrying),
            Role::Destination => loaded(&devices, &endpoint, carrying),
        }?
        .say()?;
    }
    Ok(())
}

/// Processor seconds, peak of memory, and what each VF has moved.
struct Outcome(f64, u64, Vec<Moved>);

impl Outcome {
    fn say(&self) -> anyhow::Result<()> {
        let Self(cpu, memory, moved) = self;
        say(&Done {
            cpu: *cpu,
            memory: *memory,
            state_bytes: moved.iter().map(|moved| moved.state).sum(),
            stream_bytes: moved.iter().map(|moved| moved.stream).sum(),
        })
    }
}

/// Sends the state of all devices once.
fn sent(devices: &[Device], endpoint: &Endpoint, carrying: Carrying) -> anyhow::Result<Outcome> {
    for device in devices {
        device.start()?;
        device.quiesce()?;
        device.stop()?;
    }
    let mut connections = Vec::new();
    if !matches!(endpoint, Endpoint::File(_)) {
        for _ in 0..devices.len() * carrying.connections() {
            connections.push(endpoint.connect(Deadlines::default().connect)?);
        }
    }
    begin()?;
    let mut connections = connections.into_iter();
    let jobs: Vec<_> = devices
        .iter()
        .map(|device| {
            let mut mine: Vec<_> = connections.by_ref().take(carrying.connections()).collect();
            move || {
                if carrying == Carrying::Split {
                    let report = device.send_over_all(mine)?;
                    return Ok(Moved {
                        state: report.totals.payload_bytes,
                        stream: report.totals.wire_bytes,
                    });
                }
                let report = match mine.pop() {
                    Some(connection) if carrying == Carrying::Plain => {
                        let bytes = plain::send(device, connection)?;
                        return Ok(Moved {
                            state: bytes,
                            stream: bytes,
                        });
                    }
                    Some(connection) if carrying == Carrying::DataFd => {
                        device.send_fd_over(connection)
                    }
                    Some(connection) => device.send_over(connection),
                    None => device.send_to(endpoint),
                }?;
                anyhow::Ok(Moved {
                    state: report.totals.payload_bytes,
                    stream: report.totals.wire_bytes,
                })
            }
        })
        .collect();
    measured(jobs)
}

/// Empties all devices and loads them once.
fn loaded(devices: &[Device], endpoint: &Endpoint, carrying: Carrying) -> anyhow::Result<Outcome> {
    let empty = |device: &Device| {
        // What is left of the job before goes with one reset where the VF runs, and with two where it does not.
        device.unstop()?;
        device.run()?;
        anyhow::Ok(device.prepare_load()?)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = devices
            .iter()
            .map(|device| scope.spawn(move || empty(device)))
            .collect();
        let mut ends = threads.into_iter().map(|thread| thread.join());
        ends.try_for_each(|end| end.unwrap_or_else(|_| bail!("a side's thread panicked")))
    })?;
    if let Endpoint::File(_) = endpoint {
        begin()?;
        let load = |device: &Device| {
            let (_, report) = device.receive_at(endpoint)?;
            anyhow::Ok(Moved {
                state: report.totals.payload_bytes,
                stream: report.totals.wire_bytes,
            })
        };
        return measured(devices.iter().map(|device| move || load(device)).collect());
    }
    let listener = endpoint.listen()?;
    say(&Ready {
        url: listener.endpoint().to_string(),
    })?;
    let mut connections = Vec::new();
    for _ in 0..devices.len() * carrying.connections() {
        connections.push(listener.accept(PATIENCE, &Cancel::new())?);
    }
    if carrying == Carrying::Split {
        return loaded_split(devices, connections);
    }
    let jobs: Vec<_> = connections
        .into_iter()
        .zip(devices)
        .map(|(connection, device)| {
            move || {
                if carrying == Carrying::Plain {
                    let bytes = plain::receive(device, connection)?;
                    return Ok(Moved {
                        state: bytes,
                        stream: bytes,
                    });
                }
                let incoming = Incoming::accept(connection, &Deadlines::default())?;
                let named = devices
                    .iter()
                    .find(|device| device.device_id() == incoming.device_id());
                let device = named.context("a stream for no device of this side")?;
                let report = device.load_from(incoming)?;
                anyhow::Ok(Moved {
                    state: report.totals.payload_bytes,
                    stream: report.totals.wire_bytes,
                })
            }
        })
        .collect();
    measured(jobs)
}

/// Loads each device from its connections, whichever those are.
fn loaded_split(
    devices: &[Device],
    connections: Vec<Box<dyn Connection>>,
) -> anyhow::Result<Outcome> {
    let deadlines = Deadlines::default();
    let gather = Gather::new(AttemptId::NONE);
    let load = || {
        let mut moved = Vec::new();
        for connection in connections {
            let incoming = Incoming::accept(connection, &deadlines)?;
            if let Some(whole) = gather.add(incoming, &deadlines)? {
                let named = devices
                    .iter()
                    .find(|device| device.device_id() == whole.device_id());
                let report = named.context("no such device")?.load_from(whole)?;
                moved.push(Moved {
                    state: report.totals.payload_bytes,
                    stream: report.totals.wire_bytes,
                });
            }
        }
        anyhow::Ok(moved)
    };
    let before = usage::cpu();
    let (memory, moved) = usage::peak(load);
    let cpu = usage::cpu().saturating_sub(before).as_secs_f64();
    Ok(Outcome(cpu, memory, moved?))
}

/// Runs the jobs, each on its thread.
fn measured<J>(jobs: Vec<J>) -> anyhow::Result<Outcome>
where
    J: FnOnce() -> anyhow::Result<Moved> + Send,
{
    let before = usage::cpu();
    let (memory, moved) = usage::peak(|| {
        thread::scope(|scope| {
            // By their name a profiler tells them from all else that a run does.
            let named = || thread::Builder::new().name("transfer".to_owned());
            let threads = jobs
                .into_iter()
                .map(|job| named().spawn_scoped(scope, job))
                .collect::<Result<Vec<_>, _>>()?;
            let ends = threads.into_iter().map(|thread| thread.join());
            ends.map(|end| end.unwrap_or_else(|_| bail!("a side's thread panicked")))
                .collect::<anyhow::Result<Vec<_>>>()
        })
    });
    let cpu = usage::cpu().saturating_sub(before).as_secs_f64();
    Ok(Outcome(cpu, memory, moved?))
}

/// Says that this side is ready and waits for its line.
fn begin() -> anyhow::Result<()> {
    say(&Ready::default())?;
    line()?.context("the comparison has ended").map(drop)
}

/// The next line on stdin.
fn line() -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    let count = std::io::stdin().lock().read_line(&mut line)?;
    Ok((count > 0).then(|| line.trim_end().to_owned()))
}

fn say(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
