// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A frame as it was received, on its way to whoever checks it.

use super::buffer::Buffer;
use crate::stream::Raw;

/// A frame and the buffer that its payload is in.
pub(super) struct Parcel {
    pub(super) buffer: Buffer,
    /// Where the payload begins in the buffer.
    pub(super) start: usize,
    pub(super) raw: Raw,
    /// The lane that it came in, where there are several.
    pub(super) lane: usize,
    /// The lane has failed with this, which is not in turn.
    pub(super) failed: bool,
}

impl Parcel {
    /// With a buffer as large as the largest frame.
    pub(super) fn new() -> Box<Self> {
        Self::with(Buffer::touched())
    }

    pub(super) fn with(buffer: Buffer) -> Box<Self> {
        Box::new(Self {
            buffer,
            start: 0,
            raw: Raw::new(),
            lane: 0,
            failed: false,
        })
    }

    /// The frame, and memory that begins with its payload.
    pub(super) fn parts(&mut self) -> (&mut Raw, &[u8]) {
        (&mut self.raw, &self.buffer.as_slice()[self.start..])
    }
}
