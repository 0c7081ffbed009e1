// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The IOMMU has dirty bits: VT-d's second stage and AMD's, through an iommufd page table that was allocated for it.
//!
//! All VFs of a VM that share a page table share its bits, so the log is the page table's: on with the first VF, off with the
//! last. Switching it on clears the bits, which is why a second VF must not do it again while the first one's matter.
//!
//! Bits go with the mapping that they are of. What is found unmapped has lost them and is answered as a whole. Memory that is unmapped and
//! mapped again between two looks is not found: whoever does that has to send it again himself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::read;
use super::ranges::{covers, normal, without};
use super::{DirtyError, GuestRange, Kind, Moment, Strategy};
use crate::uapi::UapiError;

/// The calls on a page table with dirty bits: [`DirtyPageTable`](crate::uapi::DirtyPageTable) has them.
pub trait PageTableLog: Send + Sync {
    /// IOMMU_HWPT_SET_DIRTY_TRACKING. Switching it on clears all bits.
    ///
    /// # Errors
    /// [`UapiError`].
    fn set(&self, on: bool) -> Result<(), UapiError>;

    /// IOMMU_HWPT_GET_DIRTY_BITMAP of mapped memory by pages of 4 KiB, which clears the bits in the page table.
    ///
    /// # Errors
    /// [`UapiError`]; bits before the place of the failure are in `bitmap` and cleared all the same.
    fn take(&self, range: GuestRange, bitmap: &mut [u64]) -> Result<(), UapiError>;
}

/// A page table that VFs share.
pub struct PageTable {
    log: Box<dyn PageTableLog>,
    users: Mutex<usize>,
}

impl PageTable {
    /// Takes a page table that was allocated for dirty tracking; its log is off.
    pub fn new(log: impl PageTableLog + 'static) -> Arc<Self> {
        Arc::new(Self {
            log: Box::new(log),
            users: Mutex::new(0),
        })
    }

    fn users(&self) -> MutexGuard<'_, usize> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A VF behind such a page table.
pub struct Iommu {
    table: Arc<PageTable>,
    started: Option<Vec<GuestRange>>,
    /// What was mapped at the last look.
    last: Vec<GuestRange>,
    unanswered: Vec<GuestRange>,
}

impl Iommu {
    /// A VF that is attached to `table`; its log is off.
    pub fn new(table: Arc<PageTable>) -> Self {
        Self {
            table,
            started: None,
            last: Vec::new(),
            unanswered: Vec::new(),
        }
    }
}

impl Strategy for Iommu {
    fn kind(&self) -> Kind {
        Kind::Iommu
    }

    fn start(&mut self, mapped: &[GuestRange]) -> Result<(), DirtyError> {
        self.stop();
        let memory = normal(mapped)?;
        let mut users = self.table.users();
        if *users == 0 {
            let doing = "started";
            let on = self.table.log.set(true);
            on.map_err(|source| DirtyError::Kernel { doing, source })?;
        }
        *users += 1;
        drop(users);
        self.last.clone_from(&memory);
        self.started = Some(memory);
        Ok(())
    }

    fn dirty(
        &mut self,
        _moment: Moment,
        mapped: &[GuestRange],
    ) -> Result<Vec<GuestRange>, DirtyError> {
        let started = self.started.as_ref().ok_or(DirtyError::NotStarted)?;
        let now = normal(mapped)?;
        covers(started, &now)?;
        without(&self.last, &now, &mut self.unanswered);
        self.last.clone_from(&now);
        read(&now, &mut self.unanswered, |range, bits| {
            self.table.log.take(range, bits)
        })
    }

    fn resumed(&mut self) {}

    fn stop(&mut self) {
        self.unanswered.clear();
        if self.started.take().is_none() {
            return;
        }
        let mut users = self.table.users();
        *users -= 1;
        if *users == 0
            && let Err(error) = self.table.log.set(false)
        {
            tracing::warn!(%error, "the IOMMU goes on to note writes");
        }
    }
}

impl Drop for Iommu {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        bits: Mutex<u64>,
        on: Mutex<Vec<bool>>,
    }

    impl PageTableLog for Arc<Fake> {
        fn set(&self, on: bool) -> Result<(), UapiError> {
            self.on.lock().unwrap().push(on);
            *self.bits.lock().unwrap() = 0;
            Ok(())
        }

        fn take(&self, _range: GuestRange, bitmap: &mut [u64]) -> Result<(), UapiError> {
            bitmap[0] |= std::mem::take(&mut *self.bits.lock().unwrap());
            Ok(())
        }
    }

    const MEMORY: GuestRange = GuestRange {
        gpa: 0,
        length: 64 << 12,
    };

    #[test]
    fn memory_whose_bits_went_with_its_mapping_is_answered_as_a_whole_and_once() {
        let fake = Arc::new(Fake::default());
        let mut log = Iommu::new(PageTable::new(fake));
        log.start(&[MEMORY]).unwrap();
        let page = |first: u64, pages: u64| GuestRange {
            gpa: first << 12,
            length: pages << 12,
        };
        let mapped = [page(0, 16), page(48, 16)];
        let dirty = log.dirty(Moment::Running, &mapped).unwrap();
        assert_eq!(dirty, [page(16, 32)]);
        assert_eq!(log.dirty(Moment::Running, &mapped).unwrap(), []);
        assert_eq!(log.dirty(Moment::Running, &[MEMORY]).unwrap(), []);
        assert_eq!(log.dirty(Moment::Still, &mapped).unwrap(), [page(16, 32)]);
    }

    #[test]
    fn the_second_vf_of_a_page_table_does_not_clear_what_the_first_has_written() {
        let fake = Arc::new(Fake::default());
        let table = PageTable::new(fake.clone());
        let (mut a, mut b) = (Iommu::new(table.clone()), Iommu::new(table));
        a.start(&[MEMORY]).unwrap();
        *fake.bits.lock().unwrap() = 0b110;
        b.start(&[MEMORY]).unwrap();
        let dirty = b.dirty(Moment::Running, &[MEMORY]).unwrap();
        assert_eq!((dirty[0].gpa, dirty[0].length), (4096, 8192));
        a.stop();
        assert_eq!(*fake.on.lock().unwrap(), [true]);
        drop(b);
        assert_eq!(*fake.on.lock().unwrap(), [true, false]);
    }
}
