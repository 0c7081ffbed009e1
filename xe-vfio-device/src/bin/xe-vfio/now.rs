// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What holds for the VF at the end, whatever happened before, and what to do.

use std::fmt;

use serde_json::{Value, json};
use xe_vfio_device::state::{DeviceState, Outcome, ResetReason};

use crate::vf::Device;

/// Where the VF is and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// Nothing was done to it since it was opened.
    Untouched,
    /// It has what it had.
    Kept(DeviceState),
    /// It has the state that came.
    Loaded(DeviceState),
    /// It was to be given another state and was reset instead.
    Clean(ResetReason),
    /// It was reset and what it held is lost.
    Lost(ResetReason),
    /// It had to be reset and could not be.
    Dead(String),
    /// The kernel does not say.
    Unknown,
}

/// What a command did with a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It was a source.
    Saving,
    /// It was a destination, and the load has succeeded or not.
    Loading {
        /// Whether it has.
        done: bool,
    },
}

impl Now {
    /// Brings the VF back to RUNNING, unless it is to stay where it is, and tells what that came to.
    pub fn settle(device: &Device, doing: Doing, stay: bool) -> Self {
        if stay {
            return match device.info().state {
                Some(state) => Self::with(doing, state),
                None => Self::Unknown,
            };
        }
        match device.give_back() {
            Ok(Outcome::GpuStateKept) => Self::with(doing, DeviceState::Running),
            Ok(Outcome::Reset { why }) if doing == (Doing::Loading { done: false }) => {
                Self::Clean(why)
            }
            Ok(Outcome::Reset { why }) => Self::Lost(why),
            Err(error) => Self::Dead(crate::failure::chain(&error).join(": ")),
        }
    }

    fn with(doing: Doing, state: DeviceState) -> Self {
        match doing {
            Doing::Saving => Self::Kept(state),
            Doing::Loading { done: true } => Self::Loaded(state),
            Doing::Loading { done: false } => Self::Untouched,
        }
    }

    /// The kernel's state, where it is known.
    pub fn state(&self) -> Option<DeviceState> {
        match self {
            Self::Untouched | Self::Clean(_) | Self::Lost(_) => Some(DeviceState::Running),
            Self::Kept(state) | Self::Loaded(state) => Some(*state),
            Self::Dead(_) | Self::Unknown => None,
        }
    }

    /// Why it was reset, with the call that failed as its source.
    pub fn reset_reason(&self) -> Option<ResetReason> {
        match self {
            Self::Clean(why) | Self::Lost(why) => Some(*why),
            _ => None,
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let content = match self {
            Self::Untouched => "untouched",
            Self::Kept(_) => "kept",
            Self::Loaded(_) => "loaded",
            Self::Clean(_) => "clean",
            Self::Lost(_) => "lost",
            Self::Dead(_) | Self::Unknown => "unknown",
        };
        json!({
            "state": self.state().map(|state| state.to_string()),
            "gpu_state": content,
            "now": self.to_string(),
        })
    }
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untouched => {
                f.write_str("The VF is in RUNNING, as opening it left it; nothing is to be done")
            }
            Self::Kept(state) => write!(f, "The VF is in {state} with the state it had"),
            Self::Loaded(state) => write!(f, "The VF is in {state} with the state that came"),
            Self::Clean(why) => write!(
                f,
                "The VF was reset because {why}: it is in RUNNING and clean, and can be loaded again"
            ),
            Self::Lost(why) => write!(
                f,
                "The VF was reset because {why}: it is in RUNNING and what it held is lost; start its guest's GPU work anew"
            ),
            Self::Dead(why) => write!(
                f,
                "The VF had to be reset and could not be ({why}): it is of no use until its PF's driver has recovered it; see the kernel log"
            ),
            Self::Unknown => f.write_str("The VF's state is not known: reset it"),
        }
    }
}
