// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a receiver answers on the connection after a stream: the state is loaded, or why it is not.
//!
//! A sender that gets no receipt knows nothing and must not let its VF go. Layout in docs/stream-format.md.

use std::io::{self, Read, Write};

use thiserror::Error;

use super::crc::Crc64;
use super::encode::bounded;
use super::frame::{REASON_MAX, array};

/// First bytes of a receipt.
pub const MAGIC: [u8; 8] = *b"\x89XEVR\r\n\x1a";
/// The receipt's own version: a refusal can be read by a sender of any format version of streams.
pub const RECEIPT_VERSION: u16 = 1;
const HEAD: usize = 24;

/// What has become of the destination's VF after a failed load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum VfOutcome {
    /// No byte of the stream reached it.
    Untouched = 1,
    /// It was reset and is ready for another stream.
    Reset = 2,
    /// The reset failed too: an administrator has to look at it.
    Lost = 3,
}

impl std::fmt::Display for VfOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Untouched => "the destination's VF was not touched",
            Self::Reset => "the destination's VF was reset",
            Self::Lost => "the destination's VF could not be reset and needs an administrator",
        })
    }
}

/// A receiver's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// The whole stream was written and RESUMING -> STOP has succeeded.
    Loaded,
    /// The state was not loaded.
    Failed {
        /// What has become of the VF.
        vf: VfOutcome,
        /// Why; at most 1024 bytes are sent.
        reason: String,
    },
}

/// A receipt that could not be sent or received.
#[derive(Debug, Error)]
pub enum ReceiptError {
    /// The connection failed.
    #[error(
        "The receipt could not be {0}, so it is not known whether the destination has loaded the state"
    )]
    Io(&'static str, #[source] io::Error),
    /// The bytes are no receipt.
    #[error(
        "The destination answered something that is no receipt: {what} is {found:#x}, expected {expected:#x}"
    )]
    Malformed {
        /// The field.
        what: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: u64,
    },
    /// The reason is no text.
    #[error("The destination's load failed, but its reason is not UTF-8")]
    Reason,
}

impl Receipt {
    /// The receipt's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (status, vf, reason) = match self {
            Self::Loaded => (1u16, 0u16, ""),
            Self::Failed { vf, reason } => (2, *vf as u16, bounded(reason)),
        };
        let mut bytes = Vec::with_capacity(HEAD + 8 + reason.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&RECEIPT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&status.to_le_bytes());
        bytes.extend_from_slice(&vf.to_le_bytes());
        bytes.extend_from_slice(&(reason.len() as u16).to_le_bytes());
        let checksum = checksum(&bytes, reason.as_bytes());
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(reason.as_bytes());
        bytes
    }

    /// Sends the receipt and flushes.
    ///
    /// # Errors
    /// [`ReceiptError::Io`].
    pub fn write(&self, inner: &mut impl Write) -> Result<(), ReceiptError> {
        inner
            .write_all(&self.encode())
            .and_then(|()| inner.flush())
            .map_err(|error| ReceiptError::Io("sent", error))
    }

    /// Reads a receipt, taking no more memory than a reason may have.
    ///
    /// # Errors
    /// [`ReceiptError`]; whether the destination has loaded is then not known.
    pub fn read(inner: &mut impl Read) -> Result<Self, ReceiptError> {
        let lost = |error| ReceiptError::Io("received", error);
        let mut head = [0; HEAD];
        inner.read_exact(&mut head).map_err(lost)?;
        expect(
            "magic",
            u64::from_be_bytes(array(&head, 0)),
            u64::from_be_bytes(MAGIC),
        )?;
        expect(
            "version",
            u16::from_le_bytes(array(&head, 8)).into(),
            RECEIPT_VERSION.into(),
        )?;
        let length = usize::from(u16::from_le_bytes(array(&head, 14)));
        if length > REASON_MAX {
            return Err(malformed("length", length as u64, REASON_MAX as u64));
        }
        let mut reason = vec![0; length];
        inner.read_exact(&mut reason).map_err(lost)?;
        expect(
            "checksum",
            u64::from_le_bytes(array(&head, 16)),
            checksum(&head[..16], &reason),
        )?;
        let vf = u16::from_le_bytes(array(&head, 12));
        match u16::from_le_bytes(array(&head, 10)) {
            1 => {
                expect("state of the loaded VF", vf.into(), 0)?;
                expect("length of the reason", length as u64, 0)?;
                Ok(Self::Loaded)
            }
            2 => {
                let vf = [VfOutcome::Untouched, VfOutcome::Reset, VfOutcome::Lost]
                    .into_iter()
                    .find(|known| *known as u16 == vf)
                    .ok_or_else(|| {
                        malformed("state of the VF", vf.into(), VfOutcome::Lost as u64)
                    })?;
                Ok(Self::Failed {
                    vf,
                    reason: String::from_utf8(reason).map_err(|_| ReceiptError::Reason)?,
                })
            }
            status => Err(malformed("status", status.into(), 2)),
        }
    }
}

fn checksum(head: &[u8], reason: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(head);
    crc.update(reason);
    crc.finish()
}

pub(super) fn expect(what: &'static str, found: u64, expected: u64) -> Result<(), ReceiptError> {
    if found == expected {
        Ok(())
    } else {
        Err(malformed(what, found, expected))
    }
}

pub(super) fn malformed(what: &'static str, found: u64, expected: u64) -> ReceiptError {
    ReceiptError::Malformed {
        what,
        found,
        expected,
    }
}
