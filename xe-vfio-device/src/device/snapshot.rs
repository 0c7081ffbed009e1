// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's part of a VM's snapshot: who it is and the VMM's PCI state. What is on the GPU is never in it; that goes as a
//! stream.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::slot::SAVING;
use super::{DeviceError, Passthrough, XeVfioDevice};
use crate::state::DeviceState;
use crate::stream::{Manifest, ManifestError};

const KIND: &str = "xe-vfio-device";
const VERSION: u32 = 1;

/// A snapshot that cannot be taken over.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// Something else's.
    #[error("It is the snapshot of a {0:?}, not of a {KIND:?}")]
    Kind(String),
    /// A version that this build does not know.
    #[error("It has version {0}, this build knows {VERSION}: update the older host")]
    Version(u32),
    /// The manifest is not hexadecimal.
    #[error("Its manifest is not a row of hexadecimal bytes")]
    Hex,
    /// The manifest is not good.
    #[error("Its manifest is not good")]
    Manifest(#[from] ManifestError),
    /// Of another device.
    #[error("It is of device {found:?}, this is {expected:?}")]
    OtherDevice {
        /// The snapshot's device.
        found: String,
        /// This device.
        expected: String,
    },
    /// There is no PCI state in it.
    #[error("It holds no PCI state")]
    NoPciState,
}

/// The snapshot as a VMM stores it. It shares no type with the running device; what is in it is checked when it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VfSnapshot {
    kind: String,
    version: u32,
    manifest_version: u16,
    manifest: String,
    pci_state: Option<serde_json::Value>,
}

impl VfSnapshot {
    /// A snapshot of the device that `manifest` describes.
    ///
    /// # Errors
    /// [`ManifestError`] when the manifest cannot be encoded.
    pub fn new(
        manifest: &Manifest,
        pci_state: Option<serde_json::Value>,
    ) -> Result<Self, ManifestError> {
        let mut hex = String::new();
        for byte in manifest.encode()? {
            // Writing to a string cannot fail.
            _ = write!(hex, "{byte:02x}");
        }
        let manifest_version = Manifest::newest_version();
        Ok(Self {
            kind: KIND.to_owned(),
            version: VERSION,
            manifest_version,
            manifest: hex,
            pci_state,
        })
    }

    /// The manifest, checked.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn manifest(&self) -> Result<Manifest, SnapshotError> {
        if self.kind != KIND {
            return Err(SnapshotError::Kind(self.kind.clone()));
        }
        if self.version != VERSION {
            return Err(SnapshotError::Version(self.version));
        }
        let (pairs, []) = self.manifest.as_bytes().as_chunks::<2>() else {
            return Err(SnapshotError::Hex);
        };
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
            .collect();
        Ok(Manifest::decode(
            &bytes.ok_or(SnapshotError::Hex)?,
            self.manifest_version,
        )?)
    }

    /// The VMM's PCI state, if the snapshot has it.
    pub fn pci_state(&self) -> Option<&serde_json::Value> {
        self.pci_state.as_ref()
    }
}

impl<P: Passthrough> XeVfioDevice<P> {
    /// The device's snapshot. The VF is in STOP, where it may be being saved at the same time, and stays there.
    ///
    /// # Errors
    /// [`DeviceError`]; a VF that cannot migrate, or whose state was lost, has no snapshot.
    pub fn take_snapshot(&self) -> Result<VfSnapshot, DeviceError> {
        self.not_reset()?;
        let manifest = self.known_manifest()?;
        // Its state may be on its way meanwhile, which changes nothing here.
        match self.slot.look() {
            (Some(DeviceState::Stop | DeviceState::StopCopy), _) | (None, Some(SAVING)) => {}
            (state, busy) => {
                let found = state.map(|state| format!("in {state}"));
                return Err(DeviceError::WrongState {
                    id: self.id.clone(),
                    found: found
                        .unwrap_or_else(|| busy.unwrap_or("in an unknown state").to_owned()),
                    needed: DeviceState::Stop,
                });
            }
        }
        let id = || self.id.clone();
        let pci_state = self.passthrough.save_pci_state();
        let pci_state = pci_state.map_err(|source| DeviceError::Pci {
            id: id(),
            doing: "saved",
            source,
        })?;
        VfSnapshot::new(&manifest, Some(pci_state)).map_err(|source| DeviceError::Manifest {
            id: id(),
            source: Box::new(source),
        })
    }

    /// Takes the PCI state of a snapshot over, after [`XeVfioDevice::check`] of its manifest. The VF's state does not change.
    ///
    /// # Errors
    /// [`DeviceError`] for a snapshot of something else, or whose VF is too different.
    pub fn restore_snapshot(&self, snapshot: &VfSnapshot) -> Result<(), DeviceError> {
        let bad = |source| DeviceError::Snapshot {
            id: self.id.clone(),
            source: Box::new(source),
        };
        let manifest = snapshot.manifest().map_err(bad)?;
        if manifest.device_id != self.id {
            let (found, expected) = (manifest.device_id, self.id.clone());
            return Err(bad(SnapshotError::OtherDevice { found, expected }));
        }
        let state = snapshot.pci_state().ok_or(bad(SnapshotError::NoPciState))?;
        self.compatible(&manifest)?;
        self.passthrough
            .restore_pci_state(state)
            .map_err(|source| DeviceError::Pci {
                id: self.id.clone(),
                doing: "restored",
                source,
            })
    }
}
