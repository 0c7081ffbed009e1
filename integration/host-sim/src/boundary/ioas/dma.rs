// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA through an address space: what a VF is attached to.
//!
//! It goes through `process_vm_readv` and `process_vm_writev` on this very process, so memory that the program has unmapped
//! is a fault of the VF, not a crash of the program.

// Unsafe: raw system calls with addresses of the program.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::{Ioas, PAGE, PageTable};
use crate::boundary::sys::{self, call};
use crate::vf::{Dma, Errno};

/// An address space by one of its page tables.
#[derive(Debug)]
pub struct Domain {
    /// The address space.
    pub space: Arc<Ioas>,
    /// Id of the page table in its iommufd; 0 in a container.
    pub id: u32,
    /// Its dirty bits, when it has them.
    pub table: Option<Arc<PageTable>>,
    /// Bytes behind a leaf of the table where a mapping is large enough.
    pub leaf: u64,
}

impl Domain {
    /// A page table without dirty bits.
    pub fn plain(space: Arc<Ioas>, id: u32) -> Self {
        Self {
            space,
            id,
            table: None,
            leaf: PAGE,
        }
    }

    /// Sets the dirty bits of the leaves that `[iova, iova + len)` of the mapping `[start, end]` touches.
    fn mark(&self, iova: u64, len: u64, (start, end): (u64, u64)) {
        let Some(table) = self.table.as_ref().filter(|t| t.is_tracking()) else {
            return;
        };
        let last = iova + (len - 1);
        if self.leaf == PAGE || self.space.has_small_pages() {
            return table.mark(iova, last);
        }
        let mut at = iova;
        loop {
            let (first, finish) = (at & !(self.leaf - 1), at | (self.leaf - 1));
            if start <= first && finish <= end {
                table.mark(first, finish);
            } else {
                table.mark(at, last.min(finish));
            }
            if finish >= last {
                return;
            }
            at = finish + 1;
        }
    }
}

impl Dma for Domain {
    fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.space.walk(
            iova,
            buf.len() as u64,
            |m| m.read,
            |part| {
                let local = buf[part.at..part.at + part.len].as_mut_ptr();
                transfer(libc::SYS_process_vm_readv, local, part.address, part.len)
            },
        )
    }

    fn write(&self, iova: u64, buf: &[u8]) -> Result<(), Errno> {
        self.space.walk(
            iova,
            buf.len() as u64,
            |m| m.write,
            |part| {
                let local = buf[part.at..part.at + part.len].as_ptr().cast_mut();
                let result = transfer(libc::SYS_process_vm_writev, local, part.address, part.len);
                // Also after a failure, before which some of it may have landed.
                self.mark(iova + part.at as u64, part.len as u64, part.mapping);
                result
            },
        )
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::ioas::Mapping;

    fn domain(maps: &[(u64, u64, u64, bool)], leaf: u64) -> Domain {
        let space = Ioas::default();
        for &(iova, len, address, write) in maps {
            let mapping = Mapping {
                len,
                address,
                read: true,
                write,
            };
            space.map(iova, mapping).expect("map");
        }
        let space = Arc::new(space);
        let table = space.new_table();
        Domain {
            table: Some(table),
            leaf,
            ..Domain::plain(space, 1)
        }
    }

    #[track_caller]
    fn dirty(domain: &Domain, first: u64, last: u64, clear: bool) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        let table = domain.table.as_ref().expect("a table");
        domain
            .space
            .read_dirty(table, (first, last), clear, |a, b| all.push((a, b)))
            .expect("mapped");
        all
    }

    #[test]
    fn dma_goes_across_mappings_and_stops_at_what_is_not_mapped_or_not_allowed() {
        let mut memory = vec![7u8; 0x2000];
        let base = memory.as_mut_ptr() as u64;
        let domain = domain(
            &[
                (0x10000, 0x1000, base, false),
                (0x11000, 0x1000, base + 0x1000, true),
            ],
            PAGE,
        );
        let mut buf = [0u8; 16];
        domain.read(0x10ff8, &mut buf).expect("both are mapped");
        assert_eq!(buf, [7; 16]);
        assert_eq!(domain.read(0x11ff8, &mut buf), Err(Errno::EFAULT));
        assert_eq!(domain.write(0x10000, &buf), Err(Errno::EFAULT));
        domain.write(0x11000, &[9; 16]).expect("writable");
        // What DMA wrote is not seen through `memory` by the compiler; read it as DMA does.
        domain.read(0x11000, &mut buf).expect("mapped");
        assert_eq!(buf, [9; 16]);
    }

    #[test]
    fn memory_that_the_program_does_not_have_is_a_fault() {
        let domain = domain(&[(0, 0x1000, 0x1000, true)], PAGE);
        assert_eq!(domain.read(0, &mut [0; 4]), Err(Errno::EFAULT));
        assert!(!crate::boundary::ioas::is_mapped(0x1000, 0x1000));
    }

    #[test]
    fn writes_set_dirty_bits_that_go_with_their_mapping() {
        let mut memory = vec![0u8; 0x8000];
        let base = memory.as_mut_ptr() as u64;
        let domain = domain(
            &[
                (0x10000, 0x4000, base, true),
                (0x14000, 0x4000, base + 0x4000, true),
            ],
            PAGE,
        );
        let table = domain.table.clone().expect("a table");
        domain.write(0x10000, &[1]).expect("write");
        assert_eq!(dirty(&domain, 0x10000, 0x17fff, true), [], "not tracking");
        domain.space.set_tracking(&table, true);
        domain.write(0x13ffe, &[1; 4]).expect("write");
        domain.read(0x10000, &mut [0; 4]).expect("read");
        // Told mapping by mapping.
        let both = [(0x13000, 0x13fff), (0x14000, 0x14fff)];
        assert_eq!(dirty(&domain, 0x10000, 0x17fff, false), both);
        domain.space.set_tracking(&table, false);
        assert_eq!(dirty(&domain, 0x10000, 0x17fff, false), both, "kept");
        domain.space.unmap(0x10000, 0x4000).expect("unmap");
        assert_eq!(dirty(&domain, 0x14000, 0x17fff, true), [(0x14000, 0x14fff)]);
        assert_eq!(dirty(&domain, 0x14000, 0x17fff, true), []);
        let hole = domain
            .space
            .read_dirty(&table, (0x13000, 0x17fff), true, |_, _| {});
        assert_eq!(hole, Err(Errno::EINVAL));
    }

    #[test]
    fn a_large_leaf_is_dirty_as_a_whole_where_it_fits_its_mapping() {
        let mut memory = vec![0u8; 0x10000];
        let base = memory.as_mut_ptr() as u64;
        let domain = domain(&[(0x1000, 0x9000, base, true)], 0x4000);
        let table = domain.table.clone().expect("a table");
        domain.space.set_tracking(&table, true);
        domain.write(0x2000, &[1]).expect("write");
        domain.write(0x5000, &[1]).expect("write");
        domain.write(0x9000, &[1]).expect("write");
        assert_eq!(
            dirty(&domain, 0x1000, 0x9fff, true),
            [(0x2000, 0x2fff), (0x4000, 0x7fff), (0x9000, 0x9fff)]
        );
    }
}
