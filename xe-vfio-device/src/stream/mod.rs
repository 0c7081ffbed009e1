// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stream of one VF's state, on a connection or in a file; docs/stream-format.md has it byte by byte.
//!
//! A [`Writer`] sends an opening with the [`Manifest`], frames, and an end record. On the other side [`Opening::read`]
//! answers the manifest and a [`Reader`], which hands out a frame's payload only after its checksum held. The direction
//! back carries one [`Receipt`].
//!
//! `frame`, `sparse`, `packed`, `codec`, `encode` and `decode` know bytes and no I/O; `outgoing` and `incoming` put frames on `Write` and `Read`, so that a
//! thread can do that and nothing else; `writer` and `reader` join both for those who have one thread. Timeouts belong to
//! whoever owns the connection.

pub mod attempt;
pub mod codec;
pub mod crc;
pub mod decode;
pub mod encode;
pub mod error;
pub mod fault;
pub mod flags;
pub mod frame;
pub mod incoming;
pub mod index;
pub mod manifest;
pub mod outgoing;
pub mod packed;
pub mod reader;
pub mod receipt;
pub mod sparse;
pub mod taken;
pub mod writer;
pub mod zeros;

pub use attempt::{AttemptId, AttemptIdError};
pub use codec::{Codec, Packer, Unpacker};
pub use decode::{Decoder, Event, Limits};
pub use encode::{Encoder, Tried};
pub use error::StreamError;
pub use fault::{DecodeError, DecodeFault, Place};
pub use flags::Flags;
pub use frame::{Compressed, End, Part, Totals};
pub use incoming::{Checked, Checker, Framing, Inlet, Raw};
pub use index::{Index, IndexError};
pub use manifest::{Manifest, ManifestError, Pci};
pub use outgoing::{Frame, Outlet};
pub use packed::{Packed, PackedError};
pub use reader::{Opening, Reader};
pub use receipt::{Receipt, ReceiptError, VfOutcome};
pub use sparse::{Piece, Pieces, SparseError};
pub use taken::{Answer, Taken};
pub use writer::Writer;
