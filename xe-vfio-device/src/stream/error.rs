// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a stream could not be sent or received.

use std::io;

use thiserror::Error;

use super::fault::DecodeError;
use super::manifest::ManifestError;
use crate::xe::ByKind;

/// A stream that could not be sent or received. Whatever it is, the stream is over.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The manifest cannot be sent.
    #[error("The device state stream cannot begin")]
    Manifest(#[from] ManifestError),
    /// The connection or file failed.
    #[error("{doing} the device state stream failed at byte {offset}")]
    Io {
        /// "Sending" or "Receiving".
        doing: &'static str,
        /// Byte offset in the stream of the piece that was under way.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The stream is not good.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The sender said why it stopped.
    #[error("The sender stopped after {received} bytes of device state: {reason}")]
    Aborted {
        /// Bytes of state before it.
        received: u64,
        /// The sender's words.
        reason: String,
    },
    /// The stream is used after it ended or failed.
    #[error("The device state stream has ended or failed before: start a new one")]
    Over,
    /// The stream is left before its end record.
    #[error("The device state stream was left before its end record: read it to its end")]
    Unfinished,
    /// The packets that the destination saw are not those that the source saw.
    #[error("The sender accounts for {}, but {} came through: report it, one of the two parsers is wrong", .0.0, .0.1)]
    Account(Box<(ByKind, ByKind)>),
}
