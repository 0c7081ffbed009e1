// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the VMM itself knows of a passed-through device, as it travels.
//!
//! It comes from another process, so nothing of it is used before [`Restored::try_from`] has compared it with the device
//! that is here.

use serde::{Deserialize, Serialize};

use super::bar::Bar;
use super::config::COMMAND_WRITABLE;
use super::msix::{self, Table, TableState};

/// Version of the format.
const VERSION: u32 = 1;

/// Saved state that does not fit the device.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Written by a newer VMM.
    #[error("The saved PCI state has version {0}, this VMM knows {VERSION}")]
    Version(u32),
    /// Bits of the command register that this VMM never sets.
    #[error("The saved command register {0:#06x} has unknown bits")]
    Command(u16),
    /// Other BARs.
    #[error("The saved BARs are not those of the device: {saved}, here {here}")]
    Bars {
        /// In the saved state.
        saved: String,
        /// Of the device.
        here: String,
    },
    /// A BAR that is not aligned to its size.
    #[error("The saved address {address:#x} of BAR{index} is not a multiple of its size")]
    Address {
        /// Of the BAR.
        index: u8,
        /// In the saved state.
        address: u64,
    },
    /// The MSI-X table.
    #[error(transparent)]
    Msix(#[from] msix::Error),
    /// Pending bits for other vectors.
    #[error("The saved MSI-X state has {0} pending bits")]
    Pending(usize),
}

/// A BAR as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BarState {
    /// Index of its register.
    pub index: u8,
    /// Guest physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// The state as it travels; untrusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciState {
    /// Version of this structure.
    pub version: u32,
    /// Command register.
    pub command: u16,
    /// BARs in order.
    pub bars: Vec<BarState>,
    /// MSI-X table and control.
    pub msix: TableState,
    /// Vectors whose signal is held back by a mask.
    pub pending: Vec<bool>,
}

impl PciState {
    /// Puts the parts together.
    #[must_use]
    pub fn new(command: u16, bars: &[Bar], msix: TableState, pending: Vec<bool>) -> Self {
        let bars = bars
            .iter()
            .map(|b| BarState {
                index: b.index,
                address: b.address,
                size: b.size,
            })
            .collect();
        Self {
            version: VERSION,
            command,
            bars,
            msix,
            pending,
        }
    }
}

/// What the device here has, for comparison.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its BARs; the addresses do not matter.
    pub bars: Vec<Bar>,
    /// Its MSI-X vectors.
    pub vectors: usize,
}

/// State that fits the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Command register.
    pub command: u16,
    /// Index and address of each BAR.
    pub addresses: Vec<(u8, u64)>,
    /// The MSI-X table.
    pub msix: Table,
    /// Vectors with a signal held back.
    pub pending: Vec<bool>,
}

impl TryFrom<(&PciState, &Device)> for Restored {
    type Error = Error;

    fn try_from((state, device): (&PciState, &Device)) -> Result<Self, Error> {
        if state.version != VERSION {
            return Err(Error::Version(state.version));
        }
        if state.command & !COMMAND_WRITABLE != 0 {
            return Err(Error::Command(state.command));
        }
        let saved = state.bars.iter().map(|b| (b.index, b.size));
        if !saved.eq(device.bars.iter().map(|b| (b.index, b.size))) {
            return Err(Error::Bars {
                saved: list(state.bars.iter().map(|b| (b.index, b.size))),
                here: list(device.bars.iter().map(|b| (b.index, b.size))),
            });
        }
        if let Some(bar) = state.bars.iter().find(|b| b.address % b.size != 0) {
            return Err(Error::Address {
                index: bar.index,
                address: bar.address,
            });
        }
        if state.pending.len() != device.vectors {
            return Err(Error::Pending(state.pending.len()));
        }
        Ok(Self {
            command: state.command,
            addresses: state.bars.iter().map(|b| (b.index, b.address)).collect(),
            msix: Table::restore(device.vectors, &state.msix)?,
            pending: state.pending.clone(),
        })
    }
}

fn list(bars: impl Iterator<Item = (u8, u64)>) -> String {
    bars.map(|(index, size)| format!("BAR{index} of {size:#x}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        let bar0 = Bar {
            index: 0,
            address: 0,
            size: 8 << 20,
            is_64bit: false,
            prefetchable: false,
        };
        Device {
            bars: vec![bar0],
            vectors: 4,
        }
    }

    fn state() -> PciState {
        let device = device();
        let bar = Bar {
            address: 0xc000_0000,
            ..device.bars[0]
        };
        PciState::new(
            6,
            &[bar],
            Table::new(4).save(),
            vec![false, true, false, false],
        )
    }

    #[test]
    fn a_state_survives_the_way_through_json() {
        let text = serde_json::to_string(&state()).unwrap();
        let back: PciState = serde_json::from_str(&text).unwrap();
        let restored = Restored::try_from((&back, &device())).unwrap();
        assert_eq!(restored.addresses, [(0, 0xc000_0000)]);
        assert_eq!((restored.command, restored.pending[1]), (6, true));
    }

    #[test]
    fn every_field_that_does_not_fit_is_refused_by_name() {
        #[track_caller]
        fn refused(change: impl Fn(&mut PciState), word: &str) {
            let mut state = state();
            change(&mut state);
            let error = Restored::try_from((&state, &device())).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        refused(|s| s.version = 2, "version 2");
        refused(|s| s.command = 0x8000, "0x8000");
        refused(|s| s.bars[0].size = 4 << 20, "0x400000");
        refused(|s| s.bars[0].size = 0, "BAR0");
        refused(|s| s.bars[0].address += 0x1000, "0xc0001000");
        refused(|s| s.pending.clear(), "0 pending");
        refused(|s| s.msix = Table::new(3).save(), "3 vectors");
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused() {
        let mut value = serde_json::to_value(state()).unwrap();
        value["extra"] = 1.into();
        assert!(serde_json::from_value::<PciState>(value).is_err());
    }
}
