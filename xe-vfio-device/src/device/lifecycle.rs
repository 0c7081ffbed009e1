// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device between RUNNING and STOP, and its ways back.

use super::{DeviceError, Passthrough, Support, XeVfioDevice};
use crate::state::{
    AnyVf, DeviceState, MigrationDevice, Outcome, Recovered, ResetReason, Stuck, TransitionError,
    recover_to_running, reset_to_running,
};
use crate::stream::Manifest;
use crate::transfer::{AttemptId, Cancel, Compression, Leave};
use crate::xe::{Mismatch, compare, compat::Severity};

/// What a step made of a session.
pub(super) type Step<D, T> = (AnyVf<D>, Result<T, DeviceError>);

/// A session after one arc.
type Walked<D> = Result<AnyVf<D>, Stuck<D>>;

impl<P: Passthrough> XeVfioDevice<P> {
    /// Prepares a source while the guest still runs: refuses a VF that cannot migrate, reads the manifest, holds an fd free for
    /// the state and begins an attempt without an id. The state does not change.
    ///
    /// # Errors
    /// [`DeviceError`]; the guest runs on.
    pub fn start(&self) -> Result<(), DeviceError> {
        self.migratable()?;
        self.not_reset()?;
        self.manifest()?;
        self.with("preparing", |mut vf| {
            let reserved = vf.reserve_fd().map_err(|source| DeviceError::Uapi {
                id: self.id.clone(),
                source,
            });
            (vf, reserved)
        })?;
        self.begin_attempt(AttemptId::NONE);
        Ok(())
    }

    /// Begins an attempt: streams of any other id are refused by a destination. Answers the attempt's cancel handle.
    pub fn begin_attempt(&self, attempt: AttemptId) -> Cancel {
        let cancel = Cancel::new();
        let mut shared = self.shared();
        shared.attempt = attempt;
        shared.cancel = cancel.clone();
        cancel
    }

    /// What this VF is and has. Reads sysfs and asks the kernel; the result is kept for the stream. The state does not change.
    ///
    /// # Errors
    /// [`DeviceError`] when the VF cannot migrate or be identified.
    pub fn manifest(&self) -> Result<Manifest, DeviceError> {
        let flags = self.migratable()?;
        let identity = self
            .passthrough
            .identity()
            .map_err(|source| DeviceError::Identity {
                id: self.id.clone(),
                source: Box::new(source),
            })?;
        let mut manifest = Manifest::new(&self.id, &identity);
        manifest.migration_flags = flags.0;
        let device = self.passthrough.device();
        for (index, bar) in (0..).zip(&mut manifest.bars) {
            // sysfs and VFIO agree but for BARs that VFIO hides.
            if let Ok(size) = device.region_size(index) {
                *bar = size;
            }
        }
        manifest.stop_copy_length = device.stop_copy_length().unwrap_or(0);
        manifest.encode().map_err(|source| DeviceError::Manifest {
            id: self.id.clone(),
            source: Box::new(source),
        })?;
        self.shared().manifest = Some(manifest.clone());
        Ok(manifest)
    }

    /// Whether this VF can take the state of the one that `source` describes; answers what differs and does no harm. The state
    /// does not change, so ask before anything is paused.
    ///
    /// # Errors
    /// [`DeviceError::Incompatible`] with everything that differs.
    pub fn check(&self, source: &Manifest) -> Result<Vec<Mismatch>, DeviceError> {
        self.manifest()?;
        self.compatible(source)
    }

    /// As [`XeVfioDevice::check`] with what is known already, for the time that the guest stands still.
    pub(super) fn compatible(&self, source: &Manifest) -> Result<Vec<Mismatch>, DeviceError> {
        let mismatches = compare(source, &self.known_manifest()?);
        let refused = |mismatch: &Mismatch| mismatch.severity() == Severity::Refuse;
        if mismatches.iter().any(refused) {
            let id = self.id.clone();
            return Err(DeviceError::Incompatible { id, mismatches });
        }
        Ok(mismatches)
    }

    /// The manifest as it was last asked for: reads nothing then, for a thread that may not.
    ///
    /// # Errors
    /// [`DeviceError`] when the VF cannot migrate or be identified.
    pub fn known_manifest(&self) -> Result<Manifest, DeviceError> {
        self.migratable()?;
        let known = self.shared().manifest.clone();
        known.map_or_else(|| self.manifest(), Ok)
    }

    /// RUNNING -> RUNNING_P2P: the VF makes no DMA any more, its BARs still work. Nothing to do further down.
    ///
    /// # Errors
    /// [`DeviceError::Transition`] says where the VF is.
    pub fn quiesce(&self) -> Result<(), DeviceError> {
        self.transition("quiescing", DeviceState::RunningP2p, |vf| match vf {
            AnyVf::Running(vf) => Ok(vf.quiesce().map(AnyVf::from)),
            vf @ (AnyVf::RunningP2p(_) | AnyVf::Stopped(_)) => Ok(Ok(vf)),
            vf => Err(vf),
        })
    }

    /// RUNNING_P2P -> STOP. Nothing to do in STOP.
    ///
    /// # Errors
    /// [`DeviceError::Transition`] says where the VF is; [`DeviceError::WrongState`] in RUNNING.
    pub fn stop(&self) -> Result<(), DeviceError> {
        self.transition("stopping", DeviceState::Stop, |vf| match vf {
            AnyVf::RunningP2p(vf) => Ok(vf.stop().map(AnyVf::from)),
            vf @ AnyVf::Stopped(_) => Ok(Ok(vf)),
            vf => Err(vf),
        })
    }

    /// Has saves compress from now on, or not, which they do not until told; see [`Compression`]. The VMM knows that the receiver is a build with codecs: one
    /// without refuses the stream. What is handed over by descriptor is never compressed.
    pub fn compress(&self, compression: Compression) {
        self.shared().compression = compression;
    }

    /// Has good saves over connections stay in STOP_COPY from now on, or not; see [`Leave`]. [`XeVfioDevice::leave_stop_copy`] is then to be
    /// called once the destination runs; the ways back to RUNNING need no such call.
    pub fn leave_later(&self, later: bool) {
        self.shared().leave = if later { Leave::Later } else { Leave::AtOnce };
    }

    /// STOP_COPY -> STOP after all of the state was read. Nothing to do in STOP.
    ///
    /// # Errors
    /// [`DeviceError::Transition`] says where the VF is; [`DeviceError::WrongState`] elsewhere than in STOP and STOP_COPY.
    pub fn leave_stop_copy(&self) -> Result<(), DeviceError> {
        self.transition("leaving STOP_COPY", DeviceState::Stop, |vf| match vf {
            AnyVf::Saving(vf) if vf.is_drained() => Ok(vf.finish().map(AnyVf::from)),
            AnyVf::StreamDead(vf) if vf.dead_state() == DeviceState::StopCopy => {
                Ok(vf.stop().map(AnyVf::from))
            }
            vf @ AnyVf::Stopped(_) => Ok(Ok(vf)),
            vf => Err(vf),
        })
    }

    /// STOP -> RUNNING_P2P, from STOP_COPY too once all of the state was read. Nothing to do further up.
    ///
    /// # Errors
    /// [`DeviceError::Transition`] says where the VF is; [`DeviceError::HandedOver`].
    pub fn unstop(&self) -> Result<(), DeviceError> {
        self.still_ours()?;
        self.transition("unstopping", DeviceState::RunningP2p, |vf| match vf {
            AnyVf::Stopped(vf) => Ok(vf.unstop().map(AnyVf::from)),
            // One that has not left STOP_COPY yet comes back with the others of its group.
            AnyVf::Saving(vf) if vf.is_drained() => {
                Ok(vf.finish().and_then(|vf| vf.unstop().map(AnyVf::from)))
            }
            vf @ (AnyVf::RunningP2p(_) | AnyVf::Running(_)) => Ok(Ok(vf)),
            vf => Err(vf),
        })
    }

    /// RUNNING_P2P -> RUNNING. Nothing to do in RUNNING.
    ///
    /// # Errors
    /// [`DeviceError::Transition`] says where the VF is; [`DeviceError::HandedOver`]; [`DeviceError::WrongState`] in STOP.
    pub fn run(&self) -> Result<(), DeviceError> {
        self.still_ours()?;
        self.shared().attempt = AttemptId::NONE;
        self.dirty().resumed();
        self.transition("resuming", DeviceState::Running, |vf| match vf {
            AnyVf::RunningP2p(vf) => Ok(vf.run().map(AnyVf::from)),
            vf @ AnyVf::Running(_) => Ok(Ok(vf)),
            vf => Err(vf),
        })
    }

    /// Brings the VF back to RUNNING from wherever it is, after anything that failed, and says what became of the guest's GPU
    /// state. A reset that happened earlier in the attempt counts.
    ///
    /// # Errors
    /// [`DeviceError::Reset`] when not even a reset worked; [`DeviceError::HandedOver`].
    pub fn give_back(&self) -> Result<Outcome, DeviceError> {
        self.still_ours()?;
        if !matches!(self.support, Support::Migratable(_)) {
            return Ok(Outcome::GpuStateKept);
        }
        let earlier = self.shared().reset;
        // The attempt is over: what is written to a file from now on bears no id of it.
        self.shared().attempt = AttemptId::NONE;
        self.dirty().resumed();
        self.with("going back to RUNNING", |vf| {
            let recovered = recover_to_running(vf, &mut vec![0; 64 << 10], &mut |_| {});
            self.recovered(recovered, ResetReason::Asked)
        })
        .map(|outcome| earlier.map_or(outcome, |why| Outcome::Reset { why }))
    }

    /// Resets the VF: RUNNING, nothing in it.
    ///
    /// # Errors
    /// [`DeviceError::Reset`].
    pub fn reset(&self) -> Result<(), DeviceError> {
        self.with("being reset", |vf| {
            self.recovered(reset_to_running(vf, ResetReason::Asked), ResetReason::Asked)
        })
        .map(drop)
    }

    /// The state went to another host, which may run it from now on: [`XeVfioDevice::run`] and its like are refused here. The VF
    /// stays in STOP until the VMM closes it.
    pub fn handed_over(&self) {
        self.shared().handed_over = true;
    }

    /// Takes a hand-over back, by order of somebody who knows that the other host does not run the guest.
    pub fn reclaim(&self) {
        self.shared().handed_over = false;
    }

    /// Does something with the session, nobody else having it meanwhile.
    pub(super) fn with<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(AnyVf<P::Device>) -> Step<P::Device, T>,
    ) -> Result<T, DeviceError> {
        let taken = self.slot.take(what, || self.passthrough.device());
        let (vf, place) = taken.map_err(|what| DeviceError::Busy {
            id: self.id.clone(),
            what,
        })?;
        let (vf, result) = work(vf);
        place.put(vf);
        result
    }

    /// One arc; `step` hands the session back where it is in no state for it.
    fn transition(
        &self,
        what: &'static str,
        asked: DeviceState,
        step: impl FnOnce(AnyVf<P::Device>) -> Result<Walked<P::Device>, AnyVf<P::Device>>,
    ) -> Result<(), DeviceError> {
        if !matches!(self.support, Support::Migratable(_)) {
            tracing::warn!(
                id = self.id,
                what,
                "the VF cannot migrate and is left as it is"
            );
            return Ok(());
        }
        let started = std::time::Instant::now();
        let result = self.with(what, |vf| match step(vf) {
            Ok(Ok(vf)) => (vf, Ok(())),
            Ok(Err(Stuck { error, vf })) => {
                let error = self.stuck(asked, &vf, error);
                (vf, Err(error))
            }
            Err(vf) => {
                let error = self.wrong_state(&vf, asked);
                (vf, Err(error))
            }
        });
        let ms = started.elapsed().as_millis() as u64;
        match &result {
            Ok(()) => tracing::info!(id = self.id, phase = what, %asked, ms, "VF moved"),
            Err(error) => {
                tracing::warn!(id = self.id, phase = what, %asked, ms, %error, "VF not moved");
            }
        }
        result
    }

    /// Notes what a recovery came to.
    pub(super) fn recovered(
        &self,
        result: Result<Recovered<P::Device>, Stuck<P::Device>>,
        why: ResetReason,
    ) -> Step<P::Device, Outcome> {
        match result {
            Ok(Recovered { vf, outcome }) => {
                if let Outcome::Reset { why } = outcome {
                    tracing::error!(id = self.id, %why, "the VF was reset, its GPU state is lost");
                    self.shared().reset = Some(why);
                }
                (vf.into(), Ok(outcome))
            }
            Err(stuck) => self.unresettable(stuck, why),
        }
    }

    pub(super) fn unresettable<T>(
        &self,
        stuck: Stuck<P::Device>,
        why: ResetReason,
    ) -> Step<P::Device, T> {
        let Stuck { error: source, vf } = stuck;
        tracing::error!(id = self.id, %why, %source, "the VF cannot be reset");
        self.shared().reset = Some(why);
        let now = vf.to_string();
        (
            vf,
            Err(DeviceError::Reset {
                id: self.id.clone(),
                why,
                now,
                source: Box::new(source),
            }),
        )
    }

    /// The flags of a VF that can migrate.
    pub(super) fn migratable(&self) -> Result<crate::uapi::MigrationFlags, DeviceError> {
        let id = || self.id.clone();
        match self.support {
            Support::Migratable(flags) => Ok(flags),
            Support::Incomplete(flags) => Err(DeviceError::Incomplete { id: id(), flags }),
            Support::Refused(source) => Err(DeviceError::Unsupported { id: id(), source }),
        }
    }

    pub(super) fn not_reset(&self) -> Result<(), DeviceError> {
        match self.shared().reset {
            Some(why) => Err(DeviceError::StateLost {
                id: self.id.clone(),
                why,
            }),
            None => Ok(()),
        }
    }

    fn still_ours(&self) -> Result<(), DeviceError> {
        if self.shared().handed_over {
            return Err(DeviceError::HandedOver {
                id: self.id.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn wrong_state(&self, vf: &AnyVf<P::Device>, needed: DeviceState) -> DeviceError {
        DeviceError::WrongState {
            id: self.id.clone(),
            found: vf.to_string(),
            needed,
        }
    }

    pub(super) fn stuck(
        &self,
        asked: DeviceState,
        now: &AnyVf<P::Device>,
        source: TransitionError,
    ) -> DeviceError {
        DeviceError::Transition {
            id: self.id.clone(),
            asked,
            now: now.to_string(),
            source,
        }
    }
}
