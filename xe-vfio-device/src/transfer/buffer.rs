// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers that begin on a page, so that the kernel copies whole pages into and out of them.

/// Bytes of a transfer's buffer, and of the largest frame it sends.
pub(crate) const BUFFER_SIZE: usize = 1 << 20;
pub(super) const PAGE: usize = 4096;

/// A page-aligned buffer, of [`BUFFER_SIZE`] bytes unless told otherwise.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Buffer {
    /// A buffer whose memory was touched: the first touch of a page costs more than a copy of it, and the guest would wait for it.
    pub(super) fn touched() -> Self {
        Self::touched_of(BUFFER_SIZE)
    }

    /// As [`Buffer::touched`] of another size.
    pub(super) fn touched_of(size: usize) -> Self {
        let mut buffer = Self::of(size);
        for page in buffer.bytes().chunks_mut(PAGE) {
            page[0] = std::hint::black_box(0);
        }
        buffer
    }

    /// A buffer of zeros. As long as it is only read, the pages of a new one are all the kernel's page of zeros, which stays in
    /// the first cache.
    pub(super) fn zeroed() -> Self {
        Self::of(BUFFER_SIZE)
    }

    fn of(size: usize) -> Self {
        let bytes = vec![0; size + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Self { bytes, start, size }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeros_that_begin_on_a_page() {
        let sized = Buffer::touched_of(3 * PAGE);
        assert_eq!(sized.as_slice().len(), 3 * PAGE);
        for mut buffer in [Buffer::zeroed(), Buffer::touched(), sized] {
            assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
            assert!(buffer.bytes().as_ptr().addr().is_multiple_of(PAGE));
        }
        assert_eq!(Buffer::touched().bytes().len(), BUFFER_SIZE);
    }
}
