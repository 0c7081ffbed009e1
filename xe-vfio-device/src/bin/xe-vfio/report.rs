// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What was moved or found, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use indicatif::BinaryBytes;
use serde_json::{Map, Value, json};
use xe_vfio_device::stream::{Manifest, Pci, Totals};
use xe_vfio_device::transfer::{LoadReport, SaveReport};
use xe_vfio_device::uapi::MigrationFlags;
use xe_vfio_device::xe::{Account, ByKind, Tally};

/// A transfer that went well.
pub struct Moved {
    account: Account,
    totals: Totals,
    times: [(&'static str, Duration); 3],
    /// What the codecs took.
    codec: Duration,
}

impl From<SaveReport> for Moved {
    fn from(report: SaveReport) -> Self {
        let SaveReport {
            account,
            totals,
            enter,
            stream,
            confirm,
            stages,
        } = report;
        Self {
            account,
            totals,
            times: [("enter", enter), ("stream", stream), ("confirm", confirm)],
            codec: stages.codec,
        }
    }
}

impl From<LoadReport> for Moved {
    fn from(report: LoadReport) -> Self {
        let LoadReport {
            account,
            totals,
            enter,
            stream,
            confirm,
            stages,
        } = report;
        Self {
            account,
            totals,
            times: [("enter", enter), ("stream", stream), ("confirm", confirm)],
            codec: stages.codec,
        }
    }
}

impl Moved {
    /// For programs.
    pub fn json(&self) -> Value {
        let ms: Map<_, _> = self
            .times
            .iter()
            .map(|(name, time)| ((*name).to_owned(), json!(time.as_secs_f64() * 1e3)))
            .collect();
        let mut value =
            json!({ "totals": totals(&self.totals), "packets": account(&self.account), "ms": ms });
        if self.totals.compressed().frames > 0 {
            value["ms"]["codec"] = json!(self.codec.as_secs_f64() * 1e3);
        }
        value
    }

    /// For people.
    pub fn text(&self) -> String {
        let [(_, enter), (_, stream), (_, confirm)] = self.times;
        let rate = self.totals.payload_bytes as f64 / stream.as_secs_f64().max(1e-9);
        let compressed = compressed_text(&self.totals)
            .map(|text| format!("  {text}, codec {:.1?}\n", self.codec))
            .unwrap_or_default();
        format!(
            "{} of state in {} frames: enter {enter:.1?}, stream {stream:.1?} ({}/s), confirm {confirm:.1?}\n{compressed}{}",
            BinaryBytes(self.totals.payload_bytes),
            self.totals.frames,
            BinaryBytes(rate as u64),
            account_text(&self.account)
        )
    }
}

/// Sizes of a stream.
pub fn totals(totals: &Totals) -> Value {
    let mut value = json!({
        "state_bytes": totals.payload_bytes,
        "stream_bytes": totals.wire_bytes,
        "zero_bytes": totals.zero_bytes,
        "frames": totals.frames,
    });
    for (name, shrunk) in [("lz4", totals.lz4), ("zstd", totals.zstd)] {
        if shrunk.frames > 0 {
            value[name] = json!({
                "frames": shrunk.frames,
                "before_bytes": shrunk.before,
                "after_bytes": shrunk.after,
            });
        }
    }
    value
}

/// What was compressed, in words.
pub fn compressed_text(totals: &Totals) -> Option<String> {
    let all = totals.compressed();
    (all.frames > 0).then(|| {
        format!(
            "{} of {} frames compressed ({} lz4, {} zstd): {} bytes to {}",
            all.frames, totals.frames, totals.lz4.frames, totals.zstd.frames, all.before, all.after
        )
    })
}

/// Packets by kind and by GT.
pub fn account(account: &Account) -> Value {
    let gts: Vec<_> = account
        .by_gt()
        .map(|(gt, kinds)| json!({ "tile": gt.tile, "gt": gt.id, "packets": kinds_json(kinds) }))
        .collect();
    json!({ "all": kinds_json(account.by_kind()), "gts": gts })
}

fn kinds_json(kinds: &ByKind) -> Value {
    let present = kinds.iter().filter(|(_, tally)| tally.packets > 0);
    let kinds: Map<_, _> = present
        .map(|(kind, Tally { packets, bytes })| {
            (
                kind.to_string().to_lowercase(),
                json!({ "packets": packets, "bytes": bytes }),
            )
        })
        .collect();
    kinds.into()
}

/// The same for people, a line for all and one for each GT.
pub fn account_text(account: &Account) -> String {
    let mut text = format!("  packets: {}", account.by_kind());
    for (gt, kinds) in account.by_gt() {
        // Writing to a string cannot fail.
        _ = write!(text, "\n    {gt}: {kinds}");
    }
    text
}

/// A manifest for programs. What its host did not show is null.
pub fn manifest(manifest: &Manifest) -> Value {
    json!({
        "device_id": manifest.device_id,
        "pci": pci_json(&manifest.pci),
        "pf": manifest.pf.as_ref().map(pci_json),
        "bars": manifest.bars,
        "migration_flags": manifest.migration_flags,
        "stop_copy_length": manifest.stop_copy_length,
        "gts": manifest.gts,
        "vram_quota": manifest.vram_quota,
        "ggtt_entries": manifest.ggtt_entries,
        "contexts": manifest.contexts,
        "doorbells": manifest.doorbells,
        "exec_quantum_ms": manifest.exec_quantum_ms,
        "preempt_timeout_us": manifest.preempt_timeout_us,
        "sched_priority": manifest.sched_priority,
        "guc_version": manifest.guc_version,
        "kernel_release": manifest.kernel_release,
    })
}

/// The same for people.
pub fn manifest_text(manifest: &Manifest) -> String {
    let shown = |value: Option<String>| value.unwrap_or_else(|| "not shown".to_owned());
    let number = |value: Option<u32>| shown(value.map(|value| value.to_string()));
    let bytes: fn(u64) -> String = |value| BinaryBytes(value).to_string();
    // Only an open device answers these, and none answers 0.
    let asked = |value: u64, text: fn(u64) -> String| match value {
        0 => "not known".to_owned(),
        value => text(value),
    };
    let bars: Vec<_> = manifest
        .bars
        .iter()
        .enumerate()
        .filter(|(_, size)| **size > 0)
        .map(|(bar, size)| format!("BAR{bar} {}", bytes(*size)))
        .collect();
    let lines = [
        ("PCI", pci(&manifest.pci)),
        ("PF", shown(manifest.pf.as_ref().map(pci))),
        (
            "BARs",
            if bars.is_empty() {
                "none".to_owned()
            } else {
                bars.join(", ")
            },
        ),
        (
            "migration flags",
            asked(manifest.migration_flags, |flags| {
                MigrationFlags(flags).to_string()
            }),
        ),
        ("state, about", asked(manifest.stop_copy_length, bytes)),
        (
            "GTs",
            shown(manifest.gts.map(|gts| format!("{gts:#06b}, one bit each"))),
        ),
        ("VRAM quota", shown(manifest.vram_quota.map(bytes))),
        (
            "GGTT quota",
            shown(
                manifest
                    .ggtt_entries
                    .map(|entries| format!("{entries} PTEs")),
            ),
        ),
        ("GuC contexts", number(manifest.contexts)),
        ("doorbells", number(manifest.doorbells)),
        (
            "execution quantum",
            shown(manifest.exec_quantum_ms.map(|ms| format!("{ms} ms"))),
        ),
        (
            "preemption timeout",
            shown(manifest.preempt_timeout_us.map(|us| format!("{us} us"))),
        ),
        ("priority", shown(manifest.sched_priority.clone())),
        ("GuC firmware", shown(manifest.guc_version.clone())),
        ("kernel", shown(manifest.kernel_release.clone())),
    ];
    let lines: Vec<_> = lines
        .iter()
        .map(|(name, value)| format!("  {name:20}{value}"))
        .collect();
    lines.join("\n")
}

fn pci(pci: &Pci) -> String {
    format!(
        "{:04x}:{:04x} revision {:#04x}, class {:06x}, board {:04x}:{:04x}",
        pci.vendor, pci.device, pci.revision, pci.class, pci.subsystem_vendor, pci.subsystem_device
    )
}

fn pci_json(pci: &Pci) -> Value {
    json!({
        "vendor": pci.vendor,
        "device": pci.device,
        "revision": pci.revision,
        "class": pci.class,
        "subsystem_vendor": pci.subsystem_vendor,
        "subsystem_device": pci.subsystem_device,
    })
}
