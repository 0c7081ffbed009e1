// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A buffer that begins on a page, so that the kernel copies whole pages into it.

/// Bytes of a transfer's buffer, and of the largest frame it sends.
pub(crate) const BUFFER_SIZE: usize = 1 << 20;
const PAGE: usize = 4096;

/// A page-aligned buffer of [`BUFFER_SIZE`] bytes.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(super) fn new() -> Self {
        let bytes = vec![0; BUFFER_SIZE + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Self { bytes, start }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + BUFFER_SIZE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_a_mebibyte_that_begins_on_a_page() {
        let mut buffer = Buffer::new();
        assert_eq!(buffer.bytes().len(), BUFFER_SIZE);
        assert!(buffer.bytes().as_ptr().addr().is_multiple_of(PAGE));
    }
}
