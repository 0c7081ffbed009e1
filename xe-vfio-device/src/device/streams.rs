// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's state to and from the outside.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::lifecycle::Step;
use super::slot::{LOADING, SAVING};
use super::{DeviceError, Passthrough, XeVfioDevice};
use crate::estimate::Moved;
use crate::state::{
    AnyVf, DeviceState, Outcome, ResetReason, Settled, Stopped, Stuck, Vf, clean_for_load,
};
use crate::stream::Manifest;
use crate::transfer::{
    Connection, Context, Endpoint, FileSink, Gather, Incoming, LoadReport, Loaded, Peer, Peers,
    PendingFile, Phase, SaveReport, Saved, Sink, Source, load, save, stream_path,
};
use crate::xe::Expectation;

impl<P: Passthrough> XeVfioDevice<P> {
    /// Sends the state of the stopped VF over a connection that was made for it, and waits until the other side has confirmed
    /// that it is loaded. The VF stays in STOP, or in STOP_COPY where it will not leave it or [`XeVfioDevice::leave_later`] was called, which changes nothing for the other side.
    ///
    /// # Errors
    /// [`DeviceError::Save`] says what holds: as a rule that the VF is in STOP with its state. The source must not let its VF
    /// go.
    pub fn send_over(&self, connection: impl Connection) -> Result<SaveReport, DeviceError> {
        self.save_to(Peer::new(connection))
    }

    /// As [`XeVfioDevice::send_over`], over several connections to the same listener (1 to 8), each frame over whichever is free. It is for links on which one connection is
    /// slower than the VF; the receiver puts them together with [`Gather`].
    ///
    /// # Errors
    /// As [`XeVfioDevice::send_over`], also when one of the connections fails.
    pub fn send_over_all(
        &self,
        connections: Vec<Box<dyn Connection>>,
    ) -> Result<SaveReport, DeviceError> {
        let peers = Peers::new(connections).map_err(|source| DeviceError::Connections {
            id: self.id.clone(),
            source,
        })?;
        self.save_to(peers)
    }

    /// As [`XeVfioDevice::send_to`] with this many connections (1 to 8) where the URL is one that is connected to.
    ///
    /// # Errors
    /// As [`XeVfioDevice::send_to`] and [`XeVfioDevice::send_over_all`].
    pub fn send_to_over(
        &self,
        endpoint: &Endpoint,
        connections: u8,
    ) -> Result<SaveReport, DeviceError> {
        if connections == 1 || matches!(endpoint, Endpoint::File(_)) {
            return self.send_to(endpoint);
        }
        self.progress.enter(Phase::Connect);
        let made = (0..connections)
            .map(|_| endpoint.connect(self.options.deadlines.connect))
            .collect::<Result<_, _>>();
        self.send_over_all(made.map_err(|source| self.no_way(source))?)
    }

    /// As [`XeVfioDevice::send_over`], to a URL: connects, or writes a file that is whole and on the disk afterwards.
    ///
    /// # Errors
    /// [`DeviceError`]; when there is nobody to connect to, nothing was done.
    pub fn send_to(&self, endpoint: &Endpoint) -> Result<SaveReport, DeviceError> {
        self.progress.enter(Phase::Connect);
        let Endpoint::File(path) = endpoint else {
            let connection = endpoint.connect(self.options.deadlines.connect);
            return self.send_over(connection.map_err(|source| self.no_way(source))?);
        };
        let file = self.with_file(path, PendingFile::create)?;
        self.save_to(FileSink::new(file))
    }

    /// Prepares a destination before anything moves: cleans the VF of whatever was in it, an earlier load's cut packet included, and
    /// takes it to STOP, so that a load begins with one arc.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn prepare_load(&self) -> Result<(), DeviceError> {
        self.manifest()?;
        self.with("being prepared", |vf| {
            let reset = match clean_for_load(vf) {
                Ok(vf) => vf,
                Err(stuck) => return self.unresettable(stuck, ResetReason::Asked),
            };
            match reset.quiesce().and_then(|vf| vf.stop()) {
                Ok(mut vf) => {
                    let reserved = vf.reserve_fd();
                    let reserved = reserved.map_err(|source| DeviceError::Uapi {
                        id: self.id.clone(),
                        source,
                    });
                    (vf.into(), reserved)
                }
                Err(Stuck { error, vf }) => {
                    let error = self.stuck(DeviceState::Stop, &vf, error);
                    (vf, Err(error))
                }
            }
        })
    }

    /// Loads a stream that the VMM has accepted or opened; see [`Incoming`]. The VF is in STOP with the new state afterwards. A VF
    /// that is still in RUNNING, as one is after it was opened, is cleaned and stopped first.
    ///
    /// # Errors
    /// [`DeviceError::OtherDevice`], [`DeviceError::OtherAttempt`] and [`DeviceError::Incompatible`] before anything was touched;
    /// [`DeviceError::Load`] with the VF reset. The sender was told.
    pub fn load_from<S: Source>(&self, incoming: Incoming<S>) -> Result<LoadReport, DeviceError> {
        let own = match self.acceptable(&incoming) {
            Ok(own) => own,
            Err(error) => {
                incoming.refuse(&crate::transfer::chain(&error), &self.options.deadlines);
                return Err(error);
            }
        };
        let expectation = Expectation::of(&own).sent_by(incoming.manifest());
        let context = self.context();
        let _span = tracing::info_span!("load", id = self.id, attempt = %context.attempt).entered();
        let mut incoming = Some(incoming);
        let result = self.with(LOADING, |vf| {
            let stopped = match vf {
                AnyVf::Stopped(vf) => Ok(vf),
                AnyVf::RunningP2p(vf) => vf.stop(),
                AnyVf::Running(vf) => clean_for_load(vf.into()).and_then(|vf| vf.quiesce()?.stop()),
                other => {
                    let error = self.wrong_state(&other, DeviceState::Stop);
                    return (other, Err(error));
                }
            };
            let vf = match stopped {
                Ok(vf) => vf,
                Err(Stuck { error, vf }) => {
                    let error = self.stuck(DeviceState::Stop, &vf, error);
                    return (vf, Err(error));
                }
            };
            let Some(incoming) = incoming.take() else {
                unreachable!("taken once")
            };
            self.loaded(load(vf, incoming, expectation, &context))
        });
        if let (Err(error), Some(incoming)) = (&result, incoming) {
            incoming.refuse(&crate::transfer::chain(error), &self.options.deadlines);
        }
        result
    }

    /// Waits for a stream on one connection or several at a URL and loads from it, or loads from a file. Answers what the source said of its VF.
    ///
    /// # Errors
    /// As [`XeVfioDevice::load_from`], and when nobody connects.
    pub fn receive_at(&self, endpoint: &Endpoint) -> Result<(Manifest, LoadReport), DeviceError> {
        self.progress.enter(Phase::Connect);
        let deadlines = &self.options.deadlines;
        let opening = |source| DeviceError::Opening {
            id: self.id.clone(),
            source: Box::new(source),
        };
        if let Endpoint::File(path) = endpoint {
            let file = self.with_file(path, |path| File::open(path))?;
            return self.load_with_manifest(Incoming::open(file).map_err(opening)?);
        }
        let listener = endpoint.listen().map_err(|source| self.no_way(source))?;
        let gather = Gather::new(self.shared().attempt);
        loop {
            let connection = listener
                .accept(deadlines.connect, &self.cancel_handle())
                .map_err(|source| self.no_way(source))?;
            let incoming = Incoming::accept(connection, deadlines).map_err(opening)?;
            match gather.add(incoming, deadlines) {
                Ok(Some(whole)) => return self.load_with_manifest(whole),
                Ok(None) => {}
                Err(error) => {
                    let id = &self.id;
                    tracing::warn!(id, %error, "a connection is refused");
                }
            }
        }
    }

    /// Opens the device's file, which an error names.
    fn with_file<T>(
        &self,
        path: &Path,
        open: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, DeviceError> {
        let error = |path: &Path, source| DeviceError::File {
            id: self.id.clone(),
            path: path.display().to_string(),
            source,
        };
        let file = stream_path(path, &self.id).map_err(|source| error(path, source))?;
        open(&file).map_err(|source| error(&file, source))
    }

    fn load_with_manifest<S: Source>(
        &self,
        incoming: Incoming<S>,
    ) -> Result<(Manifest, LoadReport), DeviceError> {
        let manifest = incoming.manifest().clone();
        self.load_from(incoming).map(|report| (manifest, report))
    }

    /// Whether a stream may touch this VF; answers the VF's own manifest.
    fn acceptable<S: Source>(&self, incoming: &Incoming<S>) -> Result<Manifest, DeviceError> {
        let id = || self.id.clone();
        if incoming.device_id() != self.id {
            return Err(DeviceError::OtherDevice {
                id: id(),
                found: incoming.device_id().to_owned(),
            });
        }
        let (found, expected) = (incoming.attempt(), self.shared().attempt);
        if found != expected {
            return Err(DeviceError::OtherAttempt {
                id: id(),
                found,
                expected,
            });
        }
        let (here, count) = (incoming.here(), incoming.part().count);
        if here != usize::from(count) {
            return Err(DeviceError::Parts {
                id: id(),
                here,
                count,
            });
        }
        for mismatch in self.compatible(incoming.manifest())? {
            tracing::warn!(id = self.id, %mismatch, "the two VFs differ");
        }
        self.known_manifest()
    }

    fn save_to<S: Sink>(&self, sink: S) -> Result<SaveReport, DeviceError> {
        self.save_by(|vf, manifest, context| save(vf, sink, manifest, context))
    }

    /// Saves the stopped VF.
    pub(super) fn save_by(
        &self,
        save: impl FnOnce(Vf<P::Device, Stopped>, &Manifest, &Context) -> Saved<P::Device>,
    ) -> Result<SaveReport, DeviceError> {
        self.not_reset()?;
        let manifest = self.known_manifest()?;
        let context = self.context();
        let _span = tracing::info_span!("save", id = self.id, attempt = %context.attempt).entered();
        self.with(SAVING, |vf| match vf {
            AnyVf::Stopped(vf) => self.saved(save(vf, &manifest, &context)),
            other => {
                let error = self.wrong_state(&other, DeviceState::Stop);
                (other, Err(error))
            }
        })
    }

    fn saved(&self, saved: Saved<P::Device>) -> Step<P::Device, SaveReport> {
        let Saved { vf, result } = saved;
        let (vf, now) = self.settled(vf);
        if let Ok(report) = &result {
            self.note_moved(Moved::saved(&self.id, report));
        }
        let result = result.map_err(|source| DeviceError::Save {
            id: self.id.clone(),
            now,
            source: Box::new(source),
        });
        (vf, result)
    }

    fn loaded(&self, loaded: Loaded<P::Device>) -> Step<P::Device, LoadReport> {
        let Loaded { vf, result } = loaded;
        if let Ok(report) = &result {
            self.shared().reset = None;
            self.note_moved(Moved::loaded(&self.id, report));
        }
        let (vf, now) = self.settled(vf);
        let result = result.map_err(|source| DeviceError::Load {
            id: self.id.clone(),
            now,
            source: Box::new(source),
        });
        (vf, result)
    }

    fn note_moved(&self, moved: Moved) {
        self.shared().moved = Some((moved, Instant::now()));
    }

    /// Notes what a transfer has left, and says it.
    fn settled(
        &self,
        vf: Result<Settled<P::Device>, Stuck<P::Device>>,
    ) -> (AnyVf<P::Device>, String) {
        match vf {
            Ok(Settled::Stopped(vf)) => (
                vf.into(),
                "the VF is in STOP with the state it had".to_owned(),
            ),
            Ok(Settled::Unsettled(vf @ AnyVf::Saving(_))) => {
                let now = "the VF is in STOP_COPY, all of its state was read".to_owned();
                (vf, now)
            }
            Ok(Settled::Unsettled(vf)) => {
                tracing::warn!(id = self.id, %vf, "all state was read, but STOP_COPY cannot be left");
                let now = "the VF stands still in STOP_COPY, all of its state was read".to_owned();
                (vf, now)
            }
            Ok(Settled::Running(recovered)) => {
                let now = match recovered.outcome {
                    Outcome::GpuStateKept => {
                        "the VF is in RUNNING with the state it had".to_owned()
                    }
                    Outcome::Reset { why } => {
                        format!("the VF was reset because {why}, its GPU state is lost")
                    }
                };
                (self.recovered(Ok(recovered), ResetReason::Asked).0, now)
            }
            Err(stuck) => {
                let now = format!("the VF had to be reset and could not be: {stuck}");
                let why = ResetReason::Stuck(stuck.error);
                (self.unresettable::<()>(stuck, why).0, now)
            }
        }
    }

    pub(super) fn no_way(&self, source: crate::transfer::EndpointError) -> DeviceError {
        DeviceError::Endpoint {
            id: self.id.clone(),
            source: Box::new(source),
        }
    }
}
