// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `inspect`: what is in a file.

use std::path::Path;

use serde_json::json;
use xe_vfio_device::stream::frame::FORMAT_VERSION;

use crate::failure::Failure;
use crate::output::Output;
use crate::report;
use crate::verify::broken;
use crate::walk::{Walk, walk};
use crate::watch::bar;

/// Shows a file as far as it is good.
///
/// # Errors
/// [`Failure`] when it is not good to its end.
pub fn inspect(path: &Path, output: Output) -> Result<(), Failure> {
    let progress = bar("Reading");
    let walked = walk(path, &progress);
    progress.finish_and_clear();
    let walk = walked.map_err(|source| Failure::File {
        path: path.to_owned(),
        source,
    })?;
    let good = walk.fault.is_none();
    // With JSON there is one object, and a fault has its own.
    if good || !output.json {
        let sizes = walk
            .frame_sizes
            .map(|(least, most)| json!({ "smallest": least, "largest": most }));
        let value = json!({
            "command": "inspect",
            "ok": good,
            "file": path,
            "file_bytes": walk.file_bytes,
            "largest_frame": walk.preamble.map(|preamble| preamble.frame_max),
            "manifest_version": walk.preamble.map(|preamble| preamble.manifest_version),
            "manifest": walk.manifest.as_ref().map(report::manifest),
            "totals": report::totals(&walk.totals),
            "frame_bytes": sizes,
            "packets": report::account(&walk.account),
        });
        output.result(&value, &text(path, &walk));
    }
    broken(path, walk)
}

fn text(path: &Path, walk: &Walk) -> String {
    let mut lines = vec![format!("{}: {} bytes", path.display(), walk.file_bytes)];
    if let Some(preamble) = &walk.preamble {
        let (frame, version) = (preamble.frame_max, preamble.manifest_version);
        lines.push(format!(
            "format {FORMAT_VERSION}, manifest {version}, frames of at most {frame} bytes"
        ));
    }
    if let Some(manifest) = &walk.manifest {
        lines.push(format!("device {:?}", manifest.device_id));
        lines.push(report::manifest_text(manifest));
    }
    let (least, most) = walk.frame_sizes.unwrap_or_default();
    let totals = &walk.totals;
    lines.push(format!(
        "{} bytes of state in {} frames of {least} to {most} bytes; {} bytes of stream, {} of zeros left out",
        totals.payload_bytes, totals.frames, totals.wire_bytes, totals.zero_bytes
    ));
    lines.push(report::account_text(&walk.account));
    lines.join("\n")
}
