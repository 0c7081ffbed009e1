// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One attempt at a migration, step by step, and the way back from each of them.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use timeline::{Bar, Timeline};
use vm_migration::Migratable;
use vm_migration::protocol::{MemoryRange, MemoryRangeTable};
use xe_vfio_device::device::{DeviceError, Tracking};
use xe_vfio_device::stream::Manifest;
use xe_vfio_device::transfer::{AttemptId, Cancel, Compression, Endpoint, SaveReport};

use super::super::Limits;
use super::super::channel::{self, Channel};
use super::super::forecast::Forecaster;
use super::super::pages::Pages;
use super::super::protocol::{
    self, Config, DeviceOffer, Kind, Loaded, LoadedDevice, Ready, Reason, Running,
};
use super::super::ram::{self, Pass, Sent, Zeros};
use super::super::report::{
    CompressedReport, DeviceReport, Phase, Report, Stopwatch, cpu_time, ms,
};
use super::super::watch::Watch;
use super::Error;
use super::predict::Predictions;
use crate::events::Events;
use crate::vm::{self, Vm};

/// What holds when an attempt has failed before it touched the VM.
pub(super) const NEVER_PAUSED: &str = "The guest runs on at the source and was never paused";

/// An attempt under way.
pub(super) struct Attempt<'a> {
    pub(super) vm: &'a mut Vm,
    pub(super) endpoint: &'a Endpoint,
    pub(super) limits: &'a Limits,
    watch: &'a Watch,
    pub(super) events: &'a Events,
    pub(super) forecaster: &'a Forecaster,
    pub(super) predictions: Predictions,
    pub(super) clock: Stopwatch,
    pub(super) timeline: Timeline,
    pub(super) passes: Vec<Bar>,
    pub(super) far_bars: Vec<Bar>,
    pub(super) there: Vec<LoadedDevice>,
    pub(super) report: Report,
    touched: bool,
    pub(super) tracking: Tracking,
    pub(super) sending: Duration,
    cpu: Duration,
}

/// The destination has everything.
pub(super) struct LoadedAt {
    pub(super) stopped: Instant,
}

/// What came of go.
pub(super) enum Go {
    Running,
    NotTaken(Error),
    Unknown(Error),
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        vm: &'a mut Vm,
        endpoint: &'a Endpoint,
        limits: &'a Limits,
        watch: &'a Watch,
        events: &'a Events,
        forecaster: &'a Forecaster,
    ) -> Self {
        let clock = Stopwatch::new(events.clone());
        Self {
            vm,
            endpoint,
            limits,
            watch,
            events,
            forecaster,
            predictions: Predictions::default(),
            clock,
            timeline: Timeline::default(),
            passes: Vec::new(),
            far_bars: Vec::new(),
            there: Vec::new(),
            report: Report::default(),
            touched: false,
            tracking: Tracking::default(),
            sending: Duration::ZERO,
            cpu: cpu_time(),
        }
    }

    /// The phase that is under way.
    pub(super) fn phase(&self) -> &'static str {
        self.clock.phase()
    }

    fn enter(&mut self, phase: Phase) -> Result<(), Error> {
        self.clock.enter(phase);
        self.watch.enter(phase.name());
        self.watch
            .cancelled()
            .map_or(Ok(()), |why| Err(Error::Cancelled(why)))
    }

    /// Everything up to the point where the destination could run the guest.
    pub(super) fn until_loaded(&mut self, place: &mut Option<Channel>) -> Result<LoadedAt, Error> {
        self.predict_start()?;
        self.enter(Phase::Connect)?;
        let cancel = Cancel::new();
        self.watch.add(cancel.clone());
        let connection = self.endpoint.connect(self.limits.silence)?;
        let channel = place.insert(Channel::new(connection, &cancel, self.limits.silence)?);
        let ready = self.agree(channel)?;

        self.enter(Phase::Precopy)?;
        let mut rest = self.precopy(channel)?;
        let settles = self.settles();

        self.enter(Phase::Quiesce)?;
        self.touched = true;
        let quiet = Instant::now();
        let until = settles.then(|| self.tracking.begin_window());
        self.vm
            .with_group(|group| group.quiesce())
            .map_err(vm::Error::from)?;
        if let Some(until) = until {
            self.enter(Phase::Settle)?;
            rest = self.settle(channel, rest, until)?;
        }

        self.predict_pause(&rest)?;
        self.enter(Phase::Stop)?;
        let stopped = Instant::now();
        self.vm.pause_vcpu()?;
        self.report.gpu_pause_ms = ms(quiet.elapsed());
        self.vm
            .with_group(|group| group.stop())
            .map_err(vm::Error::from)?;

        self.enter(Phase::Stream)?;
        self.stream(channel, rest)?;

        self.enter(Phase::Load)?;
        let state = serde_json::to_vec(&self.vm.save()?)?;
        channel.send_raw(Kind::State, 0, &state)?;
        let loaded: Loaded = expect(channel, Kind::Loaded, "the destination loads the VM")?;
        self.note_far("load", loaded.load_ms);
        self.note_loaded(loaded.devices);
        tracing::info!(lease_ms = ready.lease_ms, "the destination waits for go");
        Ok(LoadedAt { stopped })
    }

    /// Tells the destination what comes and hears whether it can take it.
    fn agree(&mut self, channel: &mut Channel) -> Result<Ready, Error> {
        self.tracking = Tracking::choose(
            self.vm.devices(),
            self.limits.dirty,
            self.limits.gpu_pause,
            Pages(self.vm.ram().clone()),
        )?;
        let mut devices = Vec::new();
        for device in self.vm.devices_mut() {
            let id = device.device_id().to_owned();
            self.report
                .dirty
                .strategies
                .insert(id.clone(), device.dirty_strategy());
            device
                .start_migration()
                .map_err(|source| Error::Migratable {
                    id: id.clone(),
                    source,
                })?;
            let manifest = device.manifest()?.encode()?;
            devices.push(DeviceOffer {
                id,
                manifest,
                manifest_version: Manifest::newest_version(),
            });
        }
        let memory = self.vm.ram().size();
        let config = Config {
            memory,
            accel: self.vm.accel().0,
            devices,
            compression: self.wants_compression(),
        };
        channel.send(Kind::Config, &config)?;
        let ready: Ready = expect(channel, Kind::Ready, "the destination prepares")?;
        let attempt: AttemptId = ready
            .attempt
            .parse()
            .map_err(|_| Error::Attempt(ready.attempt.clone()))?;
        for device in self.vm.devices() {
            self.watch.add(device.begin_attempt(attempt));
            device.leave_later(true);
            device.compress(if ready.compression {
                self.limits.compression
            } else {
                Compression::Off
            });
            self.watch.add_device(device.device_id(), device.progress());
        }
        self.report.prepare_ms = ready.prepare_ms;
        self.note_far("prepare", ready.prepare_ms);
        if self.wants_compression() && !ready.compression {
            tracing::warn!("the destination reads no compressed state: it goes as it is");
        }
        tracing::info!(%attempt, prepare_ms = ready.prepare_ms, "the destination is ready");
        Ok(ready)
    }

    /// Whether the VFs' state is compressed if the destination can read that.
    pub(super) fn wants_compression(&self) -> bool {
        self.limits.compression != Compression::Off && !self.limits.local && Compression::BUILT
    }

    /// Sends memory while the guest runs, until little is dirty; answers what is.
    fn precopy(&mut self, channel: &mut Channel) -> Result<Vec<MemoryRange>, Error> {
        self.vm.accelerator().start_dirty_log()?;
        let reach = self.vm.reach().clone();
        let mut taken_away = reach.hold();
        *taken_away = Some(MemoryRangeTable::default());
        for device in self.vm.devices_mut() {
            let id = device.device_id().to_owned();
            device
                .start_dirty_log()
                .map_err(|source| Error::Migratable { id, source })?;
        }
        drop(taken_away);
        let ram = self.vm.ram().clone();
        let everything = ram::all(&ram);
        self.pass(channel, everything.regions(), Zeros::Skip, None)?;
        self.predictions.in_use = self.report.memory_bytes;
        let mut changed = self.rehearse()?;
        let mut before = u64::MAX;
        loop {
            changed.push(self.dirty()?);
            let dirty = ram::union(std::mem::take(&mut changed), self.vm.ram().layout());
            let bytes: u64 = dirty.iter().map(|r| r.length).sum();
            // What is written as fast as it is sent stays as much, however often it is sent.
            let in_vain = bytes > before - before / 8;
            if self.converged(bytes, in_vain)? {
                return Ok(dirty);
            }
            before = bytes;
            self.pass(channel, &dirty, Zeros::Send, None)?;
        }
    }

    /// What vCPU and VFs have written since the last time.
    pub(super) fn dirty(&mut self) -> Result<MemoryRangeTable, Error> {
        let mut written = self.vm.accelerator().dirty_log()?;
        written.extend(self.dma_log()?);
        Ok(written)
    }

    /// What the VFs have written since the last time.
    fn dma_log(&mut self) -> Result<MemoryRangeTable, Error> {
        let reach = self.vm.reach().clone();
        // A mapping that goes while its log is read would be an error of the log.
        let mut taken_away = reach.hold();
        let mut written = taken_away.as_mut().map(std::mem::take).unwrap_or_default();
        for device in self.vm.devices_mut() {
            let id = device.device_id().to_owned();
            let log = device.dirty_log();
            written.extend(log.map_err(|source| Error::Migratable { id, source })?);
        }
        if self.touched {
            self.report.dirty.dirty_bytes += written.effective_size();
        }
        Ok(written)
    }

    /// Sends ranges; answers what there was no time for.
    pub(super) fn pass(
        &mut self,
        channel: &mut Channel,
        ranges: &[MemoryRange],
        zeros: Zeros,
        until: Option<Instant>,
    ) -> Result<Vec<MemoryRange>, Error> {
        let started = Instant::now();
        let known = self.tracking.fingerprints().map(|shared| &**shared);
        let pass = Pass {
            zeros,
            known,
            until,
        };
        let sent = match ram::send(channel, self.vm.ram(), ranges, pass) {
            Ok(sent) => sent,
            Err(error) => return Err(reason_of(channel, error.into())),
        };
        let took = started.elapsed();
        self.sending += took;
        self.report.passes += 1;
        self.report.memory_bytes += sent.bytes;
        self.note_pass(started, took, sent.bytes);
        tracing::info!(pass = self.report.passes, bytes = sent.bytes, "memory pass");
        Ok(sent.left)
    }

    /// The VFs' streams, each on its own connection and thread, beside the last pass over memory.
    fn stream(&mut self, channel: &mut Channel, rest: Vec<MemoryRange>) -> Result<(), Error> {
        // Everything stands still: this is all that was ever written and not sent.
        let since = Instant::now();
        let written = self.last_dirty()?;
        self.scanned(since);
        let last = ram::union(vec![table(rest), written], self.vm.ram().layout());

        let pass = Pass {
            zeros: Zeros::Send,
            known: None,
            until: None,
        };
        let (vm, endpoint, limits) = (&*self.vm, self.endpoint, self.limits);
        // The first failure is the reason; it ends the other streams, whose failures are only its consequence.
        let first_failure: Mutex<Option<DeviceError>> = Mutex::new(None);
        let give_up = || vm.devices().iter().for_each(|d| d.cancel_handle().cancel());
        let failed = |error: DeviceError| {
            let mut first = first_failure.lock().unwrap_or_else(PoisonError::into_inner);
            match &*first {
                None => *first = Some(error),
                Some(_) => tracing::warn!(error = crate::describe(&error), "another stream ended"),
            }
            give_up();
        };
        let (started, memory, (begun, took), reports) = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            let started = vm.devices().iter().try_for_each(|device| {
                let send = || {
                    let sent = if limits.local {
                        device.send_fd_to(endpoint)
                    } else {
                        device.send_to_over(endpoint, limits.connections)
                    };
                    sent.map_err(failed).ok()
                };
                let name = format!("save {}", device.device_id());
                threads.push(Builder::new().name(name).spawn_scoped(scope, send)?);
                Ok::<_, io::Error>(())
            });
            let begun = Instant::now();
            let memory = match started {
                Ok(()) => ram::send(channel, vm.ram(), &last, pass).inspect_err(|_| give_up()),
                Err(_) => {
                    give_up();
                    Ok(Sent::default())
                }
            };
            let pass = (begun, begun.elapsed());
            let reports: Vec<_> = threads
                .into_iter()
                .map(|thread| thread.join().expect("a stream's thread does not panic"))
                .collect();
            (started, memory, pass, reports)
        });
        started.map_err(|e| Error::Thread("a VF's stream", e))?;
        let first = first_failure
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = first {
            // Where memory failed first, the streams were only cancelled.
            return match memory {
                Err(memory) => Err(reason_of(channel, memory.into())),
                Ok(_) => Err(error.into()),
            };
        }
        let sent = memory
            .map_err(|error| reason_of(channel, error.into()))?
            .bytes;
        self.report.passes += 1;
        self.report.memory_bytes += sent;
        self.report.last_pass_bytes = sent;
        self.note_pass(begun, took, sent);
        for (device, report) in self.vm.devices().iter().zip(reports.into_iter().flatten()) {
            self.report.devices.insert(
                device.device_id().to_owned(),
                device_report(&report, limits.local),
            );
        }
        Ok(())
    }

    /// The commitment: from here on only the destination's answer brings the guest back.
    pub(super) fn go(&mut self, mut channel: Channel) -> Go {
        if let Err(error) = self.enter(Phase::Resume) {
            return self.abandon(channel, error);
        }
        // Before go the destination only speaks, or leaves, when it has given up.
        if channel.has_input() {
            channel.set_patience(Duration::from_secs(1));
            let said =
                expect::<Running>(&mut channel, Kind::Running, "the destination waits for go");
            let unasked = protocol::Error::Order {
                got: Kind::Running,
                expected: "nothing before go",
            };
            let error = said.map_or_else(|error| error, |_| channel::Error::from(unasked).into());
            return self.abandon(channel, error);
        }
        if !self.watch.commit() {
            let why = self.watch.cancelled().unwrap_or_default();
            return self.abandon(channel, Error::Cancelled(why));
        }
        tracing::info!("go");
        let answer = channel
            .send_raw(Kind::Go, 0, &[])
            // What it said before it left decides, if it can still be read.
            .map_err(|error| reason_of(&mut channel, error.into()))
            .and_then(|()| {
                channel.set_patience(self.limits.answer);
                expect::<Running>(
                    &mut channel,
                    Kind::Running,
                    "the destination starts the guest",
                )
            });
        self.report.wire_bytes += channel.bytes();
        match answer {
            Ok(running) => {
                self.note_far("resume", running.resume_ms);
                Go::Running
            }
            // Said by a destination that has reset its VFs.
            Err(error @ Error::Peer(_)) => Go::NotTaken(error),
            Err(error) => Go::Unknown(error),
        }
    }

    /// Nothing of go was written, so the guest is still ours.
    fn abandon(&self, channel: Channel, error: Error) -> Go {
        say_abandon(channel, &error);
        Go::NotTaken(error)
    }

    pub(super) fn finish(&mut self, stopped: Instant) -> Report {
        let ended = Instant::now();
        let downtime = ended.saturating_duration_since(stopped);
        self.report.downtime_ms = ms(downtime);
        self.clock.leave();
        let (phases, total) = self.clock.times();
        let streaming = phases.get(Phase::Stream.name()).copied().unwrap_or(0.0);
        self.learn(downtime, Duration::from_secs_f64(streaming / 1e3));
        self.report.timeline = self.timeline(stopped, ended);
        let mut report = std::mem::take(&mut self.report);
        report.phases = phases;
        report.total_ms = total;
        report.dirty.cpu_ms += ms(cpu_time().saturating_sub(self.cpu));
        report.state_bytes = report.devices.values().map(|d| d.state_bytes).sum();
        report.wire_bytes += report.devices.values().map(|d| d.wire_bytes).sum::<u64>();
        report
    }

    /// The guest runs here again; says what became of its VFs.
    pub(super) fn come_back(&mut self) -> String {
        self.clock.leave();
        if let Err(error) = self.vm.accelerator().stop_dirty_log() {
            tracing::warn!(%error, "the dirty log stays on");
        }
        for device in self.vm.devices_mut() {
            let _ = device.stop_dirty_log();
        }
        *self.vm.reach().hold() = None;
        if !self.touched {
            return NEVER_PAUSED.into();
        }
        match self.vm.recover() {
            Ok(report) => {
                self.vm.told(&report);
                format!("The guest runs on at the source; {report}")
            }
            Err(error) => {
                let is = if self.vm.is_running() {
                    "has lost a VF and runs on"
                } else {
                    "is paused"
                };
                format!("The guest {is} at the source: {}", crate::describe(&error))
            }
        }
    }
}

/// Tells the destination on a thread of its own: the guest comes first. Without a thread it is not told in words; it
/// gives up when the connection closes.
pub(super) fn say_abandon(channel: Channel, error: &Error) {
    let reason = crate::describe(error);
    let say = move || channel.fail(Kind::Abandon, &reason);
    if let Err(error) = Builder::new().name("abandon".into()).spawn(say) {
        tracing::warn!(%error, "the destination is not told why");
    }
}

/// Reads a message, or the reason why it does not come.
fn expect<T: serde::de::DeserializeOwned>(
    channel: &mut Channel,
    wanted: Kind,
    doing: &'static str,
) -> Result<T, Error> {
    let (header, payload) = channel.receive(doing, &|| 0)?;
    match header.kind {
        kind if kind == wanted => {
            Ok(protocol::decode(kind, payload).map_err(channel::Error::from)?)
        }
        kind @ (Kind::Refused | Kind::Failed) => {
            let Reason { reason } =
                protocol::decode(kind, payload).map_err(channel::Error::from)?;
            Err(if kind == Kind::Refused {
                Error::Refused(reason)
            } else {
                Error::Peer(reason)
            })
        }
        got => Err(channel::Error::from(protocol::Error::Order {
            got,
            expected: "an answer",
        })
        .into()),
    }
}

/// When sending fails, the destination has often said why.
fn reason_of(channel: &mut Channel, error: Error) -> Error {
    channel.set_patience(Duration::from_secs(1));
    match expect::<Running>(channel, Kind::Running, "the destination says why it failed") {
        Err(told @ (Error::Peer(_) | Error::Refused(_))) => told,
        _ => error,
    }
}

fn device_report(report: &SaveReport, handed_over: bool) -> DeviceReport {
    DeviceReport {
        handed_over,
        enter_ms: ms(report.enter),
        stream_ms: ms(report.stream),
        confirm_ms: ms(report.confirm),
        state_bytes: report.totals.payload_bytes,
        wire_bytes: report.totals.wire_bytes,
        compressed: CompressedReport::of(report),
    }
}

/// Ranges as a table.
pub(super) fn table(ranges: Vec<MemoryRange>) -> MemoryRangeTable {
    let mut table = MemoryRangeTable::default();
    ranges.into_iter().for_each(|range| table.push(range));
    table
}
