// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `verify`: whether a file is whole.

use std::path::Path;

use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;
use crate::report;
use crate::walk::{Walk, walk};
use crate::watch::bar;

/// Checks a file.
///
/// # Errors
/// [`Failure::Broken`] says where it is broken.
pub fn verify(path: &Path, output: Output) -> Result<(), Failure> {
    let progress = bar("Checking");
    let walked = walk(path, &progress);
    progress.finish_and_clear();
    let walk = walked.map_err(|source| Failure::File {
        path: path.to_owned(),
        source,
    })?;
    if walk.fault.is_none() {
        let value = json!({
            "command": "verify",
            "ok": true,
            "file": path,
            "totals": report::totals(&walk.totals),
            "packets": report::account(&walk.account),
        });
        let (bytes, frames) = (walk.totals.wire_bytes, walk.totals.frames);
        output.result(
            &value,
            &format!(
                "{} is whole: {bytes} bytes, {frames} frames, {}",
                path.display(),
                walk.account.by_kind()
            ),
        );
    }
    broken(path, walk)
}

/// The failure that a walk's fault is.
///
/// # Errors
/// When there is one.
pub fn broken(path: &Path, walk: Walk) -> Result<(), Failure> {
    match walk.fault {
        None => Ok(()),
        Some(fault) => Err(Failure::Broken {
            path: path.to_owned(),
            wrong: fault.part.to_owned(),
            offset: fault.offset,
            source: fault.error,
        }),
    }
}
