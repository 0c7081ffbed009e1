// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM: one shared memfd, mapped where [`layout`] puts it.
//!
//! Whoever copies RAM (migration, fingerprints, snapshots) reads it through the mapping where its pages are there, which is as fast as
//! memory is, and through the file where they are not: `pread` of a page that was never touched reads zeros without
//! allocating it, so that looking at RAM does not grow it. It is written through the file, which allocates a page without clearing it first.
//! What the guest or a VF writes meanwhile may be seen torn; the last pass runs when both stand still.
#![allow(unsafe_code)] // memfd_create and lseek have no safe wrappers, and the mapping is given out as addresses.

pub mod layout;
mod mapped;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

pub use self::layout::{HIGH_END, LOW_END, Layout, RAM_MAX, RAM_MIN, Region};

/// Granularity of dirty tracking and of zero detection, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest RAM could not be had or reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size asked for is not usable.
    #[error("Memory size {0:#x} is not a multiple of 4 KiB from 4 MiB to 31 GiB")]
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
    /// Freeing pages of the memfd.
    #[error("Guest memory at {gpa:#x} could not be given up")]
    Discard {
        /// First byte.
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
    layout: Layout,
}

impl GuestRam {
    /// Takes `size` bytes of zeroed RAM; pages are allocated as they are touched.
    ///
    /// # Errors
    /// [`Error::Size`] for a size out of bounds, [`Error::Create`] when the system refuses.
    pub fn new(size: u64) -> Result<Self, Error> {
        let layout = Layout::new(size)?;
        let create = |what| move |source| Error::Create { size, what, source };
        // SAFETY: the name is a C string with static lifetime; no other memory is involved.
        let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(create("memfd_create")(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just created and nobody else has it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(size).map_err(create("ftruncate"))?;
        let mut ranges = Vec::new();
        for region in layout.regions() {
            let shared = file.try_clone().map_err(create("dup"))?;
            let length = usize::try_from(region.size).map_err(|_| Error::Size(size))?;
            let backing = FileOffset::new(shared, region.offset);
            ranges.push((GuestAddress(region.gpa), length, Some(backing)));
        }
        let mmap = GuestMemoryMmap::from_ranges_with_files(ranges)
            .map_err(|e| create("mmap")(io::Error::other(e)))?;
        Ok(Self { mmap, file, layout })
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layout.size()
    }

    /// Where it lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The mapping, for loaders and device models.
    #[must_use]
    pub fn mmap(&self) -> &GuestMemoryMmap {
        &self.mmap
    }

    /// Where a guest physical address is mapped in this process, up to the end of its region.
    ///
    /// # Errors
    /// [`Error::Range`] when no RAM is there.
    pub fn host_address(&self, gpa: u64) -> Result<*mut u8, Error> {
        let region = self.layout.find(gpa, 1)?;
        let mapped = self
            .mmap
            .find_region(GuestAddress(region.gpa))
            .expect("every region is mapped");
        debug_assert_eq!(mapped.len(), region.size);
        #[allow(clippy::cast_possible_truncation)] // an offset in a mapping
        Ok(mapped.as_ptr().wrapping_add((gpa - region.gpa) as usize))
    }

    /// Checks that a range lies in RAM, in one piece of it.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn check(&self, gpa: u64, length: u64) -> Result<(), Error> {
        self.layout.find(gpa, length).map(|_| ())
    }

    /// Reads RAM; untouched pages read as zeros and stay untouched.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Io`].
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let region = self.layout.find(gpa, buffer.len() as u64)?;
        let (mut at, mut rest) = (gpa, buffer);
        let mut pages = [false; mapped::WINDOW];
        while !rest.is_empty() {
            let there = self.look(at, rest.len() as u64, &mut pages)?;
            let run = there.run as u64 * PAGE_SIZE - at % PAGE_SIZE;
            let length = usize::try_from(run).unwrap_or(rest.len()).min(rest.len());
            let (piece, after) = rest.split_at_mut(length);
            if there.first {
                self.read_there(at, piece)?;
            } else {
                let read = self.file.read_exact_at(piece, region.offset_of(at));
                read.map_err(|source| Error::Io { gpa: at, source })?;
            }
            at += length as u64;
            rest = after;
        }
        Ok(())
    }

    /// Reads RAM that [`GuestRam::next_touched`] has named. The same as [`GuestRam::read`], without asking again whether it is
    /// there: what is not would be allocated.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn read_there(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.check(gpa, buffer.len() as u64)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let host = self.host_address(gpa)?;
        // SAFETY: all of the range lies in one region, which stays mapped as long as `self`; the file is never made shorter.
        unsafe { mapped::copy_out(host, buffer) };
        Ok(())
    }

    /// Writes RAM.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Io`].
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
        let region = self.layout.find(gpa, bytes.len() as u64)?;
        self.file
            .write_all_at(bytes, region.offset_of(gpa))
            .map_err(|source| Error::Io { gpa, source })
    }

    /// The first part of `range` that may hold anything but zeros, of at most 2 MiB; none when all of it is a hole. Costs the same however
    /// much memory follows.
    ///
    /// # Errors
    /// [`Error::Range`] for a range that is not RAM, [`Error::Io`].
    pub fn next_touched(&self, range: Range<u64>) -> Result<Option<Range<u64>>, Error> {
        let (gpa, length) = (range.start, range.end.saturating_sub(range.start));
        let region = self.layout.find(gpa, length)?;
        // Also what is swapped out is data to this call.
        let Some(data) = self.next_data(gpa, region.offset_of(gpa))? else {
            return Ok(None);
        };
        let start = data - region.offset + region.gpa;
        if start >= range.end {
            return Ok(None);
        }
        let mut pages = [false; mapped::WINDOW];
        let there = self.look(start, range.end - start, &mut pages)?;
        let pages = if there.first { there.run as u64 } else { 1 };
        let end = start - start % PAGE_SIZE + pages * PAGE_SIZE;
        Ok(Some(start..end.min(range.end)))
    }

    /// Whether the page of `gpa` is there, and how many that follow it are as it is.
    fn look(
        &self,
        gpa: u64,
        length: u64,
        pages: &mut [bool; mapped::WINDOW],
    ) -> Result<There, Error> {
        let first = gpa - gpa % PAGE_SIZE;
        let count = (gpa + length - first).div_ceil(PAGE_SIZE);
        let count = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(pages.len());
        let pages = &mut pages[..count];
        let host = self.host_address(first)?;
        // SAFETY: regions are made of whole pages, so all of those that the range touches are mapped; so is their first byte aligned.
        unsafe { mapped::resident(host, pages) }.map_err(|source| Error::Io { gpa, source })?;
        Ok(There {
            first: pages.first().copied().unwrap_or(false),
            run: mapped::run(pages),
        })
    }

    /// Offset of the first data in the file at or after `offset`.
    fn next_data(&self, gpa: u64, offset: u64) -> Result<Option<u64>, Error> {
        let offset = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
        // SAFETY: a call on a descriptor of ours; its position is used by nobody, since all I/O names its offset.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), offset, libc::SEEK_DATA) };
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
        const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        self.check(gpa, length)?;
        let mut page = [0; PAGE_SIZE as usize];
        let mut at = gpa;
        while let Some(touched) = self.next_touched(at..gpa + length)? {
            at = touched.start;
            while at < touched.end {
                let step = (touched.end - at).min(PAGE_SIZE - at % PAGE_SIZE);
                #[allow(clippy::cast_possible_truncation)] // at most a page
                let (page, zeros) = (&mut page[..step as usize], &ZEROS[..step as usize]);
                self.read_there(at, page)?;
                if !is_zero(page) {
                    self.write(at, zeros)?;
                }
                at += step;
            }
        }
        Ok(())
    }

    /// Gives whole pages back to the host: they read as zeros from now on. No device may have them mapped for DMA, since a page that is
    /// pinned would part from the file.
    ///
    /// # Errors
    /// [`Error::Range`] or [`Error::Discard`].
    pub fn discard(&self, gpa: u64, length: u64) -> Result<(), Error> {
        let region = self.layout.find(gpa, length)?;
        let off_t = |value| libc::off_t::try_from(value).unwrap_or(libc::off_t::MAX);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (fd, offset) = (self.file.as_raw_fd(), off_t(region.offset_of(gpa)));
        // SAFETY: a call on a descriptor of ours; mappings of the range stay valid and read as zeros.
        if unsafe { libc::fallocate(fd, mode, offset, off_t(length)) } == 0 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        Err(Error::Discard { gpa, source })
    }
}

/// What [`GuestRam::look`] has seen.
struct There {
    first: bool,
    /// Pages, the first included.
    run: usize,
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Eight bytes at a time is what the compiler turns into vector code.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|w| u64::from_ne_bytes(*w) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests;
