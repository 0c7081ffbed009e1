// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_IOMMU_DIRTY_PAGES of a container with a VF that pins nothing: everything that is mapped is dirty, always
//! (drivers/vfio/vfio_iommu_type1.c).

use std::os::fd::AsFd;

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, works};
use crate::sys::{self, Answer};
use crate::vf::Vf;

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["dirty":
        start_and_stop_can_be_repeated,
        bitmap_needs_a_start,
        every_mapped_page_is_dirty_again_and_again,
        words_of_no_mapping_are_left_alone,
        request_that_cuts_a_mapping_is_refused,
        request_that_fits_no_page_or_bitmap_is_refused,
        flags_come_one_at_a_time,
        unmap_tells_the_pages_once_more,
    ]
}

const PAGE: u64 = 4096;
const MAP_DMA: u64 = 0x3b71;
const UNMAP_DMA: u64 = 0x3b72;
const DIRTY_PAGES: u64 = 0x3b75;
const START: u32 = 1;
const STOP: u32 = 2;
const GET_BITMAP: u32 = 4;

/// An open VF with memory of its container's.
struct Mapped {
    vf: Vf,
    memory: Vec<u8>,
}

impl Mapped {
    fn new(world: &World) -> Outcome<Self> {
        Ok(Self {
            vf: Vf::open(&world.device)?,
            memory: vec![0; 300 * PAGE as usize],
        })
    }

    fn call(&self, request: u64, words: &mut [u64]) -> Answer<()> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        sys::ioctl_bytes(self.vf.group.container.as_fd(), request, &mut bytes)?;
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(())
    }

    fn map(&self, page: u64, pages: u64) -> Outcome {
        let at = (self.memory.as_ptr() as u64).next_multiple_of(PAGE);
        let words = &mut [32 | 3 << 32, at, page * PAGE, pages * PAGE];
        works("VFIO_IOMMU_MAP_DMA", self.call(MAP_DMA, words))
    }

    fn switch(&self, flags: u32) -> Answer<()> {
        self.call(DIRTY_PAGES, &mut [8 | u64::from(flags) << 32])
    }

    fn with_bitmap(
        &self,
        request: u64,
        flags: u32,
        words: [u64; 4],
        bits: &mut [u64],
    ) -> Answer<u64> {
        let [argsz, iova, len, page] = words;
        let size = bits.len() as u64 * 8;
        let head = argsz | u64::from(flags) << 32;
        let arg = &mut [head, iova, len, page, size, bits.as_mut_ptr() as u64];
        self.call(request, arg)?;
        std::hint::black_box(bits);
        Ok(arg[2])
    }

    fn get(&self, page: u64, pages: u64, bits: &mut [u64]) -> Answer<u64> {
        let words = [48, page * PAGE, pages * PAGE, PAGE];
        self.with_bitmap(DIRTY_PAGES, GET_BITMAP, words, bits)
    }
}

fn start_and_stop_can_be_repeated(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    for flags in [STOP, START, START, STOP, STOP] {
        works("START or STOP", mapped.switch(flags))?;
    }
    Ok(())
}

fn bitmap_needs_a_start(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    mapped.map(1, 2)?;
    refuses("GET_BITMAP", mapped.get(1, 2, &mut [0]), libc::EINVAL)?;
    works("START", mapped.switch(START))?;
    works("GET_BITMAP", mapped.get(1, 2, &mut [0]))?;
    works("STOP", mapped.switch(STOP))?;
    refuses("GET_BITMAP", mapped.get(1, 2, &mut [0]), libc::EINVAL)
}

fn every_mapped_page_is_dirty_again_and_again(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    mapped.map(1, 2)?;
    works("START", mapped.switch(START))?;
    let mut bits = [0];
    works("GET_BITMAP", mapped.get(0, 8, &mut bits))?;
    same("bits", &bits, &[0b110])?;
    // The kernel clears what it had shifted by the mapping's own length, so a later answer may have more bits, never less.
    let mut bits = [0];
    works("GET_BITMAP", mapped.get(0, 8, &mut bits))?;
    same("bits of the mapping", &[bits[0] & 0b110], &[0b110])
}

fn words_of_no_mapping_are_left_alone(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    works("START", mapped.switch(START))?;
    mapped.map(70, 2)?;
    mapped.map(200, 80)?;
    let mut bits = [5, 0x8000_0000_0000_0001, u64::MAX, 3, u64::MAX, 9];
    works("GET_BITMAP", mapped.get(0, 384, &mut bits))?;
    // In a word that a mapping does not begin at its first bit the caller's bits stay, all of them; in others they go.
    let want = [
        5,
        0x8000_0000_0000_00c1,
        u64::MAX,
        u64::MAX << 8 | 3,
        (1 << 24) - 1,
        9,
    ];
    same("bits", &bits, &want)
}

fn request_that_cuts_a_mapping_is_refused(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    works("START", mapped.switch(START))?;
    mapped.map(1, 2)?;
    for (page, pages) in [(0, 2), (2, 8), (1, 1), (2, 1)] {
        let answer = mapped.get(page, pages, &mut [0]);
        refuses(&format!("{pages} from {page}"), answer, libc::EINVAL)?;
    }
    Ok(())
}

fn request_that_fits_no_page_or_bitmap_is_refused(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    works("START", mapped.switch(START))?;
    mapped.map(1, 2)?;
    for words in [
        [48, 2048, PAGE, PAGE],
        [48, 0, 0, PAGE],
        [48, 0, 65 * PAGE, PAGE],
        [48, 0, 8 * PAGE, 2 * PAGE],
        [47, 0, 8 * PAGE, PAGE],
    ] {
        let answer = mapped.with_bitmap(DIRTY_PAGES, GET_BITMAP, words, &mut [0]);
        refuses(&format!("{words:?}"), answer, libc::EINVAL)?;
    }
    Ok(())
}

fn flags_come_one_at_a_time(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    for flags in [START | STOP, START | GET_BITMAP, 8] {
        refuses(&format!("{flags}"), mapped.switch(flags), libc::EINVAL)?;
    }
    Ok(())
}

fn unmap_tells_the_pages_once_more(world: &World) -> Outcome {
    let mapped = Mapped::new(world)?;
    mapped.map(3, 1)?;
    let mut bits = [0];
    let words = [48, 3 * PAGE, PAGE, PAGE];
    let answer = mapped.with_bitmap(UNMAP_DMA, 1, words, &mut bits);
    refuses("before START", answer, libc::EINVAL)?;
    works("START", mapped.switch(START))?;
    let bytes = works(
        "UNMAP_DMA",
        mapped.with_bitmap(UNMAP_DMA, 1, words, &mut bits),
    )?;
    same("bytes", &bytes, &PAGE)?;
    same("bits", &bits, &[1])
}
