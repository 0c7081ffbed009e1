// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An I/O address space: what a VF's DMA reaches, as intervals of IOVA mapped to this process's memory.
//!
//! A VF is attached to a [`Domain`], which is an address space by one of its page tables; `dirty` has the bits of those that
//! track what is written.

// Unsafe: raw system calls with addresses of the program.
#![allow(unsafe_code)]

mod dirty;
mod dma;
mod tables;

use std::collections::BTreeMap;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::lock::Lock;
use super::sys::call;
use crate::vf::Errno;

pub use dirty::PageTable;
pub use dma::Domain;

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
    /// Page tables with dirty bits.
    tables: Lock<Vec<Weak<PageTable>>>,
    attached: AtomicU32,
    /// IOMMU_OPTION_HUGE_PAGES is off.
    small_pages: AtomicBool,
}

/// A part of a DMA that lies in one mapping.
struct Part {
    /// Where it is in this process.
    address: u64,
    /// Where it is in the whole.
    at: usize,
    /// Its bytes.
    len: usize,
    /// First and last IOVA of the mapping.
    mapping: (u64, u64),
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
        Ok(self.remove(&mut mappings, hit.into_iter().map(|(start, _)| start)))
    }

    /// As a type1 container of the first version: removes the mappings that begin in the range, whole, unless one from
    /// before reaches into it, and answers their bytes.
    pub fn unmap_v1(&self, iova: u64, len: u64) -> u64 {
        let mut mappings = self.mappings.lock();
        let hit: Vec<_> = overlapping(&mappings, iova, len)
            .map(|(&start, _)| start)
            .collect();
        if hit.first().is_some_and(|&start| start < iova) {
            return 0;
        }
        self.remove(&mut mappings, hit.into_iter())
    }

    /// Removes everything and answers its bytes.
    pub fn unmap_all(&self) -> u64 {
        let mut mappings = self.mappings.lock();
        let all: Vec<_> = mappings.keys().copied().collect();
        self.remove(&mut mappings, all.into_iter())
    }

    /// Removes the mappings at `starts`, and their dirty bits; answers their bytes.
    fn remove(
        &self,
        mappings: &mut BTreeMap<u64, Mapping>,
        starts: impl Iterator<Item = u64>,
    ) -> u64 {
        let tables: Vec<_> = self
            .tables
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut bytes = 0;
        for start in starts {
            let Some(mapping) = mappings.remove(&start) else {
                continue;
            };
            for table in &tables {
                table.clear(start, start + (mapping.len - 1));
            }
            bytes += mapping.len;
        }
        bytes
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

    /// Splits `[iova, iova + len)` at the borders of mappings and does `each` for the parts, with the address space held, so
    /// that an unmap waits for DMA in flight.
    fn walk(
        &self,
        iova: u64,
        len: u64,
        allowed: fn(&Mapping) -> bool,
        mut each: impl FnMut(Part) -> Result<(), Errno>,
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
            each(Part {
                address: mapping.address + offset,
                at: done as usize,
                len: part as usize,
                mapping: (start, start + (mapping.len - 1)),
            })?;
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
    fn the_interrupt_window_is_no_iova() {
        assert!(in_ranges(0, 0x1000));
        assert!(!in_ranges(0xfedf_f000, 0x2000));
        assert!(!in_ranges(0xfee0_0000, 0x1000));
        assert!(in_ranges(0x1_0000_0000, 0x1000));
        assert!(!in_ranges(1 << 48, 0x1000));
    }
}
