// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VM is made of, as the command line says it and as a snapshot keeps it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::accel::Choice;
use crate::serial::Target;

/// Most VFs of a VM: as many as the PCI bus has slots beside the host bridge.
pub const MAX_DEVICES: usize = 31;

/// A VF given to the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Its name; the same on every host the VM moves to.
    pub id: String,
    /// Its directory in sysfs on this host.
    pub path: PathBuf,
}

impl FromStr for DeviceConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut id, mut path) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("id", value)) if !value.is_empty() => id = Some(value.to_owned()),
                Some(("path", value)) if !value.is_empty() => path = Some(PathBuf::from(value)),
                _ => return Err(format!("{part:?} is neither path=... nor id=...")),
            }
        }
        match (id, path) {
            (Some(id), Some(path)) if is_id(&id) => Ok(Self { id, path }),
            (Some(id), Some(_)) => Err(format!(
                "id {id:?} has other characters than letters, digits, - and _"
            )),
            _ => Err("a device needs path=/sys/bus/pci/devices/... and id=...".into()),
        }
    }
}

/// Ids become file names in a snapshot, so they are as harmless as they can be.
#[must_use]
pub fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 64
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// What a VM is, wherever it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// Bytes of RAM.
    pub memory: u64,
    /// VFs in the order of their slots from 0:1.0.
    pub devices: Vec<DeviceConfig>,
    /// The guest; none is the built-in one.
    pub kernel: Option<PathBuf>,
    /// What belongs to this process.
    pub host: HostConfig,
}

/// What a VM finds on its host and does not take along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Where the guest's output goes.
    pub serial: Target,
    /// What runs the guest.
    pub accel: Choice,
    /// VFs by cdev and iommufd instead of group and container.
    pub iommufd: bool,
    /// Bytes of each mapping of RAM for DMA; none for mappings as large as RAM is.
    pub dma_block: Option<u64>,
}

/// Reads `size=256M` or `256M`; K, M and G are powers of 1024.
///
/// # Errors
/// A sentence on what is wrong.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let size = text.strip_prefix("size=").unwrap_or(text);
    let (digits, shift) = match size.as_bytes().last() {
        Some(b'K' | b'k') => (&size[..size.len() - 1], 10),
        Some(b'M' | b'm') => (&size[..size.len() - 1], 20),
        Some(b'G' | b'g') => (&size[..size.len() - 1], 30),
        _ => (size, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is not a size such as 256M"))
}

/// Shortest and longest time that may be set, in seconds: what comes of it can be added to any point in time.
const SECONDS: std::ops::RangeInclusive<f64> = 0.001..=7.0 * 24.0 * 3600.0;

/// A time that may be set, from seconds.
///
/// # Errors
/// A sentence on what is wrong, also for what is no number.
pub fn seconds(seconds: f64) -> Result<Duration, String> {
    if SECONDS.contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(format!(
        "{seconds} is not a time from 0.001 s to 604800 s, which is 7 days"
    ))
}

/// As [`seconds`], from text.
///
/// # Errors
/// A sentence on what is wrong.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let number = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    seconds(number)
}

/// Checks that the devices and their ids are different and that they fit on the bus.
///
/// # Errors
/// A sentence on what is wrong.
pub fn check_devices(devices: &[DeviceConfig]) -> Result<(), String> {
    if devices.len() > MAX_DEVICES {
        return Err(format!(
            "{} devices, at most {MAX_DEVICES} fit on the bus",
            devices.len()
        ));
    }
    for (at, device) in devices.iter().enumerate() {
        if devices[..at].iter().any(|other| other.id == device.id) {
            return Err(format!("Two devices have the id {}", device.id));
        }
        if let Some(other) = devices[..at]
            .iter()
            .find(|d| is_same(&d.path, &device.path))
        {
            return Err(format!(
                "Devices {} and {} are the same VF",
                other.id, device.id
            ));
        }
    }
    Ok(())
}

/// Whether two paths lead to one directory; what leads nowhere is only itself.
fn is_same(a: &Path, b: &Path) -> bool {
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved(a) == resolved(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_memory("size=256M"), Ok(256 << 20));
        assert_eq!(parse_memory("1G"), Ok(1 << 30));
        assert_eq!(parse_memory("4096"), Ok(4096));
        assert!(parse_memory("size=").is_err());
        assert!(parse_memory("99999999999G").is_err());
    }

    #[test]
    fn a_time_that_cannot_be_waited_for_is_refused() {
        assert_eq!(parse_seconds("0.001"), Ok(Duration::from_millis(1)));
        assert_eq!(parse_seconds("604800"), Ok(Duration::from_secs(604_800)));
        for text in [
            "1e19", "604801", "inf", "NaN", "-1", "-0", "0", "1e-9", "", "5s",
        ] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_device_needs_a_path_and_a_harmless_id() {
        let device: DeviceConfig = "path=/sys/x,id=vf0".parse().unwrap();
        assert_eq!(
            (device.id.as_str(), device.path),
            ("vf0", PathBuf::from("/sys/x"))
        );
        assert!("path=/sys/x".parse::<DeviceConfig>().is_err());
        assert!("path=/sys/x,id=../up".parse::<DeviceConfig>().is_err());
        assert!("path=/sys/x,id=a,more=1".parse::<DeviceConfig>().is_err());
    }

    #[test]
    fn a_vf_is_given_once_whatever_path_leads_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let (vf, link) = (directory.path().join("vf"), directory.path().join("link"));
        std::fs::create_dir(&vf).unwrap();
        std::os::unix::fs::symlink(&vf, &link).unwrap();
        for other in [link, vf.join("."), vf.join("")] {
            let device = |id: &str, path: &Path| DeviceConfig {
                id: id.into(),
                path: path.into(),
            };
            let error = check_devices(&[device("v", &vf), device("w", &other)]).unwrap_err();
            assert_eq!(error, "Devices v and w are the same VF");
        }
    }

    #[test]
    fn an_id_is_given_once() {
        let device: DeviceConfig = "path=/sys/x,id=vf0".parse().unwrap();
        assert!(check_devices(std::slice::from_ref(&device)).is_ok());
        assert!(
            check_devices(&[device.clone(), device])
                .unwrap_err()
                .contains("id vf0")
        );
    }
}
