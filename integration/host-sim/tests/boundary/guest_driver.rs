// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's driver: memory, a ring in it, jobs.

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::time::Duration;

use guest::abi::{self, reg};
use vmm_sys_util::eventfd::EventFd;

use crate::common::*;

/// Guest memory at DMA address [`IOVA`]: ring, source, destination and completion record, a page each.
pub const IOVA: u64 = 0x10_0000;
pub const LEN: usize = 0x4000;

/// Memory of this process that DMA may change at any time.
pub struct Memory(pub *mut u8);

impl Memory {
    pub fn new() -> Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping somewhere.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at.cast())
    }

    pub fn get(&self, at: usize) -> u32 {
        assert!(at < LEN);
        // SAFETY: within the mapping.
        unsafe { self.0.add(at).cast::<u32>().read_volatile() }
    }

    pub fn put(&self, at: usize, value: u32) {
        assert!(at < LEN);
        // SAFETY: within the mapping.
        unsafe { self.0.add(at).cast::<u32>().write_volatile(value) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, used by nobody after this.
        unsafe { libc::munmap(self.0.cast(), LEN) };
    }
}

/// The driver of a VF in a guest.
pub struct Guest {
    pub device: Device,
    pub memory: Memory,
    event: EventFd,
}

impl Guest {
    /// A guest's driver that has set the ring up.
    pub fn new(device: Device) -> Self {
        let memory = Memory::new();
        // SAFETY: unmapped before the memory goes, or a fault of the VF after.
        unsafe { device.ops.vfio_dma_map(IOVA, LEN, memory.0) }.expect("map");
        let event = EventFd::new(0).expect("an eventfd");
        device.vfio.enable_msix(vec![&event]).expect("MSI-X");
        let guest = Self {
            device,
            memory,
            event,
        };
        for page in 0..4 {
            let pte = (IOVA + page * 4096) | abi::PTE_VALID;
            guest
                .device
                .vfio
                .region_write(0, &pte.to_le_bytes(), u64::from(abi::GGTT) + page * 8);
        }
        guest.set(reg::RING_BASE, 0);
        guest.set(reg::RING_ENTRIES, 16);
        guest.set(reg::RING_ENABLE, 1);
        guest
    }

    pub fn set(&self, register: u32, value: u32) {
        self.device
            .vfio
            .region_write(0, &value.to_le_bytes(), register.into());
    }

    pub fn get(&self, register: u32) -> u32 {
        let mut bytes = [0; 4];
        self.device.vfio.region_read(0, &mut bytes, register.into());
        u32::from_le_bytes(bytes)
    }

    pub fn submit(&self, seq: u32) {
        let words = [seq, abi::OP_HASH_BLOCK, 0x1000, 0x2000, 0, 0, 0x3000];
        let slot = ((seq - 1) % 16 * abi::DESCRIPTOR_SIZE) as usize;
        for (i, word) in words.iter().enumerate() {
            self.memory.put(slot + 4 * i, *word);
        }
        self.memory
            .put(slot + 28, words.iter().fold(0, |a, b| a ^ b));
        self.set(reg::RING_TAIL, seq);
    }

    /// Waits for an interrupt.
    pub fn interrupted(&self, limit: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.event.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live structure.
        let ready = unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as c_int) } == 1;
        ready && self.event.read().is_ok()
    }

    /// Does job `seq` to its end.
    #[track_caller]
    pub fn work(&self, seq: u32) {
        self.submit(seq);
        assert!(
            self.interrupted(Duration::from_secs(5)),
            "job {seq}: status {:#x}",
            self.get(reg::STATUS)
        );
        self.set(reg::IRQ_ACK, seq);
    }
}
