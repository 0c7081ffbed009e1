// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What will move, and how.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::Cost;
use crate::transfer::Endpoint;

/// The way that device state goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Connections over TCP.
    Tcp,
    /// Connections over a unix socket.
    Unix,
    /// The data fd itself is handed over, on one host.
    HandOver,
    /// A file.
    File,
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Unix, Self::HandOver, Self::File];

    /// Its name in logs and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::HandOver => "hand-over",
            Self::File => "file",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<&Endpoint> for Route {
    fn from(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Tcp(_) => Self::Tcp,
            Endpoint::Unix(_) => Self::Unix,
            Endpoint::File(_) => Self::File,
        }
    }
}

/// Whether source and destination have the same processor to share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Hosts {
    /// Both are here.
    Same,
    /// Each has its own.
    Apart,
    /// Nobody has said. A unix socket or a hand-over means the same, TCP apart.
    #[default]
    Unknown,
}

impl Hosts {
    /// What an address tells: a unix socket and the loopback interface lead to where one is.
    pub fn of(endpoint: &Endpoint) -> Self {
        let Endpoint::Tcp(address) = endpoint else {
            return Self::Same;
        };
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
            Self::Same
        } else {
            Self::Unknown
        }
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Apart => "apart",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the two sides take turns on the same cores.
    pub(super) fn shared(self, route: Route) -> bool {
        match self {
            Self::Same => route != Route::File,
            Self::Apart => false,
            Self::Unknown => matches!(route, Route::Unix | Route::HandOver),
        }
    }
}

/// One VF's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// The device's name in its VM.
    pub device: String,
    /// Bytes, as MIG_DATA_SIZE has them while the VF runs.
    pub state_bytes: u64,
    /// Share of the bytes that are zeros and do not travel, 0 to 1, where it is known; else what it was the last time counts.
    pub zeros: Option<f64>,
}

/// All that moves while the guest stands still.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// How.
    pub route: Route,
    /// Where to.
    pub hosts: Hosts,
    /// The VFs, at the same time.
    pub lanes: Vec<Lane>,
    /// Bytes of guest memory to be sent beside them.
    pub memory_bytes: u64,
    /// What a byte of guest memory has cost in this migration's earlier passes, if there were any of some size.
    pub memory_cost: Option<Cost>,
    /// Whether state may go compressed, where that is faster.
    pub compression: bool,
    /// Time for finding memory that the VFs have written, before anything moves.
    pub scan: Duration,
}

impl Work {
    /// Of VFs only.
    pub fn new(route: Route, hosts: Hosts, lanes: Vec<Lane>) -> Self {
        Self {
            route,
            hosts,
            lanes,
            memory_bytes: 0,
            memory_cost: None,
            compression: false,
            scan: Duration::ZERO,
        }
    }

    /// Bytes of state of all VFs.
    pub fn state_bytes(&self) -> u64 {
        self.lanes
            .iter()
            .fold(0, |sum, lane| lane.state_bytes.saturating_add(sum))
    }

    /// The same with no guest memory left but `bytes`, which no pass makes less.
    #[must_use]
    pub fn with_memory(&self, bytes: u64) -> Self {
        Self {
            memory_bytes: bytes,
            ..self.clone()
        }
    }
}
