// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An I/O address space: what a VF's DMA reaches, as intervals of IOVA mapped to this process's memory.
//!
//! DMA goes through `process_vm_readv` and `process_vm_writev` on this very process, so memory that the program has unmapped
//! is a fault of the VF, not a crash of the program.

// Unsafe: raw system calls with addresses of the program.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lock::Lock;
use super::sys::{self, call};
use crate::vf::{Dma, Errno};

/// Smallest unit of a mapping.
pub const PAGE: u64 = 4096;
/// IOVA ranges (first, last) that can be mapped: 48 bits without the window of the interrupt controllers.
pub const RANGES: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 48) - 1)];
/// Most mappings of a type1 container (its module parameter dma_entry_limit).
pub const MAPPING_LIMIT: usize = 65535;

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Bytes.
    pub len: u64,
    /// Address in this process.
    pub address: u64,
    /// DMA may read.
    pub read: bool,
    /// DMA may write.
    pub write: bool,
}

/// An I/O address space of this process.
#[derive(Debug, Default)]
pub struct Ioas {
    mappings: Lock<BTreeMap<u64, Mapping>>,
    attached: AtomicU32,
}

/// Whether `[iova, iova + len)` can be mapped at all.
pub fn in_ranges(iova: u64, len: u64) -> bool {
    let last = iova.checked_add(len - 1);
    last.is_some_and(|last| {
        RANGES
            .iter()
            .any(|&(first, end)| first <= iova && last <= end)
    })
}

/// Whether all of `[address, address + len)` is mapped in this process.
pub fn is_mapped(address: u64, len: u64) -> bool {
    const CHUNK: u64 = 64 << 20;
    let mut residency = vec![0u8; (CHUNK / PAGE) as usize];
    let mut done = 0;
    while done < len {
        let part = CHUNK.min(len - done);
        if call!(
            libc::SYS_mincore,
            address + done,
            part,
            residency.as_mut_ptr()
        )
        .is_err()
        {
            return false;
        }
        done += part;
    }
    true
}

impl Ioas {
    /// Adds a mapping.
    ///
    /// # Errors
    /// `EEXIST` when it overlaps another one, `ENOSPC` when there are too many.
    pub fn map(&self, iova: u64, mapping: Mapping) -> Result<(), Errno> {
        let mut mappings = self.mappings.lock();
        if overlapping(&mappings, iova, mapping.len).next().is_some() {
            return Err(Errno::EEXIST);
        }
        if mappings.len() >= MAPPING_LIMIT {
            return Err(Errno::ENOSPC);
        }
        mappings.insert(iova, mapping);
        Ok(())
    }

    /// Removes the mappings that lie wholly in the range and answers their bytes.
    ///
    /// # Errors
    /// `EINVAL` when the range cuts through a mapping; nothing is removed then.
    pub fn unmap(&self, iova: u64, len: u64) -> Result<u64, Errno> {
        let mut mappings = self.mappings.lock();
        let hit: Vec<_> = overlapping(&mappings, iova, len)
            .map(|(&start, m)| (start, m.len))
            .collect();
        let last = iova.saturating_add(len - 1);
        if hit
            .iter()
            .any(|&(start, size)| start < iova || start + (size - 1) > last)
        {
            return Err(Errno::EINVAL);
        }
        Ok(hit
            .iter()
            .filter_map(|(start, _)| mappings.remove(start))
            .map(|m| m.len)
            .sum())
    }

    /// Removes everything and answers its bytes.
    pub fn unmap_all(&self) -> u64 {
        std::mem::take(&mut *self.mappings.lock())
            .values()
            .map(|m| m.len)
            .sum()
    }

    /// The mapping that is exactly this range.
    pub fn find(&self, iova: u64, len: u64) -> Option<Mapping> {
        self.mappings
            .lock()
            .get(&iova)
            .copied()
            .filter(|m| m.len == len)
    }

    /// Mappings that touch the range, with their IOVA.
    pub fn overlaps(&self, iova: u64, len: u64) -> Vec<(u64, Mapping)> {
        overlapping(&self.mappings.lock(), iova, len)
            .map(|(&i, &m)| (i, m))
            .collect()
    }

    /// The lowest free IOVA for `len` bytes.
    pub fn allocate(&self, len: u64) -> Option<u64> {
        let mappings = self.mappings.lock();
        RANGES.iter().find_map(|&(first, last)| {
            // IOVA 0 is left out, so that a device's null pointer faults.
            let mut at = first.max(PAGE);
            while at.checked_add(len - 1)? <= last {
                match overlapping(&mappings, at, len).last() {
                    None => return Some(at),
                    Some((start, mapping)) => at = start + mapping.len,
                }
            }
            None
        })
    }

    /// All bytes mapped.
    pub fn total(&self) -> u64 {
        self.mappings.lock().values().map(|m| m.len).sum()
    }

    /// Number of mappings.
    pub fn len(&self) -> usize {
        self.mappings.lock().len()
    }

    /// A device begins to use it; answers whether it is the first.
    pub fn attach(&self) -> bool {
        self.attached.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// A device stops using it.
    pub fn detach(&self) {
        self.attached.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a device uses it.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed) != 0
    }

    /// Splits `[iova, iova + len)` at the borders of mappings and does `each(address, offset, len)` for the parts, with the
    /// address space held, so that an unmap waits for DMA in flight.
    fn walk(
        &self,
        iova: u64,
        len: u64,
        allowed: fn(&Mapping) -> bool,
        mut each: impl FnMut(u64, usize, usize) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mappings = self.mappings.lock();
        let mut done = 0;
        while done < len {
            let at = iova.checked_add(done).ok_or(Errno::EFAULT)?;
            let (&start, mapping) = mappings.range(..=at).next_back().ok_or(Errno::EFAULT)?;
            let offset = at - start;
            if offset >= mapping.len || !allowed(mapping) {
                return Err(Errno::EFAULT);
            }
            let part = (mapping.len - offset).min(len - done);
            each(mapping.address + offset, done as usize, part as usize)?;
            done += part;
        }
        Ok(())
    }
}

/// Mappings that touch `[iova, iova + len)`, in order.
fn overlapping(
    mappings: &BTreeMap<u64, Mapping>,
    iova: u64,
    len: u64,
) -> impl Iterator<Item = (&u64, &Mapping)> {
    let last = iova.saturating_add(len - 1);
    let before = mappings
        .range(..iova)
        .next_back()
        .filter(|(start, m)| *start + (m.len - 1) >= iova);
    before.into_iter().chain(mappings.range(iova..=last))
}

/// Copies between `local` and `remote` in this process by `number`, process_vm_readv or process_vm_writev.
fn transfer(number: i64, local: *mut u8, remote: u64, len: usize) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: local.cast(),
        iov_len: len,
    };
    let remote = libc::iovec {
        iov_base: remote as *mut _,
        iov_len: len,
    };
    let moved = call!(
        number,
        sys::pid(),
        &raw const local,
        1,
        &raw const remote,
        1,
        0
    )?;
    if moved as usize == len {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

impl Dma for Ioas {
    fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.walk(
            iova,
            buf.len() as u64,
            |m| m.read,
            |address, at, len| {
                transfer(
                    libc::SYS_process_vm_readv,
                    buf[at..at + len].as_mut_ptr(),
                    address,
                    len,
                )
            },
        )
    }

    fn write(&self, iova: u64, buf: &[u8]) -> Result<(), Errno> {
        self.walk(
            iova,
            buf.len() as u64,
            |m| m.write,
            |address, at, len| {
                transfer(
                    libc::SYS_process_vm_writev,
                    buf[at..at + len].as_ptr().cast_mut(),
                    address,
                    len,
                )
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(len: u64) -> Mapping {
        Mapping {
            len,
            address: 0x1000,
            read: true,
            write: true,
        }
    }

    #[test]
    fn overlaps_are_refused_and_neighbours_are_not() {
        let ioas = Ioas::default();
        ioas.map(0x4000, mapping(0x2000))
            .expect("the first mapping");
        for (iova, len) in [
            (0x4000, 0x1000),
            (0x3000, 0x2000),
            (0x5000, 0x1000),
            (0x0000, 0x10000),
        ] {
            assert_eq!(
                ioas.map(iova, mapping(len)),
                Err(Errno::EEXIST),
                "{iova:#x}+{len:#x}"
            );
        }
        ioas.map(0x3000, mapping(0x1000)).expect("just below");
        ioas.map(0x6000, mapping(0x1000)).expect("just above");
    }

    #[test]
    fn an_unmap_takes_whole_mappings_or_nothing() {
        let ioas = Ioas::default();
        ioas.map(0x4000, mapping(0x2000)).expect("map");
        ioas.map(0x8000, mapping(0x1000)).expect("map");
        assert_eq!(ioas.unmap(0x5000, 0x1000), Err(Errno::EINVAL));
        assert_eq!(ioas.unmap(0x4000, 0x1000), Err(Errno::EINVAL));
        assert_eq!(ioas.unmap(0x0, 0x2000), Ok(0));
        assert_eq!(ioas.unmap(0x0, 0x10000), Ok(0x3000));
    }

    #[test]
    fn dma_goes_across_mappings_and_stops_at_what_is_not_mapped_or_not_allowed() {
        let memory = vec![7u8; 0x2000];
        let base = memory.as_ptr() as u64;
        let ioas = Ioas::default();
        ioas.map(
            0x10000,
            Mapping {
                len: 0x1000,
                address: base,
                read: true,
                write: false,
            },
        )
        .expect("map");
        ioas.map(
            0x11000,
            Mapping {
                len: 0x1000,
                address: base + 0x1000,
                read: true,
                write: true,
            },
        )
        .expect("map");
        let mut buf = [0u8; 16];
        ioas.read(0x10ff8, &mut buf).expect("both are mapped");
        assert_eq!(buf, [7; 16]);
        assert_eq!(ioas.read(0x11ff8, &mut buf), Err(Errno::EFAULT));
        assert_eq!(ioas.write(0x10000, &buf), Err(Errno::EFAULT));
        ioas.write(0x11000, &[9; 16]).expect("writable");
        // What DMA wrote is not seen through `memory` by the compiler; read it as DMA does.
        ioas.read(0x11000, &mut buf).expect("mapped");
        assert_eq!(buf, [9; 16]);
    }

    #[test]
    fn memory_that_the_program_does_not_have_is_a_fault() {
        let ioas = Ioas::default();
        ioas.map(
            0,
            Mapping {
                len: 0x1000,
                address: 0x1000,
                read: true,
                write: true,
            },
        )
        .expect("map");
        assert_eq!(ioas.read(0, &mut [0; 4]), Err(Errno::EFAULT));
        assert!(!is_mapped(0x1000, 0x1000));
    }

    #[test]
    fn the_interrupt_window_is_no_iova() {
        assert!(in_ranges(0, 0x1000));
        assert!(!in_ranges(0xfedf_f000, 0x2000));
        assert!(!in_ranges(0xfee0_0000, 0x1000));
        assert!(in_ranges(0x1_0000_0000, 0x1000));
        assert!(!in_ranges(1 << 48, 0x1000));
    }
}
