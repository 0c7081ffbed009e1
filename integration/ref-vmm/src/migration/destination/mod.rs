// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination's role: it prepares its VFs while the guest still runs at the source, takes everything in, and runs
//! the guest only after go.
//!
//! One listener takes all connections. The first one with this VMM's magic is the attempt; while it lasts, the others are
//! streams of VFs, or parts of them, told apart by the manifest that each begins with. Whatever fails, the VFs are reset and closed before
//! the source hears of it, and the listener waits for the next attempt.

mod error;
mod loads;
mod streams;

use std::thread::Builder;
use std::time::{Duration, Instant};

use serde_json::json;
use xe_vfio_device::device::Options;
use xe_vfio_device::stream::Manifest;
use xe_vfio_device::transfer::{AttemptId, Cancel, Compression, EndpointError, Incoming, Listener};

pub use self::error::Error;
use self::loads::Loads;
use self::streams::ACCEPT_SLICE;
use super::Limits;
use super::channel::{self, Channel};
use super::prefix::Prefixed;
use super::protocol::{self, Config, Kind, Loaded, LoadedDevice, Ready, Reason, Running};
use super::report::ms;
use super::watch::Watch;
use crate::accel::Choice;
use crate::config::{DeviceConfig, HostConfig};
use crate::events::Events;
use crate::memory::GuestRam;
use crate::vm::{self, Vf, Vm, VmState};

/// How long the first connection is waited for before it is waited for again.
const IDLE_SLICE: Duration = Duration::from_secs(3600);

/// What this VMM brings to any VM that arrives.
pub struct Destination {
    /// Serial port, accelerator, way to the VFs.
    pub host: HostConfig,
    /// The VFs here, by id.
    pub devices: Vec<DeviceConfig>,
    /// Deadlines.
    pub limits: Limits,
    /// For the crate.
    pub options: Options,
    /// Where to tell.
    pub events: Events,
}

impl Destination {
    /// Waits for one attempt and carries it to its end. The VM runs when it is answered.
    ///
    /// # Errors
    /// [`Error`]; the VFs are reset and closed, the source was told, and the listener takes the next attempt.
    pub fn receive(&self, listener: &Listener, watch: &Watch) -> Result<Box<Vm>, Error> {
        let cancel = Cancel::new();
        watch.add(cancel.clone());
        let mut channel = self.wait_for_main(listener, &cancel)?;
        watch.enter("connect");
        self.events.report("attempt", &json!({}));
        let started = Instant::now();
        let prepared = self.read_config(&mut channel).and_then(|config| {
            let prepared = self.prepare(&config)?;
            Ok((prepared, config.compression))
        });
        let ((vm, attempt), compression) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                channel.fail(Kind::Refused, &crate::describe(&error));
                return Err(error);
            }
        };
        let vm = Box::new(vm);
        let ready = Ready {
            attempt: attempt.to_string(),
            lease_ms: u64::try_from(self.limits.lease.as_millis()).unwrap_or(u64::MAX),
            prepare_ms: ms(started.elapsed()),
            compression: compression && Compression::BUILT,
        };
        match self.take(&vm, attempt, &mut channel, listener, watch, &ready) {
            Ok(()) => Ok(vm),
            Err(error) => {
                if !matches!(error, Error::Vm(vm::Error::Group(_))) {
                    let report = vm.with_group(|group| group.reset());
                    tracing::info!(%report, "VFs reset after a failed attempt");
                }
                drop(vm);
                channel.fail(Kind::Failed, &crate::describe(&error));
                Err(error)
            }
        }
    }

    /// The first connection that turns out to be a main one. Each is looked at on a thread of its own, so that one that
    /// says nothing does not keep the others waiting.
    fn wait_for_main(&self, listener: &Listener, cancel: &Cancel) -> Result<Channel, Error> {
        let (found, main) = std::sync::mpsc::channel();
        let mut looked_at = 0;
        loop {
            // With nobody to hear of there is no reason to wake up.
            let slice = if looked_at == 0 {
                IDLE_SLICE
            } else {
                ACCEPT_SLICE
            };
            match listener.accept(slice, cancel) {
                Ok(connection) => {
                    let (found, silence) = (found.clone(), self.limits.silence);
                    let look = move || {
                        // Nobody takes it when another main connection was first.
                        let _ = found.send(Prefixed::read(connection, silence));
                    };
                    match Builder::new().name("prefix".into()).spawn(look) {
                        Ok(_) => looked_at += 1,
                        Err(error) => tracing::warn!(%error, "a connection is dropped"),
                    }
                }
                Err(EndpointError::Nobody { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            while let Ok(prefixed) = main.try_recv() {
                looked_at -= 1;
                match prefixed {
                    Ok(prefixed) if prefixed.is_main() => {
                        return Ok(Channel::new(
                            Box::new(prefixed),
                            cancel,
                            self.limits.silence,
                        )?);
                    }
                    Ok(prefixed) => self.turn_away(prefixed),
                    Err(error) => tracing::info!(%error, "a connection that said nothing"),
                }
            }
        }
    }

    /// A device's stream that nobody waits for. On its own thread: its sender may take seconds to notice.
    fn turn_away(&self, stream: Prefixed) {
        let deadlines = self.options.deadlines;
        let refuse = move || {
            if let Ok(incoming) = Incoming::accept(stream, &deadlines) {
                incoming.refuse("no migration is under way here", &deadlines);
            }
        };
        if let Err(error) = Builder::new().name("refuse".into()).spawn(refuse) {
            tracing::warn!(%error, "a stream that nobody waits for is dropped");
        }
    }

    fn read_config(&self, channel: &mut Channel) -> Result<Config, Error> {
        let (header, payload) = channel.receive("waiting for the configuration", &|| 0)?;
        match header.kind {
            Kind::Config => {
                Ok(protocol::decode(Kind::Config, payload).map_err(channel::Error::from)?)
            }
            got => Err(out_of_order(got, "Config")),
        }
    }

    /// Everything that can be done, and can be refused, while the guest runs at the source.
    fn prepare(&self, config: &Config) -> Result<(Vm, AttemptId), Error> {
        if let Choice::Only(here) = self.host.accel
            && here != config.accel
        {
            return Err(Error::Accel {
                source_kind: config.accel,
                here,
            });
        }
        let devices = self.match_devices(config)?;
        let accel = Choice::Only(config.accel);
        let vm = Vm::new(config.memory, &devices, accel, &self.host, self.options)?;
        let attempt = AttemptId::random().map_err(Error::Attempt)?;
        for (device, offer) in vm.devices().iter().zip(&config.devices) {
            let id = offer.id.clone();
            let manifest = Manifest::decode(&offer.manifest, offer.manifest_version)
                .map_err(|source| Error::Manifest { id, source })?;
            for mismatch in device.check(&manifest)? {
                tracing::warn!(id = offer.id, %mismatch, "the two VFs differ");
            }
            device.prepare_load()?;
            device.begin_attempt(attempt);
        }
        Ok((vm, attempt))
    }

    /// The VFs here in the source's order, which is that of their PCI slots.
    fn match_devices(&self, config: &Config) -> Result<Vec<DeviceConfig>, Error> {
        let matched: Vec<_> = config
            .devices
            .iter()
            .filter_map(|offer| self.devices.iter().find(|d| d.id == offer.id).cloned())
            .collect();
        if matched.len() != config.devices.len() || matched.len() != self.devices.len() {
            let list = |ids: Vec<&str>| ids.join(", ");
            return Err(Error::Devices {
                source_ids: list(config.devices.iter().map(|d| d.id.as_str()).collect()),
                here: list(self.devices.iter().map(|d| d.id.as_str()).collect()),
            });
        }
        Ok(matched)
    }

    /// Carries a prepared attempt to a running guest. The acceptor's thread, which needs a moment to notice that it is not
    /// needed any more, is only waited for when the guest runs or the attempt has failed.
    fn take(
        &self,
        vm: &Vm,
        attempt: AttemptId,
        channel: &mut Channel,
        listener: &Listener,
        watch: &Watch,
        ready: &Ready,
    ) -> Result<(), Error> {
        let loads = Loads::new(vm.devices(), attempt);
        for device in vm.devices() {
            watch.add(device.cancel_handle());
            watch.add_device(device.device_id(), device.progress());
        }
        let accepting = Cancel::new();
        std::thread::scope(|scope| {
            let accept = || self.accept_streams(scope, listener, &accepting, &loads);
            let result = Builder::new()
                .name("accept".into())
                .spawn_scoped(scope, accept)
                .map_err(|e| Error::Thread("the VFs' connections", e))
                .and_then(|_| Ok(channel.send(Kind::Ready, ready)?))
                .and_then(|()| self.take_in(vm, channel, watch, &loads, &accepting));
            accepting.cancel();
            if result.is_err() {
                vm.devices().iter().for_each(|d| d.cancel_handle().cancel());
            }
            result
        })
    }

    fn take_in(
        &self,
        vm: &Vm,
        channel: &mut Channel,
        watch: &Watch,
        loads: &Loads<'_>,
        accepting: &Cancel,
    ) -> Result<(), Error> {
        watch.enter("precopy");
        let state = take_memory(channel, vm.ram(), loads)?;
        loads.wait(self.limits.silence)?;
        accepting.cancel();

        watch.enter("load");
        let begun = Instant::now();
        let state: VmState = protocol::decode(Kind::State, &state).map_err(channel::Error::from)?;
        vm.restore(&state)?;
        let loaded = Instant::now();
        channel.send(
            Kind::Loaded,
            &Loaded {
                load_ms: ms(loaded - begun),
                devices: vm.devices().iter().filter_map(loaded_device).collect(),
            },
        )?;
        tracing::info!(ms = ms(loaded - begun), "loaded; the lease begins");
        self.wait_for_go(channel, loaded)?;
        // The source has let go: from here on only a failure ends it, not the user.
        if !watch.commit() {
            return Err(channel::Error::Cancelled("being told to go").into());
        }

        watch.enter("resume");
        let begun = Instant::now();
        vm.start_loaded()?;
        // The arcs may have taken long: a human at the source has been told that this is over.
        self.within_lease(loaded)?;
        vm.run_vcpu();
        let running = Running {
            resume_ms: ms(begun.elapsed()),
        };
        if let Err(error) = channel.send(Kind::Running, &running) {
            // The guest is ours whether the source has heard it or not.
            let error = crate::describe(&error);
            tracing::warn!(error, "the source may not know that the guest runs here");
        }
        self.events
            .report("received", &json!({"resume_ms": running.resume_ms}));
        Ok(())
    }

    fn within_lease(&self, loaded: Instant) -> Result<(), Error> {
        let (lease, took) = (self.limits.lease, loaded.elapsed());
        if took < lease {
            Ok(())
        } else {
            Err(Error::Late { lease, took })
        }
    }

    fn wait_for_go(&self, channel: &mut Channel, loaded: Instant) -> Result<(), Error> {
        let lease = self.limits.lease;
        channel.set_patience(lease);
        let go = channel.receive("waiting for go", &|| 0);
        let (header, payload) = go.map_err(|error| match error {
            channel::Error::Deadline(..) => Error::Lease(lease),
            other => other.into(),
        })?;
        match header.kind {
            Kind::Go => self.within_lease(loaded),
            Kind::Abandon => Err(abandoned(payload)),
            got => Err(out_of_order(got, "Go")),
        }
    }
}

/// What the load of a VF took, as the source gets it.
fn loaded_device(device: &Vf) -> Option<LoadedDevice> {
    let (moved, ended) = device.last_moved()?;
    Some(LoadedDevice {
        id: device.device_id().to_owned(),
        ended_ms: ms(ended.elapsed()),
        enter_ms: ms(moved.enter),
        stream_ms: ms(moved.stream),
        confirm_ms: ms(moved.confirm),
        device_ms: ms(moved.in_device),
        state_bytes: moved.state_bytes,
    })
}

/// Takes memory in until the VM's state comes; answers its bytes.
fn take_memory(channel: &mut Channel, ram: &GuestRam, loads: &Loads<'_>) -> Result<Vec<u8>, Error> {
    let activity = || loads.activity();
    loop {
        let (header, payload) = channel.receive("waiting for memory", &activity)?;
        match header.kind {
            Kind::Memory => ram.write(header.argument, payload)?,
            Kind::Zero => {
                let ranges = protocol::decode_ranges(payload).map_err(channel::Error::from)?;
                for range in ranges.regions() {
                    ram.zero(range.gpa, range.length)?;
                }
            }
            Kind::State => return Ok(payload.to_vec()),
            Kind::Abandon => return Err(abandoned(payload)),
            got => return Err(out_of_order(got, "Memory, Zero or State")),
        }
    }
}

fn abandoned(payload: &[u8]) -> Error {
    match protocol::decode::<Reason>(Kind::Abandon, payload) {
        Ok(Reason { reason }) => Error::Abandoned(reason),
        Err(error) => channel::Error::from(error).into(),
    }
}

fn out_of_order(got: Kind, expected: &'static str) -> Error {
    channel::Error::from(protocol::Error::Order { got, expected }).into()
}
