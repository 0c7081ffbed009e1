// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page tables of an address space: their leaves and their dirty bits, over all of its mappings.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Ioas, PageTable};
use crate::vf::Errno;

impl Ioas {
    /// IOMMU_OPTION_HUGE_PAGES: whether leaves of page tables are single pages.
    pub fn has_small_pages(&self) -> bool {
        self.small_pages.load(Ordering::Relaxed)
    }

    /// Sets it.
    ///
    /// # Errors
    /// `EINVAL` when large leaves may be in use already.
    pub fn set_small_pages(&self, small: bool) -> Result<(), Errno> {
        let mappings = self.mappings.lock();
        if small && !self.has_small_pages() && self.is_attached() && !mappings.is_empty() {
            return Err(Errno::EINVAL);
        }
        self.small_pages.store(small, Ordering::Relaxed);
        Ok(())
    }

    /// Adds a page table with dirty bits.
    pub fn new_table(&self) -> Arc<PageTable> {
        let table = Arc::new(PageTable::default());
        let mut tables = self.tables.lock();
        tables.retain(|t| t.strong_count() != 0);
        tables.push(Arc::downgrade(&table));
        table
    }

    /// Switches the tracking of a page table of this address space.
    pub fn set_tracking(&self, table: &PageTable, on: bool) {
        let _mappings = self.mappings.lock();
        table.set_tracking(on);
    }

    /// Tells the dirty pages of the bytes from `first` to `last` in `table`, in order, and clears them if wanted.
    ///
    /// # Errors
    /// `EINVAL` when a byte of them is not mapped; the bits before it have been told.
    pub fn read_dirty(
        &self,
        table: &PageTable,
        (first, last): (u64, u64),
        clear: bool,
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), Errno> {
        let mappings = self.mappings.lock();
        let mut at = first;
        loop {
            let (&start, mapping) = mappings.range(..=at).next_back().ok_or(Errno::EINVAL)?;
            let end = start + (mapping.len - 1);
            if end < at {
                return Err(Errno::EINVAL);
            }
            let end = end.min(last);
            table.each(at, end, &mut each);
            if clear {
                table.clear(at, end);
            }
            if end == last {
                return Ok(());
            }
            at = end + 1;
        }
    }
}
