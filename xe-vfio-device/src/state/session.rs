// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF whose state is known.

use super::{
    AnyVf, DeviceState, Loading, MigrationDevice, Saving, StateError, StreamDead, Stuck,
    TransitionError, arcs,
};
use crate::uapi::{ReservedFd, UapiError};

/// The VF runs.
#[derive(Debug)]
pub struct Running(());

/// The VF executes nothing, makes no DMA, and still takes accesses.
#[derive(Debug)]
pub struct RunningP2p(());

/// The VF stands still.
#[derive(Debug)]
pub struct Stopped(());

/// The VF's state cannot be learned; a reset is all that is left.
#[derive(Debug)]
pub struct Lost {
    pub(super) error: StateError,
}

/// A device whose new state is yet to be named, and its data fd.
type Opened<D> = (Vf<D, ()>, <D as MigrationDevice>::Stream);

/// A session: the device `D`, known to be in state `S`, and nobody else's to move as long as only one session of it exists.
#[derive(Debug)]
pub struct Vf<D, S> {
    pub(super) device: D,
    pub(super) state: S,
    pub(super) reserved: Option<ReservedFd>,
}

impl<D, S> Vf<D, S> {
    /// The device, for calls that change no state.
    pub fn device(&self) -> &D {
        &self.device
    }

    pub(super) fn with<T>(self, state: T) -> Vf<D, T> {
        Vf {
            device: self.device,
            state,
            reserved: self.reserved,
        }
    }
}

impl<D: MigrationDevice, S> Vf<D, S> {
    /// Holds an fd number free for the data fd; once is enough, and it is given back when STOP_COPY or RESUMING is entered.
    ///
    /// # Errors
    /// EMFILE, ENFILE; the state does not change.
    pub fn reserve_fd(&mut self) -> Result<(), UapiError> {
        if self.reserved.is_none() {
            self.reserved = Some(ReservedFd::take()?);
        }
        Ok(())
    }

    /// One arc without a data fd: from `before` to `asked`.
    pub(super) fn arc<T>(
        self,
        before: DeviceState,
        asked: DeviceState,
        next: T,
    ) -> Result<Vf<D, T>, Stuck<D>> {
        debug_assert!(arcs::is_arc(before, asked));
        let vf = self.with(());
        match vf.device.set_state(asked) {
            Ok(_) => Ok(vf.with(next)),
            Err(error) => Err(vf.stuck(TransitionError::Refused(error.before(before)))),
        }
    }

    /// Closes the data fd if there is one and asks the kernel where the device is.
    pub(super) fn stuck(self, error: TransitionError) -> Stuck<D> {
        let vf = self.with(());
        Stuck {
            error,
            vf: AnyVf::read(vf),
        }
    }

    /// Resets the device: RUNNING, the GPU state lost. A data fd is closed first.
    ///
    /// # Errors
    /// [`Stuck`] with a lost VF when the reset failed, and wherever the kernel says it is when that is not RUNNING.
    pub fn reset(self) -> Result<Vf<D, Running>, Stuck<D>> {
        let vf = self.with(());
        if let Err(error) = vf.device.reset() {
            let lost = Lost {
                error: StateError::Uapi(error),
            };
            return Err(Stuck {
                error: TransitionError::Refused(error),
                vf: AnyVf::Lost(vf.with(lost)),
            });
        }
        match AnyVf::read(vf) {
            AnyVf::Running(running) => Ok(running),
            AnyVf::Lost(vf) => Err(Stuck {
                error: TransitionError::Unknown(vf.state.error),
                vf: AnyVf::Lost(vf),
            }),
            other => {
                let found = other.state().unwrap_or(DeviceState::Stop);
                Err(Stuck {
                    error: TransitionError::NotReset(found),
                    vf: other,
                })
            }
        }
    }
}

impl<D: MigrationDevice> Vf<D, Running> {
    pub(super) fn running(vf: Vf<D, ()>) -> Self {
        vf.with(Running(()))
    }

    /// RUNNING -> RUNNING_P2P: suspends the VF, which takes up to 1 s per GT.
    ///
    /// # Errors
    /// [`Stuck`]; the VF most likely still runs.
    pub fn quiesce(self) -> Result<Vf<D, RunningP2p>, Stuck<D>> {
        self.arc(
            DeviceState::Running,
            DeviceState::RunningP2p,
            RunningP2p(()),
        )
    }
}

impl<D: MigrationDevice> Vf<D, RunningP2p> {
    pub(super) fn running_p2p(vf: Vf<D, ()>) -> Self {
        vf.with(RunningP2p(()))
    }

    /// RUNNING_P2P -> RUNNING: resumes the VF.
    ///
    /// # Errors
    /// [`Stuck`]; the VF most likely is in RUNNING_P2P.
    pub fn run(self) -> Result<Vf<D, Running>, Stuck<D>> {
        self.arc(DeviceState::RunningP2p, DeviceState::Running, Running(()))
    }

    /// RUNNING_P2P -> STOP: the driver does nothing.
    ///
    /// # Errors
    /// [`Stuck`]; the VF most likely is in RUNNING_P2P.
    pub fn stop(self) -> Result<Vf<D, Stopped>, Stuck<D>> {
        self.arc(DeviceState::RunningP2p, DeviceState::Stop, Stopped(()))
    }
}

impl<D: MigrationDevice> Vf<D, Stopped> {
    pub(super) fn stopped(vf: Vf<D, ()>) -> Self {
        vf.with(Stopped(()))
    }

    /// STOP -> RUNNING_P2P: the driver does nothing.
    ///
    /// # Errors
    /// [`Stuck`]; the VF most likely is in STOP.
    pub fn unstop(self) -> Result<Vf<D, RunningP2p>, Stuck<D>> {
        self.arc(DeviceState::Stop, DeviceState::RunningP2p, RunningP2p(()))
    }

    /// STOP -> STOP_COPY: the kernel begins to collect the VF's state.
    ///
    /// # Errors
    /// [`Stuck`]; with no fd left (EMFILE) the VF is in STOP_COPY without a stream, else most likely in STOP.
    pub fn save(self) -> Result<Vf<D, Saving<D::Stream>>, Stuck<D>> {
        self.open(DeviceState::StopCopy)
            .map(|(vf, stream)| vf.with(Saving::new(stream)))
    }

    /// STOP -> RESUMING: what the VF held is lost from here on.
    ///
    /// # Errors
    /// As [`Vf::save`], with RESUMING for STOP_COPY.
    pub fn load(self) -> Result<Vf<D, Loading<D::Stream>>, Stuck<D>> {
        self.open(DeviceState::Resuming)
            .map(|(vf, stream)| vf.with(Loading::new(stream)))
    }

    fn open(mut self, asked: DeviceState) -> Result<Opened<D>, Stuck<D>> {
        debug_assert!(arcs::is_arc(DeviceState::Stop, asked));
        self.reserved = None;
        let vf = self.with(());
        match vf.device.set_state(asked) {
            Ok(Some(stream)) => Ok((vf, stream)),
            Ok(None) => {
                let dead = StreamDead::new(asked);
                Err(Stuck {
                    error: TransitionError::NoDataFd(asked),
                    vf: AnyVf::StreamDead(vf.with(dead)),
                })
            }
            Err(error) => Err(vf.stuck(TransitionError::Refused(error.before(DeviceState::Stop)))),
        }
    }
}

impl<D: MigrationDevice> Vf<D, Lost> {
    /// Why the state is not known.
    pub fn why(&self) -> StateError {
        self.state.error
    }
}
