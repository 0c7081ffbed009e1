// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF that writes at the worst moments, and copies of memory that follow it.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host_sim::host::{HostConfig, VfSet};
use host_sim::vf::{Errno, StormCheck, StormSpec, Vf};
use iommufd_ioctls::IommuFd;
use vfio_ioctls::DmaLoggingRange;

use crate::common::*;
use crate::requests::{alloc, call, split};

pub const IOVA: u64 = 0x100_0000;
const PAGES: usize = 128;
pub const LEN: usize = PAGES * 4096;
const RUNNING_P2P: u32 = 5;

/// Memory that a VF writes.
pub struct Memory(*mut u8);

impl Memory {
    fn new() -> Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping somewhere.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), LEN, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at.cast())
    }

    /// Copies a page as a VMM would: while the VF writes it.
    fn copy(&self, page: usize, to: &mut [u8]) {
        assert!(page < PAGES);
        for (i, word) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: within the mapping, aligned; others may write.
            let at = unsafe { self.0.add(page * 4096 + i * 8).cast::<u64>() };
            // SAFETY: as above.
            *word = unsafe { at.read_volatile() }.to_ne_bytes();
        }
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= LEN);
        // SAFETY: within the mapping; used when the VF rests.
        unsafe { std::ptr::copy(bytes.as_ptr(), self.0.add(at), bytes.len()) };
    }

    pub fn all(&self) -> Vec<u8> {
        let mut all = vec![0; LEN];
        for (page, to) in all.chunks_mut(4096).enumerate() {
            self.copy(page, to);
        }
        all
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, used by nobody after this.
        unsafe { libc::munmap(self.0.cast(), LEN) };
    }
}

/// A VF with memory to write.
pub struct Target {
    pub vf: Arc<Vf>,
    device: Device,
    pub memory: Memory,
    pub host: TestHost,
}

pub fn spec() -> StormSpec {
    StormSpec {
        iova: IOVA,
        len: LEN as u64,
        rate: 0,
        unit: 4096,
        seed: 1,
        sweep: false,
    }
}

impl Target {
    #[track_caller]
    fn with(host: TestHost, device: Device) -> Self {
        let memory = Memory::new();
        // SAFETY: the memory outlives the device.
        unsafe { device.ops.vfio_dma_map(IOVA, LEN, memory.0) }.expect("map");
        let vf = host.host.vf(1).expect("a VF");
        Self {
            vf,
            device,
            memory,
            host,
        }
    }

    #[track_caller]
    pub fn new() -> Self {
        let host = TestHost::with(&HostConfig {
            dma_logging: VfSet::All,
            ..config()
        });
        let device = host.by_group(1);
        Self::with(host, device)
    }

    fn writes(&self) -> u64 {
        self.vf.storm_status().expect("a storm").writes
    }

    #[track_caller]
    pub fn wait_for(&self, writes: u64) {
        let start = Instant::now();
        let target = self.writes() + writes;
        while self.writes() < target {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.vf.storm_status()
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    #[track_caller]
    fn state(&self, state: u32) {
        set_state(self.device.vfio.as_raw_fd(), state).expect("SET");
    }

    fn verify(&self, copy: &[u8]) -> StormCheck {
        let read = |iova: u64, unit: &mut [u8]| {
            let at = (iova - IOVA) as usize;
            let from = copy.get(at..at + unit.len()).ok_or(Errno::EFAULT)?;
            unit.copy_from_slice(from);
            Ok(())
        };
        self.vf.storm_verify(read).expect("a storm")
    }
}

#[test]
fn a_storm_blows_in_running_alone() {
    let target = Target::new();
    target.vf.storm_start(&spec()).expect("a storm");
    assert_eq!(target.vf.storm_start(&spec()), Err(Errno::EBUSY));
    target.wait_for(2000);
    for state in [RUNNING_P2P, STOP] {
        target.state(state);
        let (before, writes) = (target.memory.all(), target.writes());
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(target.memory.all(), before, "state {state}");
        assert_eq!(target.writes(), writes, "state {state}");
        assert!(target.verify(&before).is_right(), "the ledger is true");
    }
    target.state(RUNNING);
    target.wait_for(2000);
    target.vf.storm_stop();
    let (before, writes) = (target.memory.all(), target.writes());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((target.memory.all(), target.writes()), (before, writes));
    let status = target.vf.storm_status().expect("a storm");
    assert_eq!((status.on, status.faults), (false, 0));
}

#[test]
fn a_sweep_writes_every_page_once_and_ends() {
    let target = Target::new();
    let sweep = StormSpec {
        sweep: true,
        ..spec()
    };
    target.vf.storm_start(&sweep).expect("a sweep");
    let start = Instant::now();
    while target.vf.storm_status().expect("a storm").on {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(target.writes(), PAGES as u64);
    let check = target.verify(&target.memory.all());
    assert_eq!((check.is_right(), check.intact), (true, PAGES as u64));
}

#[test]
fn a_storm_ends_with_a_reset_and_with_the_last_close() {
    let target = Target::new();
    target.vf.storm_start(&spec()).expect("a storm");
    target.wait_for(10);
    assert_eq!(
        ioctl_value(target.device.vfio.as_raw_fd(), 0x3b6f, 0),
        Ok(0)
    );
    assert!(!target.vf.storm_status().expect("a storm").on);
    target.vf.storm_start(&spec()).expect("another");
    target.wait_for(10);
    let Target {
        vf,
        device,
        memory,
        host,
    } = target;
    drop(device);
    assert!(!vf.storm_status().expect("a storm").on);
    drop(memory);
    drop(host);
}

#[test]
fn the_rate_is_kept() {
    let target = Target::new();
    let start = Instant::now();
    target
        .vf
        .storm_start(&StormSpec {
            rate: 2000,
            ..spec()
        })
        .expect("a storm");
    std::thread::sleep(Duration::from_millis(300));
    target.vf.storm_stop();
    let most = start.elapsed().as_secs_f64() * 2000.0;
    let writes = target.writes();
    // What was held up for up to 10 ms is made up for.
    assert!(
        writes > 0 && writes as f64 <= most + 21.0,
        "{writes} writes, {most} due"
    );
}

#[test]
fn a_range_that_cannot_be_is_refused_and_memory_that_is_not_mapped_counted() {
    let target = Target::new();
    for bad in [
        StormSpec { iova: 1, ..spec() },
        StormSpec { len: 0, ..spec() },
        StormSpec {
            len: 17 << 30,
            ..spec()
        },
        StormSpec { unit: 24, ..spec() },
        StormSpec {
            unit: 4104,
            ..spec()
        },
        StormSpec { unit: 33, ..spec() },
        StormSpec {
            iova: !0xfff,
            ..spec()
        },
    ] {
        assert_eq!(target.vf.storm_start(&bad), Err(Errno::EINVAL), "{bad:?}");
    }
    let beyond = StormSpec {
        len: 2 * LEN as u64,
        ..spec()
    };
    target.vf.storm_start(&beyond).expect("a storm");
    target.wait_for(1000);
    target.vf.storm_stop();
    assert_ne!(target.vf.storm_status().expect("a storm").faults, 0);
    assert!(
        target.verify(&target.memory.all()).is_right(),
        "faults are no writes"
    );
}

#[test]
fn each_way_of_being_wrong_is_told() {
    let target = Target::new();
    target.vf.storm_start(&spec()).expect("a storm");
    target.wait_for(5000);
    target.state(RUNNING_P2P);
    let old = target.memory.all();
    target.state(RUNNING);
    target.wait_for(20_000);
    target.vf.storm_stop();
    let new = target.memory.all();
    assert_eq!(target.verify(&new).intact, PAGES as u64);
    let changed = |at: usize, bytes: &[u8]| {
        let mut copy = new.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        let check = target.verify(&copy);
        assert!(!check.is_right());
        assert_eq!(check.intact, PAGES as u64 - 1);
        assert_eq!(check.first_bad, IOVA + (at as u64 & !4095) + 1);
        (check.lost, check.torn, check.ahead, check.unreadable)
    };
    assert_eq!(
        changed(0x3000, &old[0x3000..0x4000]),
        (1, 0, 0, 0),
        "an old page"
    );
    assert_eq!(changed(0x3000, &[0; 4096]), (1, 0, 0, 0), "an empty page");
    assert_eq!(
        changed(0x4000, &old[0x4000..0x4800]),
        (0, 1, 0, 0),
        "half an old page"
    );
    assert_eq!(changed(0x4ff8, &[0; 8]), (0, 1, 0, 0), "one word");
    let short = target.verify(&new[..LEN - 4096]);
    assert_eq!((short.intact, short.unreadable), (PAGES as u64 - 1, 1));
    // By DMA of the VF itself.
    let check = || {
        target
            .vf
            .storm_check(&target.vf, Duration::from_secs(20))
            .expect("a check")
    };
    assert!(check().is_right());
    target.memory.put(0x5020, &old[0x5020..0x6000]);
    assert_eq!((check().torn, check().intact), (1, PAGES as u64 - 1));
}

#[test]
fn a_vf_of_another_host_compares_what_came_over() {
    let source = Target::new();
    source.vf.storm_start(&spec()).expect("a storm");
    source.wait_for(5000);
    source.state(STOP);
    let destination = Target::new();
    destination.memory.put(0, &source.memory.all());
    let check = || {
        let limit = Duration::from_secs(20);
        destination
            .vf
            .storm_check(&source.vf, limit)
            .expect("a check")
    };
    assert_eq!(check().intact, PAGES as u64);
    destination.memory.put(0x7000, &[0; 64]);
    assert_eq!((check().lost, check().intact), (1, PAGES as u64 - 1));
    destination.state(STOP);
    let short = destination
        .vf
        .storm_check(&source.vf, Duration::from_millis(50));
    assert!(short.is_err(), "it reads in RUNNING alone");
}

/// Rounds of a precopy that follows `dirty`, which answers the bits of the range and takes them; then the VF is quiesced and
/// what is dirty then comes last. The copy.
fn precopy(target: &Target, mut dirty: impl FnMut() -> Vec<u64>) -> Vec<u8> {
    let mut copy = target.memory.all();
    for round in 0..30 {
        if round == 29 {
            target.state(RUNNING_P2P);
        }
        for (word, mut bits) in dirty().into_iter().enumerate() {
            while bits != 0 {
                let page = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                target
                    .memory
                    .copy(page, &mut copy[page * 4096..(page + 1) * 4096]);
            }
        }
    }
    copy
}

#[test]
fn a_copy_that_follows_the_devices_log_is_never_torn() {
    let target = Target::new();
    let range = DmaLoggingRange {
        iova: IOVA,
        length: LEN as u64,
    };
    for seed in 0..20 {
        target
            .vf
            .storm_start(&StormSpec { seed, ..spec() })
            .expect("a storm");
        target.wait_for(100);
        let vfio = &target.device.vfio;
        vfio.start_dma_logging(4096, &[range]).expect("start");
        let copy = precopy(&target, || {
            vfio.report_dma_logging(range, 4096).expect("report")
        });
        vfio.stop_dma_logging().expect("stop");
        let check = target.verify(&copy);
        assert!(check.is_right(), "seed {seed}: {check:?}");
        target.state(RUNNING);
        target.vf.storm_stop();
    }
}

/// A storm's target on an IOMMU with dirty bits, its iommufd, and its page table.
fn tracked() -> (Target, Arc<IommuFd>, u32) {
    let host = TestHost::with(&HostConfig {
        iommu_dirty_tracking: VfSet::All,
        ..config()
    });
    let iommufd = Arc::new(IommuFd::new().expect("an iommufd"));
    let ioas = alloc(iommufd.as_raw_fd());
    let device = host.by_cdev_in(1, &iommufd, ioas);
    let target = Target::with(host, device);
    let mut words = [0; 12];
    // The device was bound after the IOAS was made.
    words[1..4].copy_from_slice(&[2, ioas + 1, ioas]);
    call(iommufd.as_raw_fd(), 0x3b89, &mut words).expect("HWPT_ALLOC");
    let hwpt = words[4];
    let mut attach = [12, 0, hwpt];
    ioctl(target.device.vfio.as_raw_fd(), 0x3b77, &mut attach).expect("attached");
    (target, iommufd, hwpt)
}

/// GET_DIRTY_BITMAP of the range.
fn bitmap(iommufd: &IommuFd, hwpt: u32, flags: u32) -> Vec<u64> {
    let mut bits = vec![0u64; PAGES / 64];
    let mut words = [
        [0, hwpt],
        [flags, 0],
        split(IOVA),
        split(LEN as u64),
        split(4096),
        split(bits.as_mut_ptr() as u64),
    ]
    .concat();
    call(iommufd.as_raw_fd(), 0x3b8c, &mut words).expect("GET_DIRTY_BITMAP");
    bits
}

fn track(iommufd: &IommuFd, hwpt: u32, on: u32) {
    call(iommufd.as_raw_fd(), 0x3b8b, &mut [0, on, hwpt, 0]).expect("SET_DIRTY_TRACKING");
}

#[test]
fn a_copy_that_follows_the_iommus_bits_is_never_torn() {
    let (target, iommufd, hwpt) = tracked();
    for seed in 0..20 {
        target
            .vf
            .storm_start(&StormSpec { seed, ..spec() })
            .expect("a storm");
        target.wait_for(100);
        track(&iommufd, hwpt, 1);
        let copy = precopy(&target, || bitmap(&iommufd, hwpt, 0));
        let check = target.verify(&copy);
        assert!(check.is_right(), "seed {seed}: {check:?}");
        target.state(RUNNING);
        target.vf.storm_stop();
    }
}

#[test]
fn a_copy_that_clears_bits_after_it_has_looked_is_caught() {
    let (target, iommufd, hwpt) = tracked();
    // Slow enough that a look does not find every page dirty.
    let storm = StormSpec {
        rate: 2000,
        ..spec()
    };
    target.vf.storm_start(&storm).expect("a storm");
    target.wait_for(10);
    track(&iommufd, hwpt, 1);
    // The bug: what is written between the look and the clearing is forgotten.
    let copy = precopy(&target, || {
        let bits = bitmap(&iommufd, hwpt, 1);
        if state(target.device.vfio.as_raw_fd()) == RUNNING {
            target.wait_for(10);
        }
        bitmap(&iommufd, hwpt, 0);
        bits
    });
    let check = target.verify(&copy);
    assert_ne!(check.lost, 0, "{check:?}");
}
