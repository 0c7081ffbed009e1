// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PCI device ids whose VFs the kernel's xe-vfio-pci driver knows.
//!
//! Source: the device table of drivers/vfio/pci/xe/main.c with the id lists of include/drm/intel/pciids.h. An id that is
//! missing here is no reason to refuse a device: whether a VF can migrate is for the kernel to say.

use std::fmt;

/// Vendor id of Intel.
pub const INTEL: u16 = 0x8086;

/// A GPU family with VFs that migrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Panther Lake.
    PantherLake,
    /// Wildcat Lake.
    WildcatLake,
    /// Battlemage.
    Battlemage,
}

const TABLE: [(Platform, &[u16]); 3] = [
    (
        Platform::PantherLake,
        &[
            0xb080, 0xb081, 0xb082, 0xb083, 0xb084, 0xb085, 0xb086, 0xb087, 0xb08f, 0xb090, 0xb0a0,
            0xb0b0,
        ],
    ),
    (Platform::WildcatLake, &[0xfd80, 0xfd81]),
    (
        Platform::Battlemage,
        &[
            0xe202, 0xe209, 0xe20b, 0xe20c, 0xe20d, 0xe210, 0xe211, 0xe212, 0xe216, 0xe220, 0xe221,
            0xe222, 0xe223,
        ],
    ),
];

impl Platform {
    /// The platform of a PCI device, `None` when it is not in the table.
    pub fn of(vendor: u16, device: u16) -> Option<Self> {
        (vendor == INTEL)
            .then(|| TABLE.iter().find(|(_, ids)| ids.contains(&device)))
            .flatten()
            .map(|(platform, _)| *platform)
    }

    /// Whether its VFs have memory of their own (BAR2 and VRAM packets).
    pub fn has_vram(self) -> bool {
        self == Self::Battlemage
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PantherLake => "Panther Lake",
            Self::WildcatLake => "Wildcat Lake",
            Self::Battlemage => "Battlemage",
        })
    }
}
