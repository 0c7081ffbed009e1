// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a migration took: phases with their times, bytes by kind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use timeline::Timeline;
use xe_vfio_device::transfer::SaveReport;

use crate::events::Events;

/// A phase of a migration, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Connection, configuration, the destination opens and resets its VFs.
    Connect,
    /// Memory while the guest runs.
    Precopy,
    /// All VFs to RUNNING_P2P; the guest runs.
    Quiesce,
    /// What the VFs have written is found and sent while they stand still and the guest runs.
    Settle,
    /// vCPU parked, all VFs to STOP.
    Stop,
    /// The VFs' state, and beside it the last pass over memory.
    Stream,
    /// VM state, until the destination has everything.
    Load,
    /// From go to a running guest.
    Resume,
}

impl Phase {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Precopy => "precopy",
            Self::Quiesce => "quiesce",
            Self::Settle => "settle",
            Self::Stop => "stop",
            Self::Stream => "stream",
            Self::Load => "load",
            Self::Resume => "resume",
        }
    }
}

/// What a migration took, as send-migration answers it. Times in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Time of each phase, by name.
    pub phases: BTreeMap<&'static str, f64>,
    /// From the vCPU's pause to the answer that the guest runs at the destination.
    pub downtime_ms: f64,
    /// From the beginning to the end.
    pub total_ms: f64,
    /// What the destination needed to open, reset and map its VFs; part of `connect`.
    pub prepare_ms: f64,
    /// Passes over guest memory, the last included.
    pub passes: u32,
    /// Bytes of guest memory sent, all passes.
    pub memory_bytes: u64,
    /// Bytes of guest memory sent while the guest stood still.
    pub last_pass_bytes: u64,
    /// From RUNNING_P2P to the vCPU's pause: how long the guest may have waited for its GPUs.
    pub gpu_pause_ms: f64,
    /// What finding the memory that VFs have written took.
    pub dirty: DirtyReport,
    /// Bytes of the VFs' state.
    pub state_bytes: u64,
    /// Bytes on all connections.
    pub wire_bytes: u64,
    /// Each VF by its id.
    pub devices: BTreeMap<String, DeviceReport>,
    /// The downtime as it was predicted, and as it was.
    pub prediction: Option<PredictionReport>,
    /// Who did what when.
    pub timeline: Timeline,
}

/// The downtime as it was predicted, and as it was.
#[derive(Debug, Clone, Serialize)]
pub struct PredictionReport {
    /// Predicted before the migration began.
    pub start_ms: f64,
    /// Predicted before the guest was stopped.
    pub predicted_ms: f64,
    /// Hardly less than that.
    pub low_ms: f64,
    /// Hardly more than that.
    pub high_ms: f64,
    /// What it was.
    pub actual_ms: f64,
    /// Predicted to actual.
    pub ratio: f64,
    /// How it was known.
    pub basis: String,
    /// What everything else would wait for.
    pub bound: String,
}

/// What it took to find the memory that VFs have written.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DirtyReport {
    /// Each VF's strategy by its id.
    pub strategies: BTreeMap<String, &'static str>,
    /// The comparison of memory with its fingerprints while the VFs ran.
    pub rehearsal_ms: f64,
    /// Those after it.
    pub scan_ms: f64,
    /// Bytes read by those after it.
    pub scan_bytes: u64,
    /// Bytes that the VFs had written according to the logs that were read once they stood still.
    pub dirty_bytes: u64,
    /// Bytes that the fingerprints take at most.
    pub fingerprint_bytes: u64,
    /// Why what the VFs have written was found after the guest had stopped, if it was.
    pub fallback: Option<String>,
    /// Processor time of the migration's own thread and of all comparisons.
    pub cpu_ms: f64,
}

/// What a VF's stream took.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReport {
    /// Whether the destination got the data fd and read the state itself.
    pub handed_over: bool,
    /// STOP -> STOP_COPY.
    pub enter_ms: f64,
    /// First byte to end record.
    pub stream_ms: f64,
    /// End record to receipt.
    pub confirm_ms: f64,
    /// Bytes of state.
    pub state_bytes: u64,
    /// Bytes of the stream.
    pub wire_bytes: u64,
    /// What was compressed, if anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<CompressedReport>,
}

/// What compression has made of a VF's stream.
#[derive(Debug, Clone, Serialize)]
pub struct CompressedReport {
    /// Frames that went as LZ4.
    pub lz4_frames: u64,
    /// Frames that went as zstd.
    pub zstd_frames: u64,
    /// All frames of the stream.
    pub frames: u64,
    /// Bytes that were compressed.
    pub before_bytes: u64,
    /// Bytes that travelled in their place.
    pub after_bytes: u64,
    /// What the codecs took.
    pub codec_ms: f64,
}

impl CompressedReport {
    /// Of a stream, if anything in it was compressed.
    #[must_use]
    pub fn of(report: &SaveReport) -> Option<Self> {
        let (totals, all) = (&report.totals, report.totals.compressed());
        (all.frames > 0).then(|| Self {
            lz4_frames: totals.lz4.frames,
            zstd_frames: totals.zstd.frames,
            frames: totals.frames,
            before_bytes: all.before,
            after_bytes: all.after,
            codec_ms: ms(report.stages.codec),
        })
    }
}

/// A duration as the reports have it.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Processor time of the calling thread so far; zero where the kernel does not tell.
#[must_use]
pub fn cpu_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = told
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// Times phases and tells about them.
pub struct Stopwatch {
    events: Events,
    start: Instant,
    current: Option<(Phase, Instant)>,
    times: BTreeMap<&'static str, f64>,
    spans: Vec<(Phase, f64, f64)>,
}

impl Stopwatch {
    /// Starts with no phase.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self {
            events,
            start: Instant::now(),
            current: None,
            times: BTreeMap::new(),
            spans: Vec::new(),
        }
    }

    /// Ends the present phase and begins another.
    pub fn enter(&mut self, phase: Phase) {
        self.leave();
        tracing::info!(phase = phase.name(), "migration phase");
        self.current = Some((phase, Instant::now()));
    }

    /// Ends the present phase.
    pub fn leave(&mut self) {
        if let Some((phase, since)) = self.current.take() {
            let took = ms(since.elapsed());
            self.times.insert(phase.name(), took);
            let at = since.saturating_duration_since(self.start);
            self.spans.push((phase, ms(at), took));
            self.events
                .report("phase", &json!({"phase": phase.name(), "ms": took}));
        }
    }

    /// The phase that is under way.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        self.current.map_or("none", |(phase, _)| phase.name())
    }

    /// When it was started.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Phases that have ended: when they began and how long they took, in milliseconds.
    pub fn spans(&self) -> &[(Phase, f64, f64)] {
        &self.spans
    }

    /// Times so far, and the time since the start.
    #[must_use]
    pub fn times(&self) -> (BTreeMap<&'static str, f64>, f64) {
        (self.times.clone(), ms(self.start.elapsed()))
    }
}
