// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a transfer took, as it is remembered.

use std::time::Duration;

use super::{Cost, Hosts, Lane, Route, Work};
use crate::stream::Totals;
use crate::transfer::{LoadReport, SaveReport, Stages};

/// Which end of a transfer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Save,
    /// The destination.
    Load,
}

/// One VF's transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The device's name in its VM.
    pub device: String,
    /// Who saw it.
    pub side: Side,
    /// Bytes of state.
    pub state_bytes: u64,
    /// Those of them that were zeros and did not travel.
    pub zero_bytes: u64,
    /// Bytes on the connection or in the file.
    pub wire_bytes: u64,
    /// To STOP_COPY or RESUMING.
    pub enter: Duration,
    /// First byte to last.
    pub stream: Duration,
    /// To the receipt, or RESUMING -> STOP.
    pub confirm: Duration,
    /// Of `stream`, in calls of the data fd.
    pub in_device: Duration,
    /// Of `stream`, for parsing, zeros and checksums.
    pub in_frames: Duration,
    /// Of `stream`, compressing or decompressing; none where nothing was compressed.
    pub in_codec: Duration,
    /// Of `stream`, in calls of the connection or file, waiting for the other side included.
    pub in_link: Duration,
    /// What the other side has said of its calls of the data fd.
    pub far_device: Option<Duration>,
}

impl Moved {
    /// As the source saw it.
    pub fn saved(device: &str, report: &SaveReport) -> Self {
        let (totals, stages) = (&report.totals, &report.stages);
        Self {
            device: device.to_owned(),
            side: Side::Save,
            state_bytes: totals.payload_bytes,
            zero_bytes: totals.zero_bytes,
            wire_bytes: totals.wire_bytes,
            enter: report.enter,
            stream: report.stream,
            confirm: report.confirm,
            in_device: stages.device,
            in_frames: stages.frames,
            in_codec: codec(totals, stages),
            in_link: stages.stream,
            far_device: None,
        }
    }

    /// As the destination saw it.
    pub fn loaded(device: &str, report: &LoadReport) -> Self {
        let (totals, stages) = (&report.totals, &report.stages);
        Self {
            device: device.to_owned(),
            side: Side::Load,
            state_bytes: totals.payload_bytes,
            zero_bytes: totals.zero_bytes,
            wire_bytes: totals.wire_bytes,
            enter: report.enter,
            stream: report.stream,
            confirm: report.confirm,
            in_device: stages.device,
            in_frames: stages.frames,
            in_codec: codec(totals, stages),
            in_link: stages.stream,
            far_device: None,
        }
    }

    /// Bytes on the link to the bytes that would have been there without compression; `None` where nothing was compressed.
    pub(super) fn packing(&self) -> Option<f64> {
        let plain = self.plain_bytes();
        let told = !self.in_codec.is_zero() && plain > 0;
        told.then(|| (self.wire_bytes as f64 / plain as f64).clamp(0.0, 1.0))
    }

    /// Bytes of state that are no zeros left out.
    pub(super) fn plain_bytes(&self) -> u64 {
        self.state_bytes.saturating_sub(self.zero_bytes)
    }

    /// All of it.
    pub fn took(&self) -> Duration {
        self.enter
            .saturating_add(self.stream)
            .saturating_add(self.confirm)
    }

    /// Share of the state that was zeros.
    pub fn zero_share(&self) -> f64 {
        if self.state_bytes == 0 {
            return 0.0;
        }
        (self.zero_bytes as f64 / self.state_bytes as f64).clamp(0.0, 1.0)
    }
}

/// What a codec took, where it was more than a trial.
fn codec(totals: &Totals, stages: &Stages) -> Duration {
    if totals.compressed().frames > totals.frames / 8 {
        stages.codec
    } else {
        Duration::ZERO
    }
}

/// A migration, or a transfer without one, that came to a good end.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// How.
    pub route: Route,
    /// Where to.
    pub hosts: Hosts,
    /// Cores that it had here.
    pub cores: u32,
    /// The VFs.
    pub devices: Vec<Moved>,
    /// Bytes of guest memory that went beside them.
    pub memory_bytes: u64,
    /// What a byte of guest memory cost in the passes before, if there were any of some size.
    pub memory_cost: Option<Cost>,
    /// The time in which devices and that memory moved.
    pub streaming: Duration,
    /// The rest of the downtime: pausing vCPUs, STOP, VM state, the start at the destination. Not finding memory that VFs have written.
    pub around: Duration,
}

impl Finished {
    /// A transfer of one VF with no VM around it.
    pub fn alone(route: Route, cores: usize, moved: Moved) -> Self {
        Self {
            route,
            hosts: Hosts::Unknown,
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            streaming: moved.took(),
            devices: vec![moved],
            memory_bytes: 0,
            memory_cost: None,
            around: Duration::ZERO,
        }
    }

    /// What it would have been asked as.
    pub(super) fn work(&self) -> Work {
        let lanes = self.devices.iter().map(|moved| Lane {
            device: moved.device.clone(),
            state_bytes: moved.state_bytes,
            zeros: Some(moved.zero_share()),
        });
        Work {
            memory_bytes: self.memory_bytes,
            memory_cost: self.memory_cost,
            compression: self.compressed(),
            ..Work::new(self.route, self.hosts, lanes.collect())
        }
    }

    /// Whether state went compressed.
    pub(super) fn compressed(&self) -> bool {
        self.devices.iter().any(|moved| !moved.in_codec.is_zero())
    }

    /// Share of all state that was zeros.
    pub(super) fn zero_share(&self) -> f64 {
        let sum = |of: fn(&Moved) -> u64| self.devices.iter().map(|m| of(m) as f64).sum::<f64>();
        let state = sum(|moved| moved.state_bytes);
        if state > 0.0 {
            (sum(|moved| moved.zero_bytes) / state).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}
