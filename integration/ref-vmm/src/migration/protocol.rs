// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The migration protocol of the main connection as bytes: no sockets, no threads, no VM.
//!
//! Every frame has a header of 32 bytes, little-endian:
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | magic | `XVMM`; a device's stream on the same listener begins otherwise |
//! | 4 | u16 version | [`VERSION`] |
//! | 6 | u16 kind | [`Kind`] |
//! | 8 | u64 argument | guest physical address of `Memory`, else 0 |
//! | 16 | u32 length | payload bytes, bounded per kind |
//! | 20 | u32 | 0 |
//! | 24 | u64 checksum | XXH3-64 of the 24 bytes before and the payload |
//!
//! A receiver checks the length before it takes memory for it, and the checksum before it decodes anything.
//!
//! ```text
//! source                          destination
//! Config             ->
//!                    <-           Ready | Refused            guest runs; VFs are open, reset and mapped
//! Memory*, Zero*     ->                                      guest runs
//!                                                            quiesce, vCPUs paused, VFs stopped
//! Memory*, Zero*     ->           (device streams on connections of their own)
//! State              ->
//!                    <-           Loaded | Failed            holds for the lease
//! Go                 ->                                      the source is committed before its first byte
//!                    <-           Running | Failed
//! ```
//! `Abandon` may come from the source instead of anything before `Go`; the destination drops the attempt.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vm_migration::protocol::{MemoryRange, MemoryRangeTable};
use xxhash_rust::xxh3::Xxh3;

/// Version of the protocol; another one is refused.
pub const VERSION: u16 = 1;
/// First bytes of the main connection.
pub const MAGIC: [u8; 4] = *b"XVMM";
/// Bytes of a frame's header.
pub const HEADER_SIZE: usize = 32;
/// Most bytes of guest memory in a frame.
pub const CHUNK: usize = 1 << 20;
/// Most bytes of configuration, and of small messages.
const MAX_SMALL: u32 = 1 << 20;
/// Most bytes of VM state: some KiB per vCPU and device.
const MAX_STATE: u32 = 4 << 20;
/// Most ranges in a `Zero` frame.
pub const MAX_RANGES: usize = 1 << 12;
const RANGE_SIZE: usize = 16;

/// Bytes that are no frame of this protocol.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Other first bytes.
    #[error("The peer does not speak the migration protocol (frame begins with {0:02x?})")]
    Magic([u8; 4]),
    /// Another version.
    #[error("The peer speaks version {0} of the migration protocol, this VMM version {VERSION}")]
    Version(u16),
    /// A kind that does not exist.
    #[error("Frame of unknown kind {0}")]
    Kind(u16),
    /// A length out of its kind's bounds, or reserved bits.
    #[error("{kind:?} frame with {what} {value:#x}")]
    Field {
        /// Of the frame.
        kind: Kind,
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A payload of this VMM's own that no receiver would take.
    #[error("{kind:?} payload of {length} bytes, but a frame of its kind holds at most {most}")]
    TooLong {
        /// Of the frame.
        kind: Kind,
        /// Bytes of the payload.
        length: usize,
        /// Most bytes of its kind.
        most: u32,
    },
    /// The bytes changed on the way.
    #[error("{0:?} frame with a wrong checksum: the connection alters data")]
    Checksum(Kind),
    /// A payload that is not what its kind says.
    #[error("{kind:?} frame that cannot be decoded")]
    Payload {
        /// Of the frame.
        kind: Kind,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A frame at the wrong time.
    #[error("{got:?} frame where {expected} was due")]
    Order {
        /// What came.
        got: Kind,
        /// What could have come.
        expected: &'static str,
    },
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// [`Config`].
    Config = 1,
    /// [`Ready`].
    Ready = 2,
    /// [`Reason`]: the destination will not take this VM.
    Refused = 3,
    /// Guest memory.
    Memory = 4,
    /// Ranges of guest memory that are zero.
    Zero = 5,
    /// VM state as JSON, decoded by the VM.
    State = 6,
    /// [`Loaded`].
    Loaded = 7,
    /// Nothing: the guest is the destination's.
    Go = 8,
    /// [`Running`].
    Running = 9,
    /// [`Reason`]: the destination has reset its VFs and dropped the attempt.
    Failed = 10,
    /// [`Reason`]: the source goes on by itself.
    Abandon = 11,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Config,
        Self::Ready,
        Self::Refused,
        Self::Memory,
        Self::Zero,
        Self::State,
        Self::Loaded,
        Self::Go,
        Self::Running,
        Self::Failed,
        Self::Abandon,
    ];

    fn max_length(self) -> u32 {
        #[allow(clippy::cast_possible_truncation)] // constants of some MiB
        match self {
            Self::Memory => CHUNK as u32,
            Self::Zero => (MAX_RANGES * RANGE_SIZE) as u32,
            Self::State => MAX_STATE,
            Self::Go => 0,
            _ => MAX_SMALL,
        }
    }
}

impl TryFrom<u16> for Kind {
    type Error = Error;

    fn try_from(value: u16) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|k| *k as u16 == value)
            .ok_or(Error::Kind(value))
    }
}

/// What the destination has to know before it can say yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Bytes of guest RAM.
    pub memory: u64,
    /// The accelerator, whose state no other understands.
    pub accel: crate::accel::Kind,
    /// The VFs in the order of their PCI slots.
    pub devices: Vec<DeviceOffer>,
    /// Whether the VFs' state may come compressed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compression: bool,
}

/// A VF of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceOffer {
    /// Its name; the destination has a VF of that name.
    pub id: String,
    /// The crate's manifest in its own encoding, for its comparison.
    pub manifest: Vec<u8>,
    /// Version of that encoding.
    pub manifest_version: u16,
}

/// The destination is prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// 128-bit id of this attempt in hexadecimal; every device stream has to carry it.
    pub attempt: String,
    /// How long the destination keeps what it has loaded, in milliseconds.
    pub lease_ms: u64,
    /// How long it took to open, reset and map the VFs, in milliseconds.
    pub prepare_ms: f64,
    /// Whether it can read compressed state; said when it was asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compression: bool,
}

/// The destination has everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// From the arrival of the VM state to this message, in milliseconds.
    pub load_ms: f64,
    /// What its VFs' states took.
    #[serde(default)]
    pub devices: Vec<LoadedDevice>,
}

/// What the load of a VF took, for estimates and pictures. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadedDevice {
    /// Its name.
    pub id: String,
    /// How long ago it ended.
    pub ended_ms: f64,
    /// STOP -> RESUMING.
    pub enter_ms: f64,
    /// First byte to end record.
    pub stream_ms: f64,
    /// RESUMING -> STOP.
    pub confirm_ms: f64,
    /// Of `stream_ms`, in calls of the data fd.
    pub device_ms: f64,
    /// Bytes of state.
    pub state_bytes: u64,
}

/// The guest runs at the destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// From the arrival of `Go` to this message, in milliseconds.
    pub resume_ms: f64,
}

/// Why something failed, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// One sentence.
    pub reason: String,
}

/// A frame's header once it has been accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Guest physical address of `Memory`.
    pub argument: u64,
    /// Payload bytes.
    pub length: usize,
    checksum: u64,
    hashed: [u8; 24],
}

/// Encodes the header of a frame.
///
/// # Errors
/// [`Error::TooLong`].
pub fn encode_header(
    kind: Kind,
    argument: u64,
    payload: &[u8],
) -> Result<[u8; HEADER_SIZE], Error> {
    let most = kind.max_length();
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|length| *length <= most)
        .ok_or(Error::TooLong {
            kind,
            length: payload.len(),
            most,
        })?;
    let mut bytes = [0; HEADER_SIZE];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6..8].copy_from_slice(&(kind as u16).to_le_bytes());
    bytes[8..16].copy_from_slice(&argument.to_le_bytes());
    bytes[16..20].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(&bytes[..24], payload);
    bytes[24..].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Decodes a header and checks every field but the checksum, which needs the payload: see [`Header::verify`].
///
/// # Errors
/// [`Error`]; the connection is of no use then.
pub fn decode_header(bytes: &[u8; HEADER_SIZE]) -> Result<Header, Error> {
    let at = |offset: usize| std::array::from_fn(|i| bytes[offset + i]);
    let half = |offset: usize| u16::from_le_bytes([bytes[offset], bytes[offset + 1]]);
    if bytes[..4] != MAGIC {
        return Err(Error::Magic([bytes[0], bytes[1], bytes[2], bytes[3]]));
    }
    if half(4) != VERSION {
        return Err(Error::Version(half(4)));
    }
    let kind = Kind::try_from(half(6))?;
    let argument = u64::from_le_bytes(at(8));
    let word = |offset: usize| {
        u32::from_le_bytes([
            bytes[offset],
            bytes[offset + 1],
            bytes[offset + 2],
            bytes[offset + 3],
        ])
    };
    let (length, reserved) = (word(16), word(20));
    if reserved != 0 {
        return Err(Error::Field {
            kind,
            what: "reserved bits",
            value: reserved.into(),
        });
    }
    if length > kind.max_length() {
        return Err(Error::Field {
            kind,
            what: "length",
            value: length.into(),
        });
    }
    if argument != 0 && kind != Kind::Memory {
        return Err(Error::Field {
            kind,
            what: "argument",
            value: argument,
        });
    }
    let checksum = u64::from_le_bytes(at(24));
    Ok(Header {
        kind,
        argument,
        length: length as usize,
        checksum,
        hashed: std::array::from_fn(|i| bytes[i]),
    })
}

impl Header {
    /// Checks the payload against the checksum.
    ///
    /// # Errors
    /// [`Error::Checksum`].
    pub fn verify(&self, payload: &[u8]) -> Result<(), Error> {
        let right =
            payload.len() == self.length && checksum(&self.hashed, payload) == self.checksum;
        if right {
            Ok(())
        } else {
            Err(Error::Checksum(self.kind))
        }
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    hash.update(payload);
    hash.digest()
}

/// Decodes a payload that is JSON.
///
/// # Errors
/// [`Error::Payload`] also for fields that this version does not know.
pub fn decode<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(payload).map_err(|source| Error::Payload { kind, source })
}

/// Encodes ranges as the payload of a `Zero` frame.
#[must_use]
pub fn encode_ranges(ranges: &[MemoryRange]) -> Vec<u8> {
    ranges
        .iter()
        .flat_map(|r| [r.gpa.to_le_bytes(), r.length.to_le_bytes()])
        .flatten()
        .collect()
}

/// Decodes the payload of a `Zero` frame; the ranges may lie anywhere.
///
/// # Errors
/// [`Error::Field`] for a payload that ends within a range.
pub fn decode_ranges(payload: &[u8]) -> Result<MemoryRangeTable, Error> {
    let (ranges, rest) = payload.as_chunks::<RANGE_SIZE>();
    if !rest.is_empty() {
        let value = payload.len() as u64;
        return Err(Error::Field {
            kind: Kind::Zero,
            what: "length",
            value,
        });
    }
    let mut table = MemoryRangeTable::default();
    for range in ranges {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| range[at + i]));
        table.push(MemoryRange {
            gpa: word(0),
            length: word(8),
        });
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was() {
        let payload = b"page";
        let header = decode_header(&encode_header(Kind::Memory, 0x1000, payload).unwrap()).unwrap();
        assert_eq!(
            (header.kind, header.argument, header.length),
            (Kind::Memory, 0x1000, 4)
        );
        header.verify(payload).unwrap();
    }

    #[test]
    fn one_altered_bit_anywhere_is_noticed() {
        let payload = *b"some bytes of state";
        let bytes = encode_header(Kind::State, 0, &payload).unwrap();
        for bit in 0..8 * (HEADER_SIZE + payload.len()) {
            let (mut bytes, mut payload) = (bytes, payload);
            match bit / 8 {
                at if at < HEADER_SIZE => bytes[at] ^= 1 << (bit % 8),
                at => payload[at - HEADER_SIZE] ^= 1 << (bit % 8),
            }
            let accepted = decode_header(&bytes).and_then(|header| header.verify(&payload));
            assert!(accepted.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_length_is_refused_before_anybody_takes_memory_for_it() {
        let mut bytes = encode_header(Kind::Memory, 0, &[]).unwrap();
        bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = decode_header(&bytes).unwrap_err();
        assert!(error.to_string().contains("length 0xffffffff"), "{error}");
    }

    #[test]
    fn a_payload_that_no_receiver_would_take_is_not_sent() {
        let most = vec![0; MAX_STATE as usize];
        assert!(encode_header(Kind::State, 0, &most).is_ok());
        let error = encode_header(Kind::Config, 0, &most).unwrap_err();
        assert!(error.to_string().contains("at most 1048576"), "{error}");
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode_header(Kind::Go, 0, &[]).unwrap();
        bytes[4] = 9;
        assert!(
            decode_header(&bytes)
                .unwrap_err()
                .to_string()
                .contains("version 9")
        );
    }

    #[test]
    fn every_kind_has_its_number_and_no_other_number_a_kind() {
        for number in 0..=u16::MAX {
            match Kind::try_from(number) {
                Ok(kind) => assert_eq!(kind as u16, number),
                Err(_) => assert!(number == 0 || number > 11, "{number}"),
            }
        }
    }

    #[test]
    fn ranges_come_back_and_half_a_range_is_refused() {
        let ranges = [
            MemoryRange {
                gpa: 0x1000,
                length: 0x3000,
            },
            MemoryRange {
                gpa: 1 << 33,
                length: 4,
            },
        ];
        let bytes = encode_ranges(&ranges);
        assert_eq!(decode_ranges(&bytes).unwrap().regions(), ranges);
        assert!(decode_ranges(&bytes[1..]).is_err());
    }

    #[test]
    fn a_field_that_nobody_knows_is_an_error() {
        let known = br#"{"reason":"x"}"#;
        let more = br#"{"reason":"x","more":1}"#;
        assert!(decode::<Reason>(Kind::Failed, known).is_ok());
        assert!(decode::<Reason>(Kind::Failed, more).is_err());
    }
}
