// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads a VF's [`Identity`] from its sysfs directory.
//!
//! The path may be any that leads to the device's directory, under any root; the PF is found through its `physfn` link.
//! What is not there is left out: an integrated GPU has no VRAM quota, an older kernel no `sriov_admin`, a container
//! perhaps no PF. Only a path that is no PCI device is an error.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::identity::{Identity, PciIds, Profile};

/// A path that cannot be probed.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The path leads nowhere.
    #[error(
        "{path:?} cannot be resolved: give the sysfs directory of a VF, such as /sys/bus/pci/devices/0000:03:00.1"
    )]
    Path {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that every PCI device has is not there.
    #[error(
        "{path:?} is no PCI device, its file \"{file}\" cannot be read: give the sysfs directory of a VF"
    )]
    NotPci {
        /// The device's directory.
        path: PathBuf,
        /// Name of the file.
        file: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Such a file does not hold a number of its width.
    #[error(
        "{path:?} is no PCI device, its file \"{file}\" holds {text:?} instead of a number of {bits} bits"
    )]
    NotANumber {
        /// The device's directory.
        path: PathBuf,
        /// Name of the file.
        file: &'static str,
        /// Its content.
        text: String,
        /// Width of the number.
        bits: u32,
    },
}

/// Probes the PCI function whose sysfs directory `path` leads to.
///
/// # Errors
/// [`ProbeError`] when `path` does not exist or is no PCI device.
pub fn probe(path: &Path) -> Result<Identity, ProbeError> {
    let path = fs::canonicalize(path).map_err(|source| ProbeError::Path {
        path: path.to_owned(),
        source,
    })?;
    let pci = ids(&path)?;
    let pf = fs::canonicalize(path.join("physfn")).ok();
    let vf_number = pf.as_deref().and_then(|pf| vf_number(pf, &path));
    let of_pf = |file: &str| {
        pf.as_deref()
            .and_then(|pf| text(&pf.join(file))?.parse().ok())
    };
    Ok(Identity {
        address: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        pci,
        pf: pf.as_deref().and_then(|pf| ids(pf).ok()),
        vf_number,
        total_vfs: of_pf("sriov_totalvfs"),
        num_vfs: of_pf("sriov_numvfs"),
        gts: pf.as_deref().and_then(gts),
        bars: bars(&path),
        profile: pf
            .as_deref()
            .zip(vf_number)
            .map(|(pf, number)| profile(pf, number))
            .unwrap_or_default(),
        path,
    })
}

/// Adds what only debugfs shows, to root: `dir` is the PF's directory there, `/sys/kernel/debug/dri/<PF's address>`. Reads
/// `gt0/vf<n>/{ggtt,contexts,doorbells}_quota`, and `lmem_quota` where sysfs showed no VRAM quota.
pub fn probe_debugfs(identity: &mut Identity, dir: &Path) {
    let Some(number) = identity.vf_number else {
        return;
    };
    let dir = dir.join(format!("gt0/vf{number}"));
    let number = |file: &str| text(&dir.join(file))?.parse::<u64>().ok();
    let short = |file: &str| number(file).and_then(|value| u32::try_from(value).ok());
    let profile = &mut identity.profile;
    profile.vram_quota = profile.vram_quota.or_else(|| number("lmem_quota"));
    // In bytes of address space, a PTE for each 4 KiB.
    profile.ggtt_entries = profile
        .ggtt_entries
        .or_else(|| Some(number("ggtt_quota")? / 4096));
    profile.contexts = profile.contexts.or_else(|| short("contexts_quota"));
    profile.doorbells = profile.doorbells.or_else(|| short("doorbells_quota"));
}

/// Name of the driver that the PCI function is bound to, `xe-vfio-pci` for a VF that this crate is for; `None` without one.
pub fn driver(path: &Path) -> Option<String> {
    let link = fs::read_link(path.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// The driver's name that [`driver`] answers for a VF whose state can be moved.
pub const XE_VFIO_DRIVER: &str = "xe-vfio-pci";

/// Release of the running kernel, from /proc.
pub fn kernel_release() -> Option<String> {
    text(Path::new("/proc/sys/kernel/osrelease"))
}

fn ids(path: &Path) -> Result<PciIds, ProbeError> {
    Ok(PciIds {
        vendor: id(path, "vendor")?,
        device: id(path, "device")?,
        revision: id(path, "revision")?,
        subsystem_vendor: id(path, "subsystem_vendor")?,
        subsystem_device: id(path, "subsystem_device")?,
        class: id(path, "class")?,
    })
}

fn id<T: TryFrom<u32>>(path: &Path, file: &'static str) -> Result<T, ProbeError> {
    let raw = fs::read_to_string(path.join(file)).map_err(|source| ProbeError::NotPci {
        path: path.to_owned(),
        file,
        source,
    })?;
    hex(raw.trim())
        .and_then(|value| T::try_from(u32::try_from(value).ok()?).ok())
        .ok_or_else(|| ProbeError::NotANumber {
            path: path.to_owned(),
            file,
            text: raw.trim().chars().take(32).collect(),
            bits: 8 * size_of::<T>() as u32,
        })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// An optional file's content; what cannot be read or is empty is not there.
fn text(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The driver counts VFs from 1, the PF's links `virtfn<n>` from 0.
fn vf_number(pf: &Path, vf: &Path) -> Option<u32> {
    fs::read_dir(pf).ok()?.flatten().find_map(|entry| {
        let index: u32 = entry
            .file_name()
            .to_str()?
            .strip_prefix("virtfn")?
            .parse()
            .ok()?;
        (fs::canonicalize(entry.path()).ok()? == vf).then_some(index.checked_add(1)?)
    })
}

/// GTs from the PF driver's directories `tile<t>/gt<g>`; the numbers go on from tile to tile.
fn gts(pf: &Path) -> Option<u16> {
    let numbered = |dir: &Path, prefix: &'static str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(move |entry| {
            let number: u8 = entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()?;
            Some((number, entry.path()))
        })
    };
    let gts = numbered(pf, "tile").flat_map(|(_, tile)| numbered(&tile, "gt"));
    let mask = gts
        .filter(|(gt, _)| *gt < 16)
        .fold(0, |mask, (gt, _)| mask | 1 << gt);
    (mask != 0).then_some(mask)
}

/// Each line of `resource` is "start end flags"; the first six are the BARs.
fn bars(path: &Path) -> [u64; 6] {
    let lines = fs::read_to_string(path.join("resource")).unwrap_or_default();
    let mut bars = [0; 6];
    for (bar, line) in bars.iter_mut().zip(lines.lines()) {
        let mut fields = line.split_whitespace().map(hex);
        if let (Some(Some(start)), Some(Some(end))) = (fields.next(), fields.next())
            && end > start
        {
            *bar = (end - start).saturating_add(1);
        }
    }
    bars
}

fn profile(pf: &Path, number: u32) -> Profile {
    let dir = pf.join(format!("sriov_admin/vf{number}/profile"));
    let number = |file: &str| text(&dir.join(file))?.parse::<u64>().ok();
    let short = |file: &str| number(file).and_then(|value| u32::try_from(value).ok());
    Profile {
        vram_quota: number("vram_quota"),
        exec_quantum_ms: short("exec_quantum_ms"),
        preempt_timeout_us: short("preempt_timeout_us"),
        sched_priority: text(&dir.join("sched_priority")).map(|choices| chosen(&choices)),
        ..Profile::default()
    }
}

/// Sysfs shows "low [normal] high": the choice in brackets, or all of the text where there are none.
fn chosen(choices: &str) -> String {
    let choice = choices
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(choice, _)| choice);
    choice.unwrap_or(choices).to_owned()
}
