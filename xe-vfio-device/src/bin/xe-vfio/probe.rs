// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `probe`: what a VF is, whether it can migrate, and with whom.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use xe_vfio_device::stream::Manifest;
use xe_vfio_device::xe::ids::Platform;
use xe_vfio_device::xe::{self, Identity, Severity, compare};

use crate::cli;
use crate::diagnosis::{self, Unusable};
use crate::failure::Failure;
use crate::forecast::Forecast;
use crate::output::Output;
use crate::report;
use crate::vf::{Opened, options};
use crate::walk::walk;

/// Tells what is known of a VF, then why it cannot migrate if it cannot.
///
/// # Errors
/// [`Failure::Unusable`] and, compared with another VF, [`Failure::Mismatch`].
pub fn run(arguments: &cli::Probe, output: Output) -> Result<(), Failure> {
    let identity = diagnosis::identity(&arguments.device.path).map_err(Unusable::from)?;
    let found = if arguments.no_open {
        diagnosis::usable(&identity)
            .map(|()| None)
            .map_err(Failure::from)
    } else {
        opened(&arguments.device).map(Some)
    };
    let (manifest, state) = match &found {
        Ok(Some((manifest, state))) => (manifest.clone(), state.clone()),
        Ok(None) | Err(_) => (Manifest::new("vf0", &identity), None),
    };
    let mut value = json!({
        "command": "probe",
        "ok": found.is_ok(),
        "address": identity.address,
        "driver": xe::driver(&identity.path),
        "platform": platform(&identity).map(|platform| platform.to_string()),
        "vf_number": identity.vf_number,
        "num_vfs": identity.num_vfs,
        "total_vfs": identity.total_vfs,
        "state": state,
        "manifest": report::manifest(&manifest),
    });
    let mut text = text(&identity, &manifest, state.as_deref(), arguments.no_open);
    if matches!(found, Ok(Some(_))) && manifest.stop_copy_length > 0 {
        let forecast = Forecast::new(&manifest, arguments.history.as_deref(), output);
        value["estimate"] = forecast.json();
        text = format!("{text}\n{}", forecast.text());
    }
    match found {
        Err(failure) => {
            // With JSON the failure is the one object.
            if !output.json {
                output.result(&value, &text);
            }
            Err(failure)
        }
        Ok(_) => {
            let Some(other) = &arguments.against else {
                output.result(&value, &text);
                return Ok(());
            };
            let (notes, mismatch) =
                against(&identity.address, &manifest, other, &arguments.device)?;
            value["against"] = json!({ "source": other, "differences": notes });
            if mismatch.is_none() || !output.json {
                output.result(
                    &value,
                    &format!("{text}\n{}", verdict(other, &notes, mismatch.is_none())),
                );
            }
            mismatch.map_or(Ok(()), Err)
        }
    }
}

fn platform(identity: &Identity) -> Option<Platform> {
    Platform::of(identity.pci.vendor, identity.pci.device)
}

/// What only the open device tells.
fn opened(device: &cli::Device) -> Result<(Manifest, Option<String>), Failure> {
    let opened = Opened::new(device)?;
    let wait = Duration::from_secs(20);
    let vf = opened.device("vf0", options(wait, wait));
    Unusable::of_support(&opened.address, vf.support())?;
    let manifest = vf.manifest().map_err(|source| Failure::Probe {
        address: opened.address.clone(),
        source: Box::new(source),
    })?;
    Ok((manifest, vf.info().state.map(|state| state.to_string())))
}

/// Compares the state of another VF, or one in a file, with this VF.
fn against(
    address: &str,
    destination: &Manifest,
    other: &Path,
    device: &cli::Device,
) -> Result<(Vec<Value>, Option<Failure>), Failure> {
    let source = if other.is_dir() {
        let device = cli::Device {
            path: other.to_owned(),
            iommufd: device.iommufd,
        };
        opened(&device)?.0
    } else {
        let file = |source| Failure::File {
            path: other.to_owned(),
            source,
        };
        let walk = walk(other, &indicatif::ProgressBar::hidden()).map_err(file)?;
        match walk.manifest.clone() {
            Some(manifest) => manifest,
            None => {
                return Err(crate::verify::broken(other, walk)
                    .err()
                    .unwrap_or_else(|| file(std::io::ErrorKind::InvalidData.into())));
            }
        }
    };
    let found = compare(&source, destination);
    let notes = found
        .iter()
        .map(|mismatch| {
            let refused = mismatch.severity() == Severity::Refuse;
            json!({ "refused": refused, "what": mismatch.to_string() })
        })
        .collect();
    let refused: Vec<_> = found
        .iter()
        .filter(|mismatch| mismatch.severity() == Severity::Refuse)
        .map(ToString::to_string)
        .collect();
    let mismatch = (!refused.is_empty()).then(|| Failure::Mismatch {
        address: address.to_owned(),
        source_name: other.display().to_string(),
        differences: refused,
    });
    Ok((notes, mismatch))
}

fn verdict(other: &Path, notes: &[Value], good: bool) -> String {
    let mut lines = Vec::new();
    if good {
        lines.push(format!("The state of {} can move here.", other.display()));
    }
    let warnings = notes.iter().filter(|note| note["refused"] == false);
    lines.extend(warnings.filter_map(|note| Some(format!("  Note: {}", note["what"].as_str()?))));
    lines.join("\n")
}

fn text(identity: &Identity, manifest: &Manifest, state: Option<&str>, no_open: bool) -> String {
    let platform =
        platform(identity).map_or_else(|| "unknown platform".to_owned(), |known| known.to_string());
    let driver = xe::driver(&identity.path).unwrap_or_else(|| "no driver".to_owned());
    let number = match (identity.vf_number, identity.num_vfs) {
        (Some(number), Some(count)) => format!("VF {number} of {count}"),
        (Some(number), None) => format!("VF {number}"),
        (None, _) => "no VF".to_owned(),
    };
    let mut lines = vec![format!(
        "{}: {platform}, {number}, driver {driver}",
        identity.address
    )];
    lines.push(report::manifest_text(manifest));
    match state {
        Some(state) => {
            lines.push(format!("It can migrate, and is in {state}."));
            lines.push(
                "A VF takes its state when device, revision, PF, BAR sizes, GTs, VRAM and GGTT quotas, contexts and doorbells are the same."
                    .to_owned(),
            );
        }
        None if no_open => lines.push(
            "It was not opened, so the kernel was not asked whether it can migrate.".to_owned(),
        ),
        None => {}
    }
    lines.join("\n")
}
