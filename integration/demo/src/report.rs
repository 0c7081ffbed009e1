// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a run came to: printed for people, written as JSON for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use timeline::Timeline;

/// Order of the phases in a migration.
pub const PHASES: [&str; 8] = [
    "connect", "precopy", "quiesce", "settle", "stop", "stream", "load", "resume",
];
const BAR_WIDTH: f64 = 50.0;

/// Everything the demo prints, as data. Times in milliseconds, sizes in bytes.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Jobs that the guest verified, before, during and after the migration.
    pub verified: u64,
    /// Discrepancies found by the guest, in its reports or in VRAM; 0 is the only good value.
    pub lost: u64,
    /// What the discrepancies are.
    pub discrepancies: Vec<String>,
    /// From the pause of the vCPUs to the destination's word that they run.
    pub downtime_ms: f64,
    /// Device state as read from the kernel.
    pub state_bytes: u64,
    /// Device state as sent.
    pub wire_bytes: u64,
    /// Guest memory as sent, all passes.
    pub memory_bytes: u64,
    /// Time of each phase; one follows the other.
    pub phases: BTreeMap<String, f64>,
    /// The downtime as the VMM predicted it.
    pub prediction: Option<Prediction>,
    /// What each VF's stream took, by its id.
    pub devices: BTreeMap<String, Device>,
    /// Who did what when, at both ends.
    pub timeline: Timeline,
    /// Peak of anonymous memory: what a VMM needed beyond guest memory and VRAM.
    pub extra_rss_bytes: ExtraRss,
    /// What ran the vCPU at source and destination.
    pub accel: String,
    /// VFs of the VM.
    pub vfs: u16,
    /// VRAM of each VF, 0 for real ones.
    pub vram_bytes: u64,
    /// Whether VRAM beyond the guest's working set was compared between the two hosts.
    pub vram_compared: bool,
}

/// A downtime before it was one, and what it was.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prediction {
    /// Before the migration began.
    pub start_ms: f64,
    /// Before the guest was stopped.
    pub predicted_ms: f64,
    /// Hardly less.
    pub low_ms: f64,
    /// Hardly more.
    pub high_ms: f64,
    /// What it was.
    pub actual_ms: f64,
    /// Predicted to actual.
    pub ratio: f64,
    /// How it was known.
    pub basis: String,
    /// What all else would wait for.
    pub bound: String,
}

/// A VF's stream as its source saw it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Device {
    /// To STOP_COPY.
    pub enter_ms: f64,
    /// First byte to last.
    pub stream_ms: f64,
    /// Until the destination had loaded it.
    pub confirm_ms: f64,
    /// Bytes of state.
    pub state_bytes: u64,
    /// Bytes of the stream.
    pub wire_bytes: u64,
    /// What was compressed, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressed: Option<Compressed>,
}

/// What compression has made of a VF's stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct Compressed {
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

/// Peak memory of the two processes.
#[derive(Debug, Serialize)]
pub struct ExtraRss {
    /// The source VMM.
    pub source: u64,
    /// The destination VMM.
    pub destination: u64,
}

impl Report {
    /// What a picture of it is called.
    pub fn title(&self) -> String {
        let vfs = match self.vfs {
            1 => "1 VF".to_owned(),
            count => format!("{count} VFs"),
        };
        format!(
            "Migration of a VM with {vfs}, {} of state",
            mib(self.state_bytes)
        )
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("Cannot write {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: f64 = self.phases.values().sum();
        let scale = BAR_WIDTH / total.max(f64::MIN_POSITIVE);
        writeln!(f, "\ntimeline of {total:.0} ms")?;
        let mut start = 0.0;
        for phase in PHASES {
            let Some(time) = self.phases.get(phase) else {
                continue;
            };
            let (from, length) = (
                (start * scale) as usize,
                ((time * scale).round() as usize).max(1),
            );
            writeln!(
                f,
                "  {phase:<8} {time:>9.1} ms  {}{}",
                " ".repeat(from),
                "█".repeat(length)
            )?;
            start += time;
        }
        for (id, device) in &self.devices {
            let rate = device.state_bytes as f64 / device.stream_ms.max(1e-3) * 1e3;
            writeln!(
                f,
                "  {id:<8} enter {:.1} ms, stream {:.1} ms ({}, {}/s), confirm {:.1} ms",
                device.enter_ms,
                device.stream_ms,
                mib(device.state_bytes),
                mib(rate as u64),
                device.confirm_ms
            )?;
            if let Some(compressed) = &device.compressed {
                writeln!(
                    f,
                    "  {id:<8} compressed {} lz4 and {} zstd of {} frames, {} to {}, in {:.1} ms",
                    compressed.lz4_frames,
                    compressed.zstd_frames,
                    compressed.frames,
                    mib(compressed.before_bytes),
                    mib(compressed.after_bytes),
                    compressed.codec_ms
                )?;
            }
        }
        writeln!(f, "downtime: {:.1} ms", self.downtime_ms)?;
        if let Some(prediction) = &self.prediction {
            writeln!(
                f,
                "predicted: {:.1} ms before the start, {:.1} ms ({:.1} to {:.1} ms, {}) before the pause: {:.2} of what it was",
                prediction.start_ms,
                prediction.predicted_ms,
                prediction.low_ms,
                prediction.high_ms,
                prediction.basis,
                prediction.ratio
            )?;
        }
        writeln!(
            f,
            "device state: {} from the kernel, {} on the wire; guest memory: {}",
            mib(self.state_bytes),
            mib(self.wire_bytes),
            mib(self.memory_bytes)
        )?;
        writeln!(
            f,
            "memory beyond VRAM and guest memory: source {}, destination {}",
            mib(self.extra_rss_bytes.source),
            mib(self.extra_rss_bytes.destination)
        )?;
        writeln!(f, "vCPU: {}", self.accel)?;
        if self.vram_compared {
            writeln!(
                f,
                "VRAM beyond the guest's working set: compared between the two hosts"
            )?;
        }
        for discrepancy in &self.discrepancies {
            writeln!(f, "LOST: {discrepancy}")?;
        }
        writeln!(f, "verified: {} jobs, {} lost", self.verified, self.lost)
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
