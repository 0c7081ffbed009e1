// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptor's payload: key, length, value.
//!
//! Each KLV is a dword `key << 16 | n` and `n` dwords of value. Source: `pf_descriptor_init` in the kernel's
//! drivers/gpu/drm/xe/xe_sriov_packet.c. As the kernel does, unknown keys are skipped: a newer kernel may add some.

use thiserror::Error;

/// Key of the PCI device id.
pub const KEY_DEVICE: u16 = 0xf001;
/// Key of the PCI revision id.
pub const KEY_REVISION: u16 = 0xf002;

/// A payload that is not a list of KLVs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KlvError {
    /// Not a whole number of dwords.
    #[error("The descriptor has {0} bytes of payload, which is no whole number of dwords")]
    Unaligned(usize),
    /// A value that goes beyond the payload.
    #[error("The descriptor's KLV {key:#06x} claims {dwords} dwords, {left} are left")]
    Overrun {
        /// Key of the KLV.
        key: u16,
        /// Dwords that its length claims.
        dwords: usize,
        /// Dwords left in the payload.
        left: usize,
    },
    /// A known key with another length than one dword, or with a value out of range.
    #[error(
        "The descriptor's KLV {key:#06x} has {dwords} dwords with first value {value:#x}; it takes one of at most {most:#x}"
    )]
    Value {
        /// Key of the KLV.
        key: u16,
        /// Dwords it has.
        dwords: usize,
        /// First dword, 0 when there is none.
        value: u32,
        /// Largest value the key may have.
        most: u32,
    },
    /// A known key twice.
    #[error("The descriptor has the KLV {0:#06x} twice")]
    Repeated(u16),
}

/// What a descriptor says about the device that the state is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// PCI device id.
    pub device: Option<u16>,
    /// PCI revision id.
    pub revision: Option<u8>,
}

impl Descriptor {
    /// Decodes a descriptor's payload.
    ///
    /// # Errors
    /// [`KlvError`] when the payload is malformed; an unknown key is no error.
    pub fn decode(payload: &[u8]) -> Result<Self, KlvError> {
        let (dwords, rest) = payload.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(KlvError::Unaligned(payload.len()));
        }
        let mut found = Self::default();
        let mut left = dwords;
        while let [head, tail @ ..] = left {
            let head = u32::from_le_bytes(*head);
            let (key, count) = ((head >> 16) as u16, (head & 0xffff) as usize);
            let Some((value, next)) = tail.split_at_checked(count) else {
                return Err(KlvError::Overrun {
                    key,
                    dwords: count,
                    left: tail.len(),
                });
            };
            match key {
                KEY_DEVICE => set(&mut found.device, key, value, u16::MAX)?,
                KEY_REVISION => set(&mut found.revision, key, value, u8::MAX)?,
                _ => {}
            }
            left = next;
        }
        Ok(found)
    }

    /// The payload that the kernel writes for this descriptor.
    pub fn encode(&self) -> Vec<u8> {
        let device = self.device.map(|id| (KEY_DEVICE, u32::from(id)));
        let revision = self.revision.map(|id| (KEY_REVISION, u32::from(id)));
        [device, revision]
            .into_iter()
            .flatten()
            .flat_map(|(key, value)| [u32::from(key) << 16 | 1, value])
            .flat_map(u32::to_le_bytes)
            .collect()
    }
}

fn set<T>(slot: &mut Option<T>, key: u16, value: &[[u8; 4]], most: T) -> Result<(), KlvError>
where
    T: TryFrom<u32> + Into<u32>,
{
    let first = value.first().map_or(0, |dword| u32::from_le_bytes(*dword));
    match T::try_from(first) {
        Ok(id) if value.len() == 1 => match slot.replace(id) {
            None => Ok(()),
            Some(_) => Err(KlvError::Repeated(key)),
        },
        _ => Err(KlvError::Value {
            key,
            dwords: value.len(),
            value: first,
            most: most.into(),
        }),
    }
}
