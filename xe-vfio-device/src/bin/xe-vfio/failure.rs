// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a command failed, as text, as JSON and as an exit status.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use xe_vfio_device::device::DeviceError;
use xe_vfio_device::state::ResetReason;
use xe_vfio_device::stream::StreamError;
use xe_vfio_device::transfer::EndpointError;

use crate::diagnosis::Unusable;
use crate::now::Now;

/// Why a VF's state did not move.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The device says why.
    #[error(transparent)]
    Device(Box<DeviceError>),
    /// There is no connection.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The stream has no good opening.
    #[error("The stream cannot be opened")]
    Opening(#[source] StreamError),
    /// The file cannot be opened.
    #[error("{path:?} cannot be opened")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// All went well, but for the way back to RUNNING.
    #[error("The VF did not come back to RUNNING by itself")]
    WayBack(#[source] Option<ResetReason>),
}

impl From<DeviceError> for Cause {
    fn from(error: DeviceError) -> Self {
        Self::Device(Box::new(error))
    }
}

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The VF cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The state did not move.
    #[error("{address} was not {done}")]
    Transfer {
        /// The VF.
        address: String,
        /// "saved" or "restored".
        done: &'static str,
        /// Whether the user ended it.
        cancelled: bool,
        /// What holds for the VF.
        now: Now,
        /// Why.
        #[source]
        source: Box<Cause>,
    },
    /// A file or manifest could not be asked for; no VF was changed.
    #[error("{path:?} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A stream's file is not whole.
    #[error("{path:?} is not good: {wrong} at byte {offset} of the file")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Which part.
        wrong: String,
        /// Where the piece at fault begins.
        offset: u64,
        /// What is wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// What a VF says of itself could not be asked.
    #[error("{address} cannot be probed; it is in RUNNING, as opening it left it")]
    Probe {
        /// The VF.
        address: String,
        /// Why.
        #[source]
        source: Box<DeviceError>,
    },
    /// Two VFs do not go together.
    #[error("The state of {source_name} cannot move to {address}; nothing was touched")]
    Mismatch {
        /// The VF.
        address: String,
        /// The other one, or its file.
        source_name: String,
        /// In what they differ.
        differences: Vec<String>,
    },
    /// Signals.
    #[error("SIGINT and SIGTERM cannot be taken over; no VF was touched")]
    Signals(#[source] io::Error),
}

impl Failure {
    /// The exit status; cli.rs tells the user.
    pub fn status(&self) -> u8 {
        match self {
            Self::Unusable(_) => 3,
            Self::Transfer {
                now: Now::Lost(_), ..
            } => 4,
            Self::Transfer {
                now: Now::Dead(_) | Now::Unknown,
                ..
            } => 5,
            Self::Transfer {
                cancelled: true, ..
            } => 130,
            _ => 1,
        }
    }

    /// For people: what failed, each cause on a line of its own, and what holds now.
    pub fn text(&self) -> String {
        let mut lines = chain(self);
        if let Self::Mismatch { differences, .. } = self {
            lines.extend(differences.iter().cloned());
        }
        if let Self::Transfer { now, .. } = self {
            lines.push(now.to_string());
        }
        lines.join("\n  ")
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut causes = chain(self);
        let message = causes.remove(0);
        let mut value =
            json!({ "ok": false, "error": message, "causes": causes, "exit": self.status() });
        match self {
            Self::Unusable(unusable) => value["unusable"] = unusable.kind().into(),
            Self::Transfer {
                address,
                now,
                cancelled,
                ..
            } => {
                value["address"] = address.as_str().into();
                value["cancelled"] = (*cancelled).into();
                value["vf"] = now.json();
            }
            Self::Broken { offset, wrong, .. } => {
                value["broken"] = json!({ "offset": offset, "what": wrong });
            }
            Self::Mismatch { differences, .. } => {
                value["differences"] = differences.as_slice().into();
            }
            Self::File { .. } | Self::Probe { .. } | Self::Signals(_) => {}
        }
        value
    }
}

/// An error and its causes, without those that say what was just said.
pub fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut lines = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        let line = error.to_string();
        // Some errors of others repeat their cause in their own words.
        if !lines.iter().any(|said| said.ends_with(&line)) {
            lines.push(line);
        }
        next = error.source();
    }
    lines
}
