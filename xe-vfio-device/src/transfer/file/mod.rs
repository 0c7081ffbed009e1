// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files of device state: written beside their name and past the page cache where that pays, read ahead by several threads where they
//! have an index.

mod ahead;
mod direct;
mod frames;
mod pending;

pub(super) use ahead::Ahead;
pub use frames::FileFrames;
pub use pending::{PendingFile, stream_path};
