// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_IOMMU_DIRTY_PAGES: type1 logs nothing and says that everything is dirty.

use crate::common::*;

#[repr(C)]
struct DmaMap(u32, u32, u64, u64, u64);

/// A container of the given type with VF 2's group, and memory of 1 MiB at its address.
struct Type1 {
    container: i32,
    group: i32,
    memory: u64,
    _host: TestHost,
    _memory: Vec<u8>,
}

impl Type1 {
    fn new(kind: usize) -> Self {
        let host = TestHost::new();
        let container = open("/dev/vfio/vfio", libc::O_RDWR).expect("a container");
        let group = open(&host.group(2), libc::O_RDWR).expect("a group");
        let mut fd = container;
        ioctl(group, 0x3b68, &mut fd).expect("SET_CONTAINER");
        ioctl_value(container, 0x3b66, kind).expect("SET_IOMMU");
        let mut memory = vec![0; (MIB + 4096) as usize];
        Self {
            container,
            group,
            memory: (memory.as_mut_ptr() as u64).next_multiple_of(4096),
            _host: host,
            _memory: memory,
        }
    }

    #[track_caller]
    fn map(&self, iova: u64, pages: u64) {
        let mut arg = DmaMap(32, 3, self.memory, iova, pages * 4096);
        ioctl(self.container, 0x3b71, &mut arg).expect("MAP_DMA");
    }

    /// {argsz, flags, iova, size, bitmap{pgsize, size, data}}
    fn with_bitmap(
        &self,
        number: u32,
        flags: u32,
        argsz: u32,
        (iova, len): (u64, u64),
        bitmap: &mut [u64],
    ) -> Result<u64, i32> {
        let size = bitmap.len() as u64 * 8;
        let mut arg = [
            u64::from(argsz) | u64::from(flags) << 32,
            iova,
            len,
            4096,
            size,
            bitmap.as_mut_ptr() as u64,
        ];
        ioctl(self.container, number, &mut arg).map(|_| arg[2])
    }

    fn switch(&self, flags: u32) -> Result<i32, i32> {
        ioctl(self.container, 0x3b75, &mut [8u32, flags])
    }

    fn get(&self, range: (u64, u64), bitmap: &mut [u64]) -> Result<u64, i32> {
        self.with_bitmap(0x3b75, 4, 48, range, bitmap)
    }

    fn unmap(&self, flags: u32, range: (u64, u64), bitmap: &mut [u64]) -> Result<u64, i32> {
        self.with_bitmap(0x3b72, flags, 48, range, bitmap)
    }
}

impl Drop for Type1 {
    fn drop(&mut self) {
        close(self.group);
        close(self.container);
    }
}

#[test]
fn every_mapped_page_is_dirty_however_often_it_is_asked() {
    let type1 = Type1::new(3);
    type1.map(0x1000, 2);
    let mut bits = [0];
    assert_eq!(
        type1.get((0x1000, 0x2000), &mut bits),
        Err(libc::EINVAL),
        "not started"
    );
    assert_eq!(type1.switch(1), Ok(0));
    assert_eq!(type1.switch(1), Ok(0), "again");
    for _ in 0..2 {
        let mut bits = [0];
        assert_eq!(type1.get((0, 0x8000), &mut bits), Ok(0x8000));
        assert_eq!(bits, [0b110]);
    }
    assert_eq!(type1.switch(2), Ok(0));
    assert_eq!(type1.switch(2), Ok(0), "again");
    assert_eq!(type1.get((0x1000, 0x2000), &mut bits), Err(libc::EINVAL));
}

#[test]
fn words_of_no_mapping_are_left_alone_and_those_of_one_are_written_whole() {
    let type1 = Type1::new(3);
    type1.switch(1).expect("START");
    type1.map(70 * 4096, 2);
    type1.map(200 * 4096, 80);
    let mut bits = [5, 0x8000_0000_0000_0001, u64::MAX, 3, u64::MAX, 9];
    assert_eq!(type1.get((0, 384 * 4096), &mut bits), Ok(384 * 4096));
    // In a word that a mapping begins in the middle of the caller's bits stay, in others they go.
    assert_eq!(
        bits,
        [
            5,
            0x8000_0000_0000_00c1,
            u64::MAX,
            u64::MAX << 8 | 3,
            (1 << 24) - 1,
            9
        ]
    );
}

#[test]
fn a_request_has_to_fit_mappings_and_the_bitmap() {
    let type1 = Type1::new(3);
    type1.switch(1).expect("START");
    type1.map(0x1000, 2);
    let mut bits = [0];
    for cut in [(0, 0x2000), (0x2000, 0x8000)] {
        assert_eq!(type1.get(cut, &mut bits), Err(libc::EINVAL), "{cut:x?}");
    }
    for bad in [(0x800, 0x1000), (0, 0), (!0xfff, 0x2000), (0, 65 * 4096)] {
        assert_eq!(type1.get(bad, &mut bits), Err(libc::EINVAL), "{bad:x?}");
    }
    let short = type1.with_bitmap(0x3b75, 4, 47, (0, 0x4000), &mut bits);
    assert_eq!(short, Err(libc::EINVAL));
    for flags in [0, 3, 5, 6, 8] {
        assert_eq!(type1.switch(flags), Err(libc::EINVAL), "{flags}");
    }
    assert_eq!(bits, [0]);
}

#[test]
fn what_is_unmapped_is_told_dirty_one_last_time() {
    let type1 = Type1::new(3);
    type1.map(0x1000, 2);
    type1.map(0x3000, 1);
    let mut bits = [0];
    assert_eq!(
        type1.unmap(1, (0x3000, 0x1000), &mut bits),
        Err(libc::EINVAL),
        "not started"
    );
    type1.switch(1).expect("START");
    assert_eq!(type1.unmap(1, (0x3000, 0x1000), &mut bits), Ok(0x1000));
    assert_eq!(bits, [1]);
    assert_eq!(type1.unmap(1 | 2, (0, 0), &mut bits), Err(libc::EINVAL));
    assert_eq!(type1.unmap(0, (0x1000, 0x2000), &mut bits), Ok(0x2000));
}

#[test]
fn the_first_version_of_type1_has_no_dirty_pages_and_unmaps_from_a_mappings_start() {
    let type1 = Type1::new(1);
    type1.map(0x1000, 3);
    for flags in [1, 2, 4] {
        assert_eq!(type1.switch(flags), Err(libc::EACCES), "{flags}");
    }
    let mut bits = [0];
    assert_eq!(type1.unmap(0, (0x2000, 0x1000), &mut bits), Ok(0));
    assert_eq!(
        type1.unmap(0, (0x1000, 0x1000), &mut bits),
        Ok(0x3000),
        "the whole mapping"
    );
}
