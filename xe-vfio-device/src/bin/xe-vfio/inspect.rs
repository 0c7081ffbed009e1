// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `inspect`: what is in a file.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};
use xe_vfio_device::stream::Index;
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
pub fn inspect(path: &Path, with_index: bool, output: Output) -> Result<(), Failure> {
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
        let mut value = json!({
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
            "indexed_frames": walk.index.as_ref().map(Index::len),
        });
        let mut text = text(path, &walk);
        if let Some(index) = walk.index.as_ref().filter(|_| with_index) {
            let (entries, lines) = entries(index);
            value["index"] = entries.into();
            text.push_str(&lines);
        }
        output.result(&value, &text);
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
    lines.extend(report::compressed_text(totals));
    lines.push(match &walk.index {
        Some(index) => format!(
            "index of {} frames at byte {} of the file",
            index.len(),
            index.offset()
        ),
        None => "no index: read from its beginning, by one thread".to_owned(),
    });
    lines.push(report::account_text(&walk.account));
    lines.join("\n")
}

/// Each frame's place in file and state, for programs and for people.
fn entries(index: &Index) -> (Vec<Value>, String) {
    let (mut values, mut text) = (Vec::new(), String::new());
    for number in 0..index.len() {
        let (Some(file), Some(state)) = (index.frame(number), index.state(number)) else {
            break;
        };
        values.push(json!({
            "frame": number,
            "file": { "offset": file.start, "bytes": file.end - file.start },
            "state": { "offset": state.start, "bytes": state.end - state.start },
        }));
        // Writing to a string cannot fail.
        _ = write!(
            text,
            "\n  frame {number}: bytes {} to {} of the file, {} to {} of the state",
            file.start, file.end, state.start, state.end
        );
    }
    (values, text)
}
