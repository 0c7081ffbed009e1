// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stream of one VF's state, on a connection or in a file; docs/stream-format.md has it byte by byte.
//!
//! A [`Writer`] sends an opening with the [`Manifest`], frames, and an end record. On the other side [`Opening::read`]
//! answers the manifest and a [`Reader`], which hands out a frame's payload only after its checksum held. The direction
//! back carries one [`Receipt`].
//!
//! `frame`, `encode` and `decode` know bytes and no I/O; `io` wraps them for `Write` and `Read`. Timeouts belong to
//! whoever owns the connection.

pub mod decode;
pub mod encode;
pub mod frame;
pub mod io;
pub mod manifest;
pub mod receipt;

pub use decode::{DecodeError, Decoder, Event, Limits};
pub use encode::Encoder;
pub use frame::{End, Totals};
pub use io::{Opening, Reader, StreamError, Writer};
pub use manifest::{Manifest, ManifestError, Pci};
pub use receipt::{Receipt, ReceiptError, VfOutcome};
