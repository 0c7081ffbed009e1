// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A mapped file whose bytes others change at any time: a VF's BARs.
//!
//! Words are read and written by atomics through the mapping. Bulk data goes through the file (`super::bulk`), or through the mapping where
//! its pages are there from the start.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A file mapped read and write, shared.
#[derive(Debug)]
pub struct Memory {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is a range of addresses that every thread may use; access is by atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `len` bytes of `file`.
    ///
    /// # Errors
    /// As mmap.
    pub fn map(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, len })
    }

    /// First byte of the mapping.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.address
    }

    /// The mapping as a range of addresses.
    #[must_use]
    pub fn as_slice_ptr(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.address, self.len)
    }

    /// Little-endian word at `offset`, a multiple of 4 in the mapping.
    #[must_use]
    pub fn load32(&self, offset: u64) -> u32 {
        u32::from_le(self.word(offset).load(Ordering::Acquire))
    }

    /// Writes a little-endian word at `offset`, a multiple of 4 in the mapping.
    pub fn store32(&self, offset: u64, value: u32) {
        self.word(offset).store(value.to_le(), Ordering::Release);
    }

    /// Little-endian 64-bit word at `offset`, a multiple of 8 in the mapping.
    #[must_use]
    pub fn load64(&self, offset: u64) -> u64 {
        let address = self.at(offset, 8).cast::<AtomicU64>();
        // SAFETY: `at` has checked range and alignment; the mapping lives as long as `self`.
        u64::from_le(unsafe { address.as_ref() }.load(Ordering::Acquire))
    }

    /// Takes the page faults of all of the mapping now. Where that fails they come when they come.
    pub fn touch(&self) {
        // SAFETY: the range is the mapping made by `map`, and its content stays.
        unsafe {
            libc::madvise(
                self.address.as_ptr().cast(),
                self.len,
                libc::MADV_POPULATE_READ,
            )
        };
    }

    /// Fills `buf` from `offset` on. Bytes that another process writes meanwhile may come out old or new.
    ///
    /// # Panics
    /// Outside the mapping.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        let from = self.range(offset, buf.len());
        // SAFETY: `range` has checked the range, which lives as long as `self`; `buf` is ours, so it does not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), buf.as_mut_ptr(), buf.len()) };
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Panics
    /// Outside the mapping.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.range(offset, bytes.len());
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    #[track_caller]
    fn range(&self, offset: u64, size: usize) -> NonNull<u8> {
        let end = usize::try_from(offset)
            .ok()
            .and_then(|at| at.checked_add(size));
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{size} bytes at {offset:#x} are outside the mapping"
        );
        // SAFETY: `offset` lies within the mapping.
        unsafe { self.address.add(offset as usize) }
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        let address = self.at(offset, 4).cast::<AtomicU32>();
        // SAFETY: `at` has checked range and alignment; the mapping lives as long as `self`.
        unsafe { address.as_ref() }
    }

    #[track_caller]
    fn at(&self, offset: u64, size: usize) -> NonNull<u8> {
        let offset = usize::try_from(offset).expect("an offset in an address space");
        assert!(
            offset.is_multiple_of(size) && offset <= self.len - size,
            "offset {offset:#x} is outside the mapping"
        );
        // SAFETY: `offset` lies within the mapping.
        unsafe { self.address.add(offset) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made by `map`; no reference into it outlives `self`.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
    }
}
