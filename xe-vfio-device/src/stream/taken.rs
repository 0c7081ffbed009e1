// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the receiver of a data fd says before its receipt: how far it has read, and that it has read all. Layout in docs/stream-format.md.

use std::io::{self, Read, Write};

use super::crc::crc64;
use super::frame::{array, decode_by_kind, encode_by_kind};
use super::receipt::{self, Receipt, ReceiptError, expect, malformed};
use crate::xe::ByKind;

/// First bytes of such a word.
pub const MAGIC: [u8; 8] = *b"\x89XEVT\r\n\x1a";
/// Bytes of it.
pub const TAKEN_SIZE: usize = 128;

/// How far the receiver of a data fd is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Whether it has read to the end, found it complete, and closed the data fd.
    pub all: bool,
    /// Bytes of state read so far.
    pub bytes: u64,
    /// Packets and bytes by kind as its parser has counted them so far.
    pub by_kind: ByKind,
}

impl Taken {
    /// The word's bytes.
    pub fn encode(&self) -> [u8; TAKEN_SIZE] {
        let mut bytes = [0; TAKEN_SIZE];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&receipt::RECEIPT_VERSION.to_le_bytes());
        let status: u16 = if self.all { 2 } else { 1 };
        bytes[10..12].copy_from_slice(&status.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        encode_by_kind(&self.by_kind, &mut bytes[24..120]);
        let checksum = crc64(&bytes[..120]);
        bytes[120..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a word.
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`].
    pub fn decode(bytes: &[u8; TAKEN_SIZE]) -> Result<Self, ReceiptError> {
        let word = |at| u64::from_le_bytes(array(bytes, at));
        let half = |at| u64::from(u16::from_le_bytes(array(bytes, at)));
        expect(
            "magic",
            u64::from_be_bytes(array(bytes, 0)),
            u64::from_be_bytes(MAGIC),
        )?;
        expect("version", half(8), receipt::RECEIPT_VERSION.into())?;
        expect("checksum", word(120), crc64(&bytes[..120]))?;
        let all = match half(10) {
            1 => false,
            2 => true,
            status => return Err(malformed("status", status, 2)),
        };
        expect("reserved", u32::from_le_bytes(array(bytes, 12)).into(), 0)?;
        Ok(Self {
            all,
            bytes: word(16),
            by_kind: decode_by_kind(&array(bytes, 24)),
        })
    }

    /// Sends the word.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn write(&self, inner: &mut impl Write) -> io::Result<()> {
        inner.write_all(&self.encode())?;
        inner.flush()
    }
}

/// What the receiver of a data fd has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// How far it is.
    Taken(Taken),
    /// How it has ended.
    Receipt(Receipt),
}

impl Answer {
    /// Reads the next of them.
    ///
    /// # Errors
    /// [`ReceiptError`]; whether the destination has loaded is then not known.
    pub fn read(inner: &mut impl Read) -> Result<Self, ReceiptError> {
        let mut magic = [0; 8];
        let lost = |error| ReceiptError::Io("received", error);
        inner.read_exact(&mut magic).map_err(lost)?;
        if magic != MAGIC {
            return Receipt::read(&mut (&magic[..]).chain(inner)).map(Self::Receipt);
        }
        let mut bytes = [0; TAKEN_SIZE];
        bytes[..8].copy_from_slice(&magic);
        inner.read_exact(&mut bytes[8..]).map_err(lost)?;
        Taken::decode(&bytes).map(Self::Taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::VfOutcome;
    use crate::xe::{PacketType, Tally};

    fn taken(all: bool) -> Taken {
        let mut by_kind = ByKind::default();
        by_kind.set(
            PacketType::Vram,
            Tally {
                packets: 3,
                bytes: 1 << 33,
            },
        );
        by_kind.set(
            PacketType::Descriptor,
            Tally {
                packets: 1,
                bytes: 16,
            },
        );
        Taken {
            all,
            bytes: 77,
            by_kind,
        }
    }

    #[test]
    fn words_and_the_receipt_come_one_after_the_other() {
        let receipts = [
            Receipt::Loaded,
            Receipt::Failed {
                vf: VfOutcome::Reset,
                reason: "no room".to_owned(),
            },
        ];
        for receipt in receipts {
            let mut sent = Vec::new();
            taken(false).write(&mut sent).unwrap();
            taken(true).write(&mut sent).unwrap();
            receipt.write(&mut sent).unwrap();
            let mut from = &sent[..];
            assert_eq!(
                Answer::read(&mut from).unwrap(),
                Answer::Taken(taken(false))
            );
            assert_eq!(Answer::read(&mut from).unwrap(), Answer::Taken(taken(true)));
            assert_eq!(Answer::read(&mut from).unwrap(), Answer::Receipt(receipt));
            assert!(matches!(Answer::read(&mut from), Err(ReceiptError::Io(..))));
        }
    }

    #[test]
    fn a_word_with_any_bit_altered_is_refused() {
        let good = taken(true).encode();
        assert_eq!(Taken::decode(&good).unwrap(), taken(true));
        for bit in 0..8 * TAKEN_SIZE {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Taken::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_status_that_is_none_is_refused() {
        for (at, value) in [(10, 3), (12, 1)] {
            let mut bytes = taken(true).encode();
            bytes[at] = value;
            let checksum = crc64(&bytes[..120]);
            bytes[120..].copy_from_slice(&checksum.to_le_bytes());
            assert!(matches!(
                Taken::decode(&bytes),
                Err(ReceiptError::Malformed { .. })
            ));
        }
    }
}
