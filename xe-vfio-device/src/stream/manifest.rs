// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a stream says about its VF before the first byte of state: enough for a destination to refuse it in time.
//!
//! The manifest is encoded with `versionize`, so that a later version may add fields and still read this one; the version
//! travels in the stream's preamble. It is input from elsewhere until [`Manifest::decode`] has accepted it, and it shares
//! no type with the probing code, whose types may change freely.

use thiserror::Error;
use versionize::{VersionMap, Versionize, VersionizeError, VersionizeResult};
use versionize_derive::Versionize;

use crate::xe::{Identity, PciIds};

/// Most bytes of an encoded manifest.
pub const MANIFEST_MAX: u32 = 64 << 10;
/// Most bytes of a text in a manifest.
pub const TEXT_MAX: usize = 255;

/// A manifest that cannot be written or read.
#[derive(Debug, PartialEq, Error)]
pub enum ManifestError {
    /// A version that this build does not know.
    #[error(
        "The manifest has version {found}, this build knows 1 to {newest}: update the older host"
    )]
    Version {
        /// Version in the stream.
        found: u16,
        /// Newest version known here.
        newest: u16,
    },
    /// The encoding is larger than [`MANIFEST_MAX`].
    #[error("The manifest has {0} bytes, at most {MANIFEST_MAX} are allowed")]
    TooLarge(usize),
    /// `versionize` refused.
    #[error("The manifest cannot be encoded or decoded: {0}")]
    Encoding(VersionizeError),
    /// Bytes are left over.
    #[error("The manifest has {0} bytes more than its version has fields for")]
    Trailing(usize),
    /// A text that is empty, too long or holds control characters.
    #[error(
        "The manifest's {field} has {bytes} bytes or control characters; it takes 1 to {TEXT_MAX} printable bytes"
    )]
    Text {
        /// Name of the field.
        field: &'static str,
        /// Length of the text.
        bytes: usize,
    },
    /// A number out of its range.
    #[error("The manifest's {field} is {value:#x}, at most {most:#x} makes sense")]
    Number {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Largest value accepted.
        most: u64,
    },
}

/// PCI ids of a function, as they travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Versionize)]
pub struct Pci {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem device id.
    pub subsystem_device: u16,
    /// Class code, 24 bits.
    pub class: u32,
}

impl From<PciIds> for Pci {
    fn from(ids: PciIds) -> Self {
        let PciIds {
            vendor,
            device,
            revision,
            subsystem_vendor,
            subsystem_device,
            class,
        } = ids;
        Self {
            vendor,
            device,
            revision,
            subsystem_vendor,
            subsystem_device,
            class,
        }
    }
}

/// What a VF is and has, on the host that wrote it. All `None` means "this host does not show it".
#[derive(Debug, Clone, PartialEq, Eq, Versionize)]
pub struct Manifest {
    /// The device's name in its VM, 1 to 255 bytes; on a connection it says which device the stream is for.
    pub device_id: String,
    /// Ids of the VF.
    pub pci: Pci,
    /// Ids of its PF.
    pub pf: Option<Pci>,
    /// BAR sizes in bytes as VFIO's REGION_INFO has them, 0 for none.
    pub bars: [u64; 6],
    /// Flags of VFIO_DEVICE_FEATURE_MIGRATION: 1 STOP_COPY, 2 P2P, 4 PRE_COPY.
    pub migration_flags: u64,
    /// The kernel's estimate of the state in bytes (VFIO_DEVICE_FEATURE_MIG_DATA_SIZE); 0 when not asked.
    pub stop_copy_length: u64,
    /// GTs by number, one bit each.
    pub gts: Option<u16>,
    /// VRAM quota in bytes.
    pub vram_quota: Option<u64>,
    /// GGTT quota in PTEs.
    pub ggtt_entries: Option<u64>,
    /// GuC contexts.
    pub contexts: Option<u32>,
    /// Doorbells.
    pub doorbells: Option<u32>,
    /// Execution quantum in milliseconds.
    pub exec_quantum_ms: Option<u32>,
    /// Preemption timeout in microseconds.
    pub preempt_timeout_us: Option<u32>,
    /// Scheduling priority.
    pub sched_priority: Option<String>,
    /// GuC firmware version, "70.54.0".
    pub guc_version: Option<String>,
    /// Kernel release of the host, as uname has it.
    pub kernel_release: Option<String>,
}

impl Manifest {
    /// A manifest of a probed VF. What only ioctls know stays at 0 and is the caller's to fill in: `migration_flags`,
    /// `stop_copy_length`, and `bars` when REGION_INFO says better than sysfs.
    pub fn new(device_id: &str, identity: &Identity) -> Self {
        let profile = &identity.profile;
        Self {
            device_id: device_id.to_owned(),
            pci: identity.pci.into(),
            pf: identity.pf.map(Pci::from),
            bars: identity.bars,
            migration_flags: 0,
            stop_copy_length: 0,
            gts: identity.gts,
            vram_quota: profile.vram_quota,
            ggtt_entries: profile.ggtt_entries,
            contexts: profile.contexts,
            doorbells: profile.doorbells,
            exec_quantum_ms: profile.exec_quantum_ms,
            preempt_timeout_us: profile.preempt_timeout_us,
            sched_priority: profile.sched_priority.clone(),
            guc_version: None,
            kernel_release: crate::xe::probe::kernel_release(),
        }
    }

    /// Which versions of the types make up each version of the manifest. A new version adds `new_version()` and the
    /// changed types here, and `#[version(start = N)]` at the new fields.
    pub fn versions() -> VersionMap {
        VersionMap::new()
    }

    /// Newest version of the manifest that this build writes and reads.
    pub fn newest_version() -> u16 {
        Self::versions().latest_version()
    }

    /// Encodes the manifest in the newest version.
    ///
    /// # Errors
    /// [`ManifestError`] when a text or number is outside its bounds, since no reader would take it.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let versions = Self::versions();
        let mut bytes = Vec::new();
        self.serialize(&mut bytes, &versions, versions.latest_version())
            .map_err(ManifestError::Encoding)?;
        if bytes.len() > MANIFEST_MAX as usize {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Decodes a manifest of any known version. The caller has verified the bytes' checksum.
    ///
    /// # Errors
    /// [`ManifestError`] for an unknown version, bytes that are too few or too many, and values outside their bounds.
    pub fn decode(bytes: &[u8], version: u16) -> Result<Self, ManifestError> {
        let versions = Self::versions();
        let newest = versions.latest_version();
        if !(1..=newest).contains(&version) {
            return Err(ManifestError::Version {
                found: version,
                newest,
            });
        }
        if bytes.len() > MANIFEST_MAX as usize {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let mut left = bytes;
        let manifest =
            Self::deserialize(&mut left, &versions, version).map_err(ManifestError::Encoding)?;
        if !left.is_empty() {
            return Err(ManifestError::Trailing(left.len()));
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let texts = [
            ("device id", Some(&self.device_id)),
            ("scheduling priority", self.sched_priority.as_ref()),
            ("GuC version", self.guc_version.as_ref()),
            ("kernel release", self.kernel_release.as_ref()),
        ];
        for (field, text) in texts {
            let Some(text) = text else { continue };
            if text.is_empty() || text.len() > TEXT_MAX || text.chars().any(char::is_control) {
                return Err(ManifestError::Text {
                    field,
                    bytes: text.len(),
                });
            }
        }
        // The kernel answers a negative errno as a huge size: such an estimate must not become a plan for memory or time.
        number("stop-copy length", self.stop_copy_length, i64::MAX as u64)?;
        number("VRAM quota", self.vram_quota.unwrap_or(0), i64::MAX as u64)?;
        number("GGTT quota", self.ggtt_entries.unwrap_or(0), 1 << 20)?;
        number("PCI class", u64::from(self.pci.class), 0xff_ffff)?;
        self.bars
            .iter()
            .try_for_each(|size| number("BAR size", *size, 1 << 62))
    }
}

fn number(field: &'static str, value: u64, most: u64) -> Result<(), ManifestError> {
    if value > most {
        Err(ManifestError::Number { field, value, most })
    } else {
        Ok(())
    }
}
