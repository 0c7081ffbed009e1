// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An MSI-X table without a device: what the guest writes into it, and which vectors are to be connected because of it.
//!
//! The table has no effects of its own. After every change the owner asks [`Table::wanted`] and connects the difference.

use serde::{Deserialize, Serialize};

use crate::accel::MsiMessage;

/// Bytes of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Most vectors that MSI-X can have.
pub const MAX_VECTORS: usize = 2048;
/// Bit of the control word that masks a vector.
const MASKED: u32 = 1;
/// Bits of the capability's control word that the guest may write.
const CONTROL_WRITABLE: u16 = ENABLE | MASK_ALL;
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

/// Saved state that no table can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Another number of vectors.
    #[error("The saved MSI-X table has {saved} vectors, the device {here}")]
    Vectors {
        /// In the saved state.
        saved: usize,
        /// Of the device.
        here: usize,
    },
    /// Bits that cannot be set.
    #[error("The saved MSI-X state has reserved bits set: {0}")]
    Reserved(&'static str),
}

/// A table entry as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryState {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// Vector control.
    pub control: u32,
}

/// A table as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableState {
    /// Message control of the capability: enable and function mask.
    pub control: u16,
    /// One per vector.
    pub entries: Vec<EntryState>,
}

/// The table of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    control: u16,
    entries: Vec<EntryState>,
}

impl Table {
    /// A table after reset: disabled, every vector masked.
    ///
    /// # Panics
    /// With no or more than 2048 vectors, which the capability cannot express.
    #[must_use]
    pub fn new(vectors: usize) -> Self {
        assert!((1..=MAX_VECTORS).contains(&vectors), "{vectors} vectors");
        let entry = EntryState {
            address: 0,
            data: 0,
            control: MASKED,
        };
        Self {
            control: 0,
            entries: vec![entry; vectors],
        }
    }

    /// Number of vectors.
    #[must_use]
    pub fn vectors(&self) -> usize {
        self.entries.len()
    }

    /// The writable bits of message control.
    #[must_use]
    pub fn control(&self) -> u16 {
        self.control
    }

    /// The guest writes message control.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_WRITABLE;
    }

    /// Whether the guest has switched MSI-X on.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// What each vector is to send; none for a vector that must hold its signals back.
    #[must_use]
    pub fn wanted(&self) -> Vec<Option<MsiMessage>> {
        let live = self.control & (ENABLE | MASK_ALL) == ENABLE;
        self.entries
            .iter()
            .map(|e| {
                (live && e.control & MASKED == 0).then_some(MsiMessage {
                    address: e.address,
                    data: e.data,
                })
            })
            .collect()
    }

    /// The guest reads the table; `offset` is from the table's start.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self
                .entry(at)
                .map_or(0, |e| bytes(e)[index(at % ENTRY_SIZE)]);
        }
    }

    /// The guest writes the table; `offset` is from the table's start. Bytes beyond its end are dropped.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let vector = index(at / ENTRY_SIZE);
            if let Some(entry) = self.entries.get_mut(vector) {
                let mut image = bytes(entry);
                image[index(at % ENTRY_SIZE)] = *byte;
                *entry = from_bytes(&image);
            }
        }
    }

    /// The table as data.
    #[must_use]
    pub fn save(&self) -> TableState {
        TableState {
            control: self.control,
            entries: self.entries.clone(),
        }
    }

    /// A table of `vectors` vectors from saved data.
    ///
    /// # Errors
    /// [`Error`] when it is not the state of such a table.
    pub fn restore(vectors: usize, state: &TableState) -> Result<Self, Error> {
        if state.entries.len() != vectors {
            return Err(Error::Vectors {
                saved: state.entries.len(),
                here: vectors,
            });
        }
        if state.control & !CONTROL_WRITABLE != 0 {
            return Err(Error::Reserved("message control"));
        }
        if state
            .entries
            .iter()
            .any(|e| e.control & !MASKED != 0 || e.address & 3 != 0)
        {
            return Err(Error::Reserved("table entry"));
        }
        Ok(Self {
            control: state.control,
            entries: state.entries.clone(),
        })
    }

    fn entry(&self, at: u64) -> Option<&EntryState> {
        self.entries.get(index(at / ENTRY_SIZE))
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn bytes(entry: &EntryState) -> [u8; 16] {
    let mut image = [0; 16];
    image[..8].copy_from_slice(&entry.address.to_le_bytes());
    image[8..12].copy_from_slice(&entry.data.to_le_bytes());
    image[12..].copy_from_slice(&entry.control.to_le_bytes());
    image
}

fn from_bytes(image: &[u8; 16]) -> EntryState {
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| image[at + i]));
    EntryState {
        // The two low bits are reserved and read as zero.
        address: u64::from(word(4)) << 32 | u64::from(word(0) & !3),
        data: word(8),
        control: word(12) & MASKED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Table {
        let mut table = Table::new(4);
        table.write(16, &0xfee0_0000u32.to_le_bytes());
        table.write(24, &0x31u32.to_le_bytes());
        table.write(28, &0u32.to_le_bytes());
        table
    }

    #[test]
    fn a_vector_is_wanted_only_when_enabled_and_unmasked() {
        let mut table = written();
        assert_eq!(table.wanted(), [None; 4]);
        table.set_control(0x8000);
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x31,
        };
        assert_eq!(table.wanted(), [None, Some(message), None, None]);
        table.set_control(0xc000);
        assert_eq!(table.wanted(), [None; 4]);
        table.set_control(0x8000);
        table.write(28, &[1]);
        assert_eq!(table.wanted(), [None; 4]);
    }

    #[test]
    fn what_is_written_reads_back_and_beyond_the_end_is_nothing() {
        let mut table = written();
        let mut entry = [0xaa; 16];
        table.read(16, &mut entry);
        assert_eq!(entry[..4], 0xfee0_0000u32.to_le_bytes());
        assert_eq!(entry[8], 0x31);
        table.write(64, &[1, 2, 3, 4]);
        table.read(64, &mut entry);
        assert_eq!(entry, [0; 16]);
    }

    #[test]
    fn a_saved_table_comes_back_the_same() {
        let mut table = written();
        table.set_control(0x8000);
        assert_eq!(Table::restore(4, &table.save()), Ok(table));
    }

    #[test]
    fn a_state_of_another_table_is_refused() {
        let mut state = written().save();
        assert_eq!(
            Table::restore(5, &state),
            Err(Error::Vectors { saved: 4, here: 5 })
        );
        state.control = 1;
        assert_eq!(
            Table::restore(4, &state),
            Err(Error::Reserved("message control"))
        );
        state.control = 0;
        state.entries[2].control = 2;
        assert_eq!(
            Table::restore(4, &state),
            Err(Error::Reserved("table entry"))
        );
    }
}
