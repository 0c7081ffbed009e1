// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF in one of the states, known at run time only.

use std::fmt;

use super::{
    DeviceState, Loading, Lost, MigrationDevice, Running, RunningP2p, Saving, Stopped, StreamDead,
    Vf,
};
use crate::uapi::UapiError;

/// A session in whichever state it is.
pub enum AnyVf<D: MigrationDevice> {
    /// RUNNING.
    Running(Vf<D, Running>),
    /// RUNNING_P2P.
    RunningP2p(Vf<D, RunningP2p>),
    /// STOP.
    Stopped(Vf<D, Stopped>),
    /// STOP_COPY with a data fd.
    Saving(Vf<D, Saving<D::Stream>>),
    /// RESUMING with a data fd.
    Loading(Vf<D, Loading<D::Stream>>),
    /// STOP_COPY or RESUMING without one.
    StreamDead(Vf<D, StreamDead>),
    /// Unknown.
    Lost(Vf<D, Lost>),
}

impl<D: MigrationDevice> AnyVf<D> {
    /// Starts a session in the state that the kernel says the device is in. A data fd that somebody else may have cannot be
    /// had back: STOP_COPY and RESUMING are then [`AnyVf::StreamDead`].
    pub fn open(device: D) -> Self {
        Self::read(Vf {
            device,
            state: (),
            reserved: None,
        })
    }

    pub(super) fn read(vf: Vf<D, ()>) -> Self {
        match vf.device.state() {
            Ok(DeviceState::Running) => Self::Running(Vf::running(vf)),
            Ok(DeviceState::RunningP2p) => Self::RunningP2p(Vf::running_p2p(vf)),
            Ok(DeviceState::Stop) => Self::Stopped(Vf::stopped(vf)),
            Ok(state @ (DeviceState::StopCopy | DeviceState::Resuming)) => {
                Self::StreamDead(vf.with(StreamDead::new(state)))
            }
            Err(error) => Self::Lost(vf.with(Lost { error })),
        }
    }

    /// The kernel's state, where it is known.
    pub fn state(&self) -> Option<DeviceState> {
        Some(match self {
            Self::Running(_) => DeviceState::Running,
            Self::RunningP2p(_) => DeviceState::RunningP2p,
            Self::Stopped(_) => DeviceState::Stop,
            Self::Saving(_) => DeviceState::StopCopy,
            Self::Loading(_) => DeviceState::Resuming,
            Self::StreamDead(vf) => vf.dead_state(),
            Self::Lost(_) => return None,
        })
    }

    /// The device, for calls that change no state.
    pub fn device(&self) -> &D {
        match self {
            Self::Running(vf) => vf.device(),
            Self::RunningP2p(vf) => vf.device(),
            Self::Stopped(vf) => vf.device(),
            Self::Saving(vf) => vf.device(),
            Self::Loading(vf) => vf.device(),
            Self::StreamDead(vf) => vf.device(),
            Self::Lost(vf) => vf.device(),
        }
    }

    /// Holds an fd number free, see [`Vf::reserve_fd`]; does nothing where no data fd can follow.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn reserve_fd(&mut self) -> Result<(), UapiError> {
        match self {
            Self::Running(vf) => vf.reserve_fd(),
            Self::RunningP2p(vf) => vf.reserve_fd(),
            Self::Stopped(vf) => vf.reserve_fd(),
            Self::Saving(_) | Self::Loading(_) | Self::StreamDead(_) | Self::Lost(_) => Ok(()),
        }
    }
}

impl<D: MigrationDevice> fmt::Display for AnyVf<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.state()) {
            (Self::StreamDead(_), Some(state)) => write!(f, "in {state} without a data fd"),
            (_, Some(state)) => write!(f, "in {state}"),
            (_, None) => f.write_str("in an unknown state"),
        }
    }
}

impl<D: MigrationDevice> fmt::Debug for AnyVf<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyVf({self})")
    }
}

macro_rules! from_session {
    ($($variant:ident($state:ty)),+) => {$(
        impl<D: MigrationDevice> From<Vf<D, $state>> for AnyVf<D> {
            fn from(vf: Vf<D, $state>) -> Self {
                Self::$variant(vf)
            }
        }
    )+};
}

from_session!(
    Running(Running),
    RunningP2p(RunningP2p),
    Stopped(Stopped),
    Saving(Saving<D::Stream>),
    Loading(Loading<D::Stream>),
    StreamDead(StreamDead),
    Lost(Lost)
);
