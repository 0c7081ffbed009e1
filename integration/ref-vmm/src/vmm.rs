// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process around a VM: which commands it takes when, and what holds after each of them.
//!
//! A long command takes the VM out of `State` and puts it back, so that others are answered meanwhile; `held` does so also
//! when it panics. `Undecided` is
//! the one state that needs a human: the guest was told to run at a destination and no word came back.

mod held;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use serde_json::{Value, json};
use xe_vfio_device::device::Options;
use xe_vfio_device::estimate::{Hosts, Route};
use xe_vfio_device::transfer::{Endpoint, Listener};

use self::held::{Awaited, Held, contained};
use crate::api::{Request, Response};
use crate::config::{DeviceConfig, HostConfig, seconds};
use crate::events::Events;
use crate::migration::Limits;
use crate::migration::destination::Destination;
use crate::migration::forecast::Forecaster;
use crate::migration::source::{self, Outcome};
use crate::migration::watch::Watch;
use crate::reach::{self, Reach};
use crate::snapshot;
use crate::vm::{self, Vm};

/// What is here.
enum State {
    /// No VM.
    Empty,
    /// A VM, running or paused.
    Here(Box<Vm>),
    /// A VM that may run elsewhere.
    Undecided(Box<Vm>),
    /// A command has it.
    Busy(&'static str, Arc<Watch>),
    /// It runs elsewhere.
    HandedOver,
}

impl State {
    fn name(&self) -> String {
        match self {
            Self::Empty => "without a VM".into(),
            Self::Here(vm) if vm.accelerator().ended().is_some() => "ended".into(),
            Self::Here(vm) if vm.is_running() => "running".into(),
            Self::Here(_) => "paused".into(),
            Self::Undecided(_) => "paused, perhaps running at the destination".into(),
            Self::Busy(what, _) => (*what).into(),
            Self::HandedOver => "handed over".into(),
        }
    }
}

/// The process.
pub struct Vmm {
    host: HostConfig,
    devices: Vec<DeviceConfig>,
    limits: Limits,
    options: Options,
    events: Events,
    forecaster: Forecaster,
    state: Mutex<State>,
    // Weak, since it keeps RAM: a VM that has moved away leaves none of it here.
    reach: Mutex<Weak<Reach>>,
    exit: Mutex<Option<u8>>,
    exiting: Condvar,
}

/// What a human does about [`State::Undecided`]: no time that passes here says that the destination stands still.
const LOOK: &str = "Look there first, with ref-vmm remote --api-socket SOCKET info: where it says running, shut this VMM \
                    down; where the VMM is without a VM or gone for good, resume --force runs the guest here";

/// Why a command failed, for people.
type Failed = String;

impl Vmm {
    /// A process without a VM.
    #[must_use]
    pub fn new(
        host: HostConfig,
        devices: Vec<DeviceConfig>,
        limits: Limits,
        options: Options,
        events: Events,
        forecaster: Forecaster,
    ) -> Self {
        Self {
            host,
            devices,
            limits,
            options,
            events,
            forecaster,
            state: Mutex::new(State::Empty),
            reach: Mutex::default(),
            exit: Mutex::new(None),
            exiting: Condvar::new(),
        }
    }

    /// Gives it a VM.
    pub fn adopt(&self, vm: Box<Vm>) {
        let reach = Arc::downgrade(vm.reach());
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner) = reach;
        *self.lock() = State::Here(vm);
    }

    /// What the VM does, in a word or a few.
    #[must_use]
    pub fn state_name(&self) -> String {
        self.lock().name()
    }

    /// Ends the process.
    pub fn exit(&self, code: u8) {
        self.exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(code);
        self.exiting.notify_all();
    }

    /// Waits until somebody ends the process; drops the VM, which closes its VFs.
    #[must_use]
    pub fn wait_for_exit(&self) -> u8 {
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        let code = loop {
            match *exit {
                Some(code) => break code,
                None => {
                    exit = self
                        .exiting
                        .wait(exit)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(std::mem::replace(&mut *self.lock(), State::Empty));
        code
    }

    /// Does what is asked; the second value ends the process once the answer has been given.
    pub fn handle(&self, request: Request) -> (Response, Option<u8>) {
        tracing::info!(?request, "asked");
        let mut exit = None;
        let result = contained(|| match request {
            Request::Ping {} => Ok(json!({"pid": std::process::id()})),
            Request::Info {} => Ok(self.info()),
            Request::Pause {} => self.pause(),
            Request::Resume { force } => self.resume(force),
            Request::Snapshot { url } => self.snapshot(&url),
            Request::SendMigration {
                url,
                timeout,
                dirty,
                local,
            } => self
                .send_migration(&url, timeout, dirty.as_deref(), local)
                .inspect(|_| exit = Some(0)),
            Request::CancelMigration {} => self.cancel_migration(),
            Request::ReceiveMigration { url } => self.receive_once(&url),
            Request::DmaUnmap {
                gpa,
                length,
                discard,
            } => self.change_reach(|reach| reach.take_away(gpa, length, discard)),
            Request::DmaMap { gpa, length } => self.change_reach(|reach| reach.give(gpa, length)),
            Request::Shutdown {} => {
                exit = Some(0);
                self.cancel_for_shutdown();
                Ok(Value::Null)
            }
        });
        let response = match result.flatten() {
            Ok(ok) => Response::Done { ok },
            Err(error) => {
                let state = self.state_name();
                tracing::warn!(error, state, "command failed");
                Response::Failed { error, state }
            }
        };
        (response, exit)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the VM for a command.
    fn take(&self, what: &'static str) -> Result<Held<'_>, Failed> {
        let mut state = self.lock();
        let watch = Arc::new(Watch::default());
        match std::mem::replace(&mut *state, State::Busy(what, watch.clone())) {
            State::Here(vm) => Ok(Held::new(self, vm, watch)),
            other => {
                *state = other;
                Err(format!(
                    "There is no VM to be had: this VMM is {}",
                    state.name()
                ))
            }
        }
    }

    fn info(&self) -> Value {
        let state = self.lock();
        let mut info = json!({"state": state.name(), "pid": std::process::id()});
        match &*state {
            State::Here(vm) | State::Undecided(vm) => describe_vm(&mut info, vm),
            State::Busy(_, watch) => info["migration"] = watch.view(),
            State::Empty | State::HandedOver => {}
        }
        info
    }

    fn pause(&self) -> Result<Value, Failed> {
        let vm = self.take("pausing")?;
        let paused = vm.pause();
        if let Err(vm::Error::Group(error)) = &paused {
            // The answer has it in words.
            vm.told(&error.report);
        }
        drop(vm);
        paused.map_err(|e| crate::describe(&e))?;
        self.events.report("paused", &json!({}));
        Ok(Value::Null)
    }

    fn resume(&self, force: bool) -> Result<Value, Failed> {
        let vm = self.take_to_resume(force)?;
        let resumed = vm.resume();
        if let Ok(report) = &resumed {
            vm.told(report);
        }
        drop(vm);
        let report = resumed.map_err(|e| crate::describe(&e))?;
        self.events
            .report("resumed", &json!({"devices": report.to_string()}));
        Ok(json!({"devices": report.to_string()}))
    }

    fn take_to_resume(&self, force: bool) -> Result<Held<'_>, Failed> {
        let mut state = self.lock();
        if matches!(*state, State::Undecided(_)) && !force {
            return Err(format!("The guest may run at the destination. {LOOK}"));
        }
        let watch = Arc::new(Watch::default());
        match std::mem::replace(&mut *state, State::Busy("resuming", watch.clone())) {
            State::Here(vm) => Ok(Held::new(self, vm, watch)),
            State::Undecided(vm) => {
                vm.devices().iter().for_each(|d| d.reclaim());
                Ok(Held::new(self, vm, watch))
            }
            other => {
                *state = other;
                Err(format!(
                    "There is no VM to be resumed: this VMM is {}",
                    state.name()
                ))
            }
        }
    }

    fn snapshot(&self, url: &str) -> Result<Value, Failed> {
        let directory = snapshot::directory(url).map_err(|e| crate::describe(&e))?;
        let mut vm = self.take("taking a snapshot")?;
        let started = Instant::now();
        let saved = if vm.is_running() {
            Err("The VM runs; pause it first".to_owned())
        } else {
            snapshot::save(&mut vm, &directory).map_err(|e| crate::describe(&e))
        };
        drop(vm);
        saved?;
        let ms = crate::migration::report::ms(started.elapsed());
        self.events
            .report("snapshot", &json!({"directory": directory, "ms": ms}));
        Ok(json!({"directory": directory, "ms": ms}))
    }

    fn send_migration(
        &self,
        url: &str,
        timeout: Option<f64>,
        dirty: Option<&str>,
        local: bool,
    ) -> Result<Value, Failed> {
        let endpoint: Endpoint = url.parse().map_err(|e| crate::describe(&e))?;
        if local && !matches!(endpoint, Endpoint::Unix(_)) {
            return Err(format!(
                "{url} is no unix socket, and only through one a VMM of this host can be handed the VFs' data fds"
            ));
        }
        let mut limits = self.limits;
        limits.local = local;
        if let Some(timeout) = timeout {
            limits.total = seconds(timeout)?;
        }
        if let Some(dirty) = dirty {
            limits.dirty = dirty.parse().map_err(|e| crate::describe(&e))?;
        }
        let mut vm = self.take("migrating")?;
        if !vm.is_running() {
            return Err("The VM is paused; resume it before it is migrated".into());
        }
        self.events.report("migration", &json!({"url": url}));
        let watch = vm.watch();
        let (events, forecaster) = (&self.events, &self.forecaster);
        match source::send(&mut vm, &endpoint, &limits, &watch, events, forecaster) {
            Outcome::HandedOver { report } => {
                vm.leave(|vm| {
                    // Closes its VFs from STOP.
                    drop(vm);
                    State::HandedOver
                });
                let report = serde_json::to_value(report).map_err(|e| e.to_string())?;
                self.events.report("migrated", &report);
                Ok(report)
            }
            Outcome::StillHere { error, now } => {
                drop(vm);
                let error = crate::describe(&error);
                self.events
                    .report("migration-failed", &json!({"error": error, "now": now}));
                Err(format!("{error}. {now}"))
            }
            Outcome::Undecided { error } => {
                vm.leave(State::Undecided);
                let error = crate::describe(&error);
                let now = format!(
                    "The destination may have been told to run the guest and has not answered: the guest stays \
                     paused here. {LOOK}"
                );
                self.events
                    .report("migration-undecided", &json!({"error": error, "now": now}));
                Err(format!("{error}. {now}"))
            }
        }
    }

    /// Needs no VM to be had: it goes on while a migration has it.
    fn change_reach(
        &self,
        change: impl FnOnce(&Reach) -> Result<(), reach::Error>,
    ) -> Result<Value, Failed> {
        let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let reach = reach.upgrade().ok_or("There is no VM here")?;
        change(&reach).map_err(|e| crate::describe(&e))?;
        Ok(Value::Null)
    }

    fn cancel_migration(&self) -> Result<Value, Failed> {
        match &*self.lock() {
            State::Busy(_, watch) if watch.cancel("cancelled by the user") => Ok(Value::Null),
            State::Busy(..) => {
                Err("It is too late to cancel: the destination was told to run the guest".into())
            }
            _ => Err("There is no migration to be cancelled".into()),
        }
    }

    fn cancel_for_shutdown(&self) {
        if let State::Busy(_, watch) = &*self.lock() {
            watch.cancel("the VMM is shutting down");
        }
    }

    fn destination(&self) -> Destination {
        Destination {
            host: self.host.clone(),
            devices: self.devices.clone(),
            limits: self.limits,
            options: self.options,
            events: self.events.clone(),
        }
    }

    /// Listens for a migration.
    ///
    /// # Errors
    /// A sentence on why it cannot.
    pub fn listen(&self, url: &str) -> Result<Listener, String> {
        let endpoint: Endpoint = url.parse().map_err(|e| crate::describe(&e))?;
        let listener = endpoint.listen().map_err(|e| crate::describe(&e))?;
        let at = listener.endpoint().to_string();
        tracing::info!(url = at, "waiting for a migration");
        self.events.report("listening", &json!({"url": at}));
        Ok(listener)
    }

    fn receive_once(&self, url: &str) -> Result<Value, Failed> {
        let listener = self.listen(url)?;
        self.receive(&listener)
            .map(|()| Value::Null)
            .map_err(|(error, _)| error)
    }

    /// Takes one attempt in; the VM runs when it has arrived. With the error comes whether it was wanted.
    fn receive(&self, listener: &Listener) -> Result<(), (Failed, bool)> {
        let watch = Arc::new(Watch::default());
        {
            let mut state = self.lock();
            if !matches!(*state, State::Empty) {
                let name = state.name();
                return Err((format!("This VMM takes no other VM: it is {name}"), true));
            }
            *state = State::Busy("receiving", watch.clone());
        }
        let place = Awaited(self);
        match self.destination().receive(listener, &watch) {
            Ok(vm) => {
                // What it took to load says something of the way back.
                let endpoint = listener.endpoint();
                let (route, hosts) = (Route::from(&endpoint), Hosts::of(&endpoint));
                let finished = vm.with_group(|group| group.finished(&group.work(route, hosts)));
                self.adopt(vm);
                self.forecaster.learn(finished);
                Ok(())
            }
            Err(error) => {
                drop(place);
                let cancelled = watch.cancelled().is_some();
                let error = crate::describe(&error);
                let detail = json!({"error": error, "cancelled": cancelled});
                self.events.report("receive-failed", &detail);
                Err((error, cancelled))
            }
        }
    }

    /// Takes attempts in until one has arrived or the user gives up; with `once` after the first.
    ///
    /// # Errors
    /// Why the last attempt failed.
    pub fn receive_until_here(&self, listener: &Listener, once: bool) -> Result<(), String> {
        loop {
            match contained(|| self.receive(listener))? {
                Ok(()) => return Ok(()),
                Err((error, cancelled)) if once || cancelled => return Err(error),
                Err((error, _)) => {
                    tracing::warn!(error, "attempt failed; waiting for the next one");
                }
            }
        }
    }
}

fn describe_vm(info: &mut Value, vm: &Vm) {
    let (accel, fallback) = vm.accel();
    info["accel"] = json!(accel);
    if let Some(why) = fallback {
        info["accel_reason"] = json!(format!("KVM cannot be used: {why}"));
    }
    info["memory"] = json!(vm.ram().size());
    if let Some(why) = vm.accelerator().ended() {
        info["ended"] = json!(why);
    }
    let devices: Vec<_> = vm
        .devices()
        .iter()
        .map(|device| {
            let now = device.info();
            json!({
                "id": device.device_id(),
                "path": device.passthrough().vf().path(),
                "state": now.state.map(|s| s.to_string()),
                "busy": now.busy,
                "reset": now.reset.map(|r| r.to_string()),
                "handed_over": now.handed_over,
                "dirty_strategy": device.dirty_strategy(),
            })
        })
        .collect();
    info["devices"] = json!(devices);
}
