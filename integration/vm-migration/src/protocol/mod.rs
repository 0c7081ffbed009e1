// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The messages between two VMMs.
//!
//! The source sends [`Request`]s, each with `length` bytes of payload behind it, and the destination answers each with a
//! [`Response`]. Further connections open with a [`ConnectionRole`]. All integers are little-endian.

mod memory;
mod message;

pub use memory::{MemoryRange, MemoryRangeTable};
pub use message::{
    CURRENT_PROTOCOL_VERSION, Command, ConnectionRole, Request, Response, Status,
    supported_protocol_versions,
};
