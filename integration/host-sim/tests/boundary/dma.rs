// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mappings, and jobs of the engine through them.

use std::time::{Duration, Instant};

use guest::abi::{self, reg, status};

use crate::common::*;
use crate::guest_driver::{Guest, IOVA, LEN, Memory};

#[track_caller]
fn jobs_run(device: Device) {
    let guest = Guest::new(device);
    let mut acc = abi::ACC_RESET;
    for seq in 1..=40 {
        for i in 0..64 {
            guest.memory.put(0x1000 + 4 * i, seq * 1000 + i as u32);
        }
        guest.submit(seq);
        assert!(
            guest.interrupted(Duration::from_secs(5)),
            "job {seq}: status {:#x}",
            guest.get(reg::STATUS)
        );
        assert_eq!(
            (guest.get(reg::STATUS), guest.get(reg::RING_HEAD)),
            (0, seq)
        );
        guest.set(reg::IRQ_ACK, seq);
        let mut sum = 0u32;
        for i in 0..64 {
            acc = abi::accumulate(acc, seq * 1000 + i as u32);
            sum = sum.wrapping_add(acc);
            assert_eq!(guest.memory.get(0x2000 + 4 * i), acc);
        }
        let record: Vec<_> = (0..4).map(|i| guest.memory.get(0x3000 + 4 * i)).collect();
        assert_eq!(record, [seq, acc, sum, !seq]);
    }
}

#[test]
fn a_job_runs_by_group_and_container() {
    let host = TestHost::new();
    jobs_run(host.by_group(1));
}

#[test]
fn a_job_runs_by_cdev_and_iommufd() {
    let host = TestHost::new();
    jobs_run(host.by_cdev(1));
}

#[test]
fn jobs_wait_while_the_vf_does_not_run() {
    let host = TestHost::new();
    let guest = Guest::new(host.by_group(1));
    guest
        .device
        .vfio
        .set_migration_state(5)
        .expect("RUNNING_P2P");
    guest.submit(1);
    assert!(!guest.interrupted(Duration::from_millis(50)));
    assert_eq!(guest.get(reg::RING_HEAD), 0);
    guest
        .device
        .vfio
        .set_migration_state(RUNNING)
        .expect("RUNNING");
    assert!(guest.interrupted(Duration::from_secs(5)));
    assert_eq!(guest.get(reg::RING_HEAD), 1);
}

#[test]
fn dma_to_memory_that_is_not_mapped_is_a_fault_of_the_vf() {
    let host = TestHost::new();
    let guest = Guest::new(host.by_group(1));
    guest.device.ops.vfio_dma_unmap(IOVA, LEN).expect("unmap");
    guest.submit(1);
    assert!(guest.interrupted(Duration::from_secs(5)));
    assert_eq!(
        guest.get(reg::STATUS),
        abi::STATUS_ERROR | status::DMA_FAULT
    );
}

#[test]
fn dma_to_memory_that_the_program_gave_back_is_a_fault_and_no_crash() {
    let host = TestHost::new();
    let guest = Guest::new(host.by_group(1));
    // The source page goes; the IOMMU still has it.
    // SAFETY: nothing in this test touches that page any more.
    unsafe { libc::munmap(guest.memory.0.add(0x1000).cast(), 0x1000) };
    guest.submit(1);
    assert!(guest.interrupted(Duration::from_secs(5)));
    assert_eq!(
        guest.get(reg::STATUS),
        abi::STATUS_ERROR | status::DMA_FAULT
    );
}

#[test]
fn each_job_interrupts_and_an_idle_engine_does_not_spin() {
    let host = TestHost::new();
    let child = fork(|| {
        let cpu = || {
            let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
            // SAFETY: filled by the kernel.
            let usage = unsafe {
                libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
                usage.assume_init()
            };
            let of = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
            of(usage.ru_utime) + of(usage.ru_stime)
        };
        let guest = Guest::new(host.by_group(1));
        let mut times = Vec::new();
        for seq in 1..=200 {
            let start = Instant::now();
            guest.submit(seq);
            assert!(guest.interrupted(Duration::from_secs(5)));
            times.push(start.elapsed());
            guest.set(reg::IRQ_ACK, seq);
        }
        times.sort();
        eprintln!("median of submit to interrupt: {:?}", times[100]);
        std::thread::sleep(Duration::from_millis(1100));
        let before = cpu();
        std::thread::sleep(Duration::from_secs(1));
        let used = cpu() - before;
        eprintln!("idle for a second: {used:?}");
        // A spinning engine takes the whole second; the machine's load does not add to a process's own time.
        assert!(used < Duration::from_millis(200), "{used:?}");
        0
    });
    assert_eq!(wait(child), 0);
}

#[repr(C)]
struct DmaMap(u32, u32, u64, u64, u64);

#[test]
fn type1_mappings_follow_the_kernels_rules() {
    let host = TestHost::new();
    let _device = host.by_group(1);
    let container = open("/dev/vfio/vfio", libc::O_RDWR).expect("a container");
    let group = open(&host.group(2), libc::O_RDWR).expect("a group");
    let memory = Memory::new();
    let at = memory.0 as u64;
    let map = |flags, vaddr, iova, size| {
        ioctl(container, 0x3b71, &mut DmaMap(32, flags, vaddr, iova, size))
    };
    assert_eq!(map(3, at, 0, 0x1000), Err(libc::EINVAL), "no IOMMU yet");
    let mut fd = container;
    ioctl(group, 0x3b68, &mut fd).expect("SET_CONTAINER");
    ioctl_value(container, 0x3b66, 3).expect("SET_IOMMU");
    assert_eq!(map(3, at, 0x1000, 0x2000), Ok(0));
    assert_eq!(map(3, at, 0x2000, 0x2000), Err(libc::EEXIST));
    assert_eq!(map(3, at, 0x1000, 0x2000), Err(libc::EEXIST));
    assert_eq!(map(1, at, 0x3000, 0x1000), Ok(0), "read-only, next to it");
    for (flags, vaddr, iova, size) in [
        (0, at, 0x8000, 0x1000),
        (8, at, 0x8000, 0x1000),
        (3, at + 1, 0x8000, 0x1000),
        (3, at, 0x8001, 0x1000),
        (3, at, 0x8000, 0),
        (3, at, !0xfff, 0x2000),
        (3, at, 0xfee0_0000, 0x1000),
    ] {
        assert_eq!(
            map(flags, vaddr, iova, size),
            Err(libc::EINVAL),
            "{flags} {iova:#x} {size:#x}"
        );
    }
    assert_eq!(map(3, 0x1000, 0x8000, 0x1000), Err(libc::EFAULT));
    // {argsz, flags, iova, size, bitmap{pgsize, size, data}}
    let unmap = |flags: u32, iova: u64, size: u64, bitmap: [u64; 3]| {
        let mut arg = [
            48 | u64::from(flags) << 32,
            iova,
            size,
            bitmap[0],
            bitmap[1],
            bitmap[2],
        ];
        ioctl(container, 0x3b72, &mut arg).map(|_| arg[2])
    };
    assert_eq!(
        unmap(0, 0x2000, 0x1000, [0; 3]),
        Err(libc::EINVAL),
        "cuts a mapping"
    );
    assert_eq!(unmap(0, 0x9000, 0x1000, [0; 3]), Ok(0));
    assert_eq!(unmap(2, 0x1000, 0, [0; 3]), Err(libc::EINVAL));
    assert_eq!(unmap(0, 0x3000, 0x1000, [0; 3]), Ok(0x1000));
    assert_eq!(unmap(2, 0, 0, [0; 3]), Ok(0x2000), "the rest");
    let mut info = [0u32; 64];
    info[0] = 16;
    assert_eq!(ioctl(container, 0x3b70, &mut info), Ok(0));
    let whole = info[0];
    info[0] = 256;
    assert_eq!(ioctl(container, 0x3b70, &mut info), Ok(0));
    assert_eq!((info[1], info[2], info[4]), (3, 0xffff_f000, 24));
    let mut ids = Vec::new();
    let mut at = info[4];
    while at != 0 {
        ids.push(info[at as usize / 4] & 0xffff);
        at = info[at as usize / 4 + 1];
    }
    assert_eq!(ids, [1, 2, 3]);
    assert!(whole > 24);
    close(group);
    close(container);
}

#[test]
fn pinning_takes_the_time_that_the_host_says() {
    let host = TestHost::with(&host_sim::host::HostConfig {
        pin_us_per_gib: 800_000,
        ..config()
    });
    let device = host.by_group(1);
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping of 256 MiB somewhere.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            256 << 20,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    let start = Instant::now();
    // SAFETY: nobody else uses the memory.
    unsafe { device.ops.vfio_dma_map(0, 256 << 20, at.cast()) }.expect("map");
    assert!(
        start.elapsed() >= Duration::from_millis(200),
        "{:?}",
        start.elapsed()
    );
    // SAFETY: mapped above.
    unsafe { libc::munmap(at, 256 << 20) };
}
