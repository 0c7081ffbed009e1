// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM: one shared memfd from guest physical address 0.
//!
//! Everything that copies RAM (migration, snapshots) goes through the file, not through the mapping: `pread` of a page
//! that was never touched reads zeros without allocating it, so that looking at RAM does not grow it.
//! What the guest or a VF writes meanwhile may be seen torn; the last pass runs when both stand still.
#![allow(unsafe_code)] // memfd_create has no safe wrapper.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Granularity of dirty tracking and of zero detection, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// First address that is not RAM at any size: BARs and the interrupt controllers live above it.
pub const RAM_LIMIT: u64 = 3 << 30;
/// Smallest RAM that a guest is given, in bytes.
pub const RAM_MIN: u64 = 4 << 20;

/// Why guest RAM could not be had or reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size asked for is not usable.
    #[error("Memory size {0:#x} is not a multiple of 4 KiB from 4 MiB to 3 GiB")]
    Size(u64),
    /// memfd or its mapping.
    #[error("Guest RAM of {size:#x} bytes could not be created: {what}")]
    Create {
        /// Bytes asked for.
        size: u64,
        /// The step that failed.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A range outside RAM, from a peer or a file.
    #[error("Guest memory range {gpa:#x}+{length:#x} lies outside RAM of {size:#x} bytes")]
    Range {
        /// First byte.
        gpa: u64,
        /// Bytes.
        length: u64,
        /// Size of RAM.
        size: u64,
    },
    /// Reading or writing the memfd.
    #[error("Guest memory at {gpa:#x} could not be copied")]
    Io {
        /// First byte of the copy.
        gpa: u64,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The RAM of one guest.
pub struct GuestRam {
    mmap: GuestMemoryMmap,
    file: File,
    size: u64,
}

impl GuestRam {
    /// Takes `size` bytes of zeroed RAM; pages are allocated as they are touched.
    ///
    /// # Errors
    /// [`Error::Size`] for a size out of bounds, [`Error::Create`] when the system refuses.
    pub fn new(size: u64) -> Result<Self, Error> {
        if !size.is_multiple_of(PAGE_SIZE) || !(RAM_MIN..=RAM_LIMIT).contains(&size) {
            return Err(Error::Size(size));
        }
        let create = |what| move |source| Error::Create { size, what, source };
        // SAFETY: the name is a C string with static lifetime; no other memory is involved.
        let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(create("memfd_create")(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just created and nobody else has it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(size).map_err(create("ftruncate"))?;
        let shared = file.try_clone().map_err(create("dup"))?;
        let length = usize::try_from(size).map_err(|_| Error::Size(size))?;
        let ranges = [(GuestAddress(0), length, Some(FileOffset::new(shared, 0)))];
        let mmap = GuestMemoryMmap::from_ranges_with_files(ranges)
            .map_err(|e| create("mmap")(io::Error::other(e)))?;
        Ok(Self { mmap, file, size })
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The mapping, for loaders and device models.
    #[must_use]
    pub fn mmap(&self) -> &GuestMemoryMmap {
        &self.mmap
    }

    /// Where guest physical address 0 is mapped in this process.
    #[must_use]
    pub fn host_address(&self) -> *mut u8 {
        self.mmap
            .iter()
            .next()
            .expect("guest RAM has one region")
            .as_ptr()
    }

    /// Checks that a range lies in RAM.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn check(&self, gpa: u64, length: u64) -> Result<(), Error> {
        match gpa.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::Range {
                gpa,
                length,
                size: self.size,
            }),
        }
    }

    /// Reads RAM; untouched pages read as zeros and stay untouched.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Io`].
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.check(gpa, buffer.len() as u64)?;
        self.file
            .read_exact_at(buffer, gpa)
            .map_err(|source| Error::Io { gpa, source })
    }

    /// Writes RAM.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Io`].
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
        self.check(gpa, bytes.len() as u64)?;
        self.file
            .write_all_at(bytes, gpa)
            .map_err(|source| Error::Io { gpa, source })
    }

    /// The next range at or after `gpa` that holds memory at all; none when the rest was never touched.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_touched(&self, gpa: u64) -> Result<Option<Range<u64>>, Error> {
        let Some(start) = self.seek(gpa, libc::SEEK_DATA)? else {
            return Ok(None);
        };
        let end = self.seek(start, libc::SEEK_HOLE)?.unwrap_or(self.size);
        Ok(Some(start..end))
    }

    /// The first address at or after `gpa` that holds memory at all; none when the rest was never touched. Costs
    /// the same however much memory follows, where [`GuestRam::next_touched`] goes over all of it for its end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn first_touched(&self, gpa: u64) -> Result<Option<u64>, Error> {
        self.seek(gpa, libc::SEEK_DATA)
    }

    fn seek(&self, gpa: u64, whence: libc::c_int) -> Result<Option<u64>, Error> {
        let offset = libc::off_t::try_from(gpa).unwrap_or(libc::off_t::MAX);
        // SAFETY: a call on a descriptor of ours; its position is used by nobody, since all I/O names its offset.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), offset, whence) };
        match u64::try_from(found) {
            Ok(at) => Ok(Some(at)),
            Err(_) => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                source => Err(Error::Io { gpa, source }),
            },
        }
    }

    /// Makes a range read as zeros, touching only what is not zero yet.
    ///
    /// No hole is punched: a page that a device has pinned for DMA would part from the file.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Io`].
    pub fn zero(&self, gpa: u64, length: u64) -> Result<(), Error> {
        self.check(gpa, length)?;
        const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        let mut page = [0; PAGE_SIZE as usize];
        let mut at = gpa;
        while at < gpa + length {
            let step = (gpa + length - at).min(PAGE_SIZE);
            #[allow(clippy::cast_possible_truncation)] // at most a page
            let (page, zeros) = (&mut page[..step as usize], &ZEROS[..step as usize]);
            self.read(at, page)?;
            if !is_zero(page) {
                self.write(at, zeros)?;
            }
            at += step;
        }
        Ok(())
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Eight bytes at a time is what the compiler turns into vector code.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|w| u64::from_ne_bytes(*w) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_would_reach_into_the_bars_is_refused() {
        assert!(matches!(
            GuestRam::new(RAM_LIMIT + PAGE_SIZE),
            Err(Error::Size(_))
        ));
        assert!(matches!(GuestRam::new(RAM_MIN + 1), Err(Error::Size(_))));
        assert!(matches!(GuestRam::new(0), Err(Error::Size(_))));
    }

    #[test]
    fn a_range_from_a_peer_cannot_leave_ram() {
        let ram = GuestRam::new(RAM_MIN).unwrap();
        assert!(ram.write(RAM_MIN - 1, &[1]).is_ok());
        assert!(matches!(
            ram.write(RAM_MIN - 1, &[1, 2]),
            Err(Error::Range { .. })
        ));
        assert!(matches!(ram.zero(u64::MAX, 2), Err(Error::Range { .. })));
    }

    #[test]
    fn zeroing_changes_what_was_written_and_nothing_beside_it() {
        let ram = GuestRam::new(RAM_MIN).unwrap();
        ram.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
        ram.zero(0x1fff, 2).unwrap();
        let mut seen = [9; 4];
        ram.read(0x1ffe, &mut seen).unwrap();
        assert_eq!(seen, [1, 0, 0, 4]);
    }

    #[test]
    fn looking_at_ram_does_not_touch_it() {
        let ram = GuestRam::new(RAM_MIN).unwrap();
        let mut buffer = [0; 0x3000];
        ram.read(0, &mut buffer).unwrap();
        ram.zero(0, 0x3000).unwrap();
        assert_eq!(ram.next_touched(0).unwrap(), None);
        ram.write(0x5800, &[1]).unwrap();
        assert_eq!(ram.next_touched(0).unwrap(), Some(0x5000..0x6000));
        assert_eq!(ram.next_touched(0x6000).unwrap(), None);
    }

    #[test]
    fn one_set_byte_anywhere_is_not_zero() {
        for at in 0..19 {
            let mut bytes = [0; 19];
            assert!(is_zero(&bytes));
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "byte {at}");
        }
    }
}
