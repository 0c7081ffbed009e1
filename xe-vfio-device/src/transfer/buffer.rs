// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers that begin on a page, so that the kernel copies whole pages into and out of them.

/// Bytes of a transfer's buffer, and of the largest frame it sends.
pub(crate) const BUFFER_SIZE: usize = 1 << 20;
pub(super) const PAGE: usize = 4096;

/// A page-aligned buffer of [`BUFFER_SIZE`] bytes.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// A buffer whose memory was touched: the first touch of a page costs more than a copy of it, and the guest would wait for it.
    pub(super) fn touched() -> Self {
        let mut buffer = Self::zeroed();
        for page in buffer.bytes().chunks_mut(PAGE) {
            page[0] = std::hint::black_box(0);
        }
        buffer
    }

    /// A buffer of zeros. As long as it is only read, the pages of a new one are all the kernel's page of zeros, which stays in
    /// the first cache.
    pub(super) fn zeroed() -> Self {
        let bytes = vec![0; BUFFER_SIZE + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Self { bytes, start }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + BUFFER_SIZE]
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + BUFFER_SIZE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_a_mebibyte_of_zeros_that_begins_on_a_page() {
        for mut buffer in [Buffer::zeroed(), Buffer::touched()] {
            assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
            assert_eq!(buffer.bytes().len(), BUFFER_SIZE);
            assert!(buffer.bytes().as_ptr().addr().is_multiple_of(PAGE));
        }
    }
}
