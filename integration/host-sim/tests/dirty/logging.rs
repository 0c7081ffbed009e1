// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA_LOGGING_*: the vfio core's rules and a device that has a log.

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::time::Duration;

use host_sim::host::{DmaLogConfig, HostConfig, VfSet};
use host_sim::vf::{Effect, Errno, FaultSpec, Op};
use vfio_ioctls::DmaLoggingRange;

use crate::common::*;
use crate::guest_driver::{Guest, IOVA, LEN};

const START: u32 = 6;
const STOP_LOG: u32 = 7;
const REPORT: u32 = 8;
/// Page with the copied blocks, page with the completion record.
const WRITTEN: u64 = 0b1100;

fn logging() -> HostConfig {
    HostConfig {
        dma_logging: VfSet::All,
        ..config()
    }
}

/// VFIO_DEVICE_FEATURE with words of payload.
fn with_words<const N: usize>(
    fd: c_int,
    flags: u32,
    argsz: u32,
    words: &mut [u64; N],
) -> Result<(), i32> {
    let mut arg = vec![u64::from(argsz) | u64::from(flags) << 32];
    arg.extend_from_slice(words);
    let answer = ioctl(fd, 0x3b75, &mut arg[0]).map(drop);
    words.copy_from_slice(&arg[1..]);
    answer
}

/// START; the granularity taken.
fn start(fd: c_int, page: u64, ranges: &[(u64, u64)]) -> Result<u64, i32> {
    let list: Vec<[u64; 2]> = ranges.iter().map(|&(iova, len)| [iova, len]).collect();
    let mut words = [page, ranges.len() as u64, list.as_ptr() as u64];
    with_words(fd, SET | START, 32, &mut words).map(|()| words[0])
}

fn stop(fd: c_int) -> Result<(), i32> {
    with_words(fd, SET | STOP_LOG, 8, &mut [0; 0])
}

/// REPORT into a bitmap of one word that has the bits of `before`.
fn report(fd: c_int, iova: u64, len: u64, page: u64, before: u64) -> Result<u64, i32> {
    let mut bitmap = [before, 0x5555];
    let words = &mut [iova, len, page, bitmap.as_mut_ptr() as u64];
    let answer = with_words(fd, GET | REPORT, 40, words);
    assert_eq!(bitmap[1], 0x5555, "past the bitmap");
    answer.map(|()| bitmap[0])
}

fn fd(device: &Device) -> c_int {
    device.vfio.as_raw_fd()
}

#[test]
fn a_vf_without_a_log_answers_enotty_whatever_is_asked() {
    let host = TestHost::with(&HostConfig {
        dma_logging: VfSet::Only(vec![2]),
        ..config()
    });
    let (without, with) = (host.by_group(1), host.by_group(2));
    for flags in [SET, GET, PROBE | SET, PROBE | GET, PROBE] {
        for number in [START, STOP_LOG, REPORT] {
            let mut words = [0; 4];
            assert_eq!(
                with_words(fd(&without), flags | number, 40, &mut words),
                Err(libc::ENOTTY),
                "feature {number}, flags {flags:#x}"
            );
        }
    }
    assert_eq!(start(fd(&with), 4096, &[(0, 0x1000)]), Ok(4096));
}

#[test]
fn a_probe_tells_the_operations_and_starts_nothing() {
    let host = TestHost::with(&logging());
    let device = host.by_cdev(1);
    let fd = fd(&device);
    for (number, operation, other) in [(START, SET, GET), (STOP_LOG, SET, GET), (REPORT, GET, SET)]
    {
        let probe = |flags| with_words(fd, PROBE | flags | number, 8, &mut [0; 0]);
        assert_eq!(probe(operation), Ok(()));
        assert_eq!(probe(0), Ok(()));
        assert_eq!(probe(other), Err(libc::EINVAL));
        assert_eq!(with_words(fd, number, 40, &mut [0; 4]), Err(libc::EINVAL));
    }
    assert_eq!(
        with_words(fd, SET | START, 31, &mut [0; 4]),
        Err(libc::EINVAL),
        "short"
    );
    assert_eq!(
        with_words(fd, GET | REPORT, 39, &mut [0; 4]),
        Err(libc::EINVAL),
        "short"
    );
    assert_eq!(
        report(fd, 0, 0x1000, 4096, 0),
        Err(libc::EINVAL),
        "not started"
    );
    assert_eq!(stop(fd), Ok(()), "not started");
}

#[test]
fn ranges_are_checked_by_the_core_before_the_device_sees_them() {
    let host = TestHost::with(&logging());
    let device = host.by_group(1);
    let fd = fd(&device);
    assert_eq!(start(fd, 4096, &[]), Err(libc::EINVAL));
    let many: Vec<_> = (0..257).map(|i| (i * 0x2000, 0x1000)).collect();
    assert_eq!(start(fd, 4096, &many), Err(libc::E2BIG));
    for unaligned in [(0x800, 0x1000), (0, 0x1800)] {
        assert_eq!(start(fd, 4096, &[unaligned]), Err(libc::EINVAL));
    }
    assert_eq!(start(fd, 0x10000, &[(0x1000, 0x10000)]), Err(libc::EINVAL));
    assert_eq!(start(fd, 4096, &[(!0xfff, 0x1000)]), Err(libc::EOVERFLOW));
    for overlap in [
        (0x1000, 0x1000),
        (0x2000, 0x2000),
        (0, 0x10000),
        (0, 0x2000),
    ] {
        let ranges = [(0x8000, 0x1000), (0x1000, 0x2000), overlap];
        assert_eq!(start(fd, 4096, &ranges), Err(libc::EINVAL), "{overlap:x?}");
    }
    let mut no_list = [4096, 1, 0];
    assert_eq!(
        with_words(fd, SET | START, 32, &mut no_list),
        Err(libc::EFAULT)
    );
    assert_eq!(start(fd, 4096, &many[..256]), Ok(4096));
    assert_eq!(start(fd, 4096, &[(0, 0x1000)]), Err(libc::EINVAL), "twice");
    assert_eq!(stop(fd), Ok(()));
    assert_eq!(start(fd, 4096, &[(0, 0x1000)]), Ok(4096), "again");
}

#[test]
fn what_a_job_writes_is_reported_once_and_added_to_the_bitmap() {
    let host = TestHost::with(&logging());
    let guest = Guest::new(host.by_group(1));
    let fd = fd(&guest.device);
    guest.work(1);
    let other = (0x100_0000, 0x1000);
    assert_eq!(start(fd, 4096, &[other, (IOVA, LEN as u64)]), Ok(4096));
    assert_eq!(
        report(fd, IOVA, LEN as u64, 4096, 0),
        Ok(0),
        "before the start"
    );
    guest.work(2);
    assert_eq!(
        report(fd, IOVA, 0x2000, 4096, 0),
        Ok(0),
        "what was only read"
    );
    let kept = 1 << 63 | 1;
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, kept), Ok(kept | WRITTEN));
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, 0), Ok(0));
    guest.work(3);
    assert_eq!(
        report(fd, IOVA, LEN as u64, 0x2000, 0),
        Ok(0b10),
        "coarser bits"
    );
    assert_eq!(report(fd, other.0, other.1, 4096, 0), Ok(0));
    guest.work(4);
    assert_eq!(stop(fd), Ok(()));
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, 0), Err(libc::EINVAL));
}

#[test]
fn a_report_that_cannot_be_given_leaves_the_log_as_it_was() {
    let host = TestHost::with(&logging());
    let guest = Guest::new(host.by_group(1));
    let fd = fd(&guest.device);
    start(fd, 4096, &[(IOVA, LEN as u64)]).expect("START");
    guest.work(1);
    for (iova, len) in [
        (IOVA - 0x1000, 0x1000),
        (IOVA, LEN as u64 + 0x1000),
        (0, 0x1000),
    ] {
        assert_eq!(
            report(fd, iova, len, 4096, 0),
            Err(libc::EINVAL),
            "{iova:#x}"
        );
    }
    for page in [0, 2048, 4097, 0x3000] {
        assert_eq!(
            report(fd, IOVA, LEN as u64, page, 0),
            Err(libc::EINVAL),
            "{page:#x}"
        );
    }
    assert_eq!(report(fd, !0xfff, 0x1000, 4096, 0), Err(libc::EOVERFLOW));
    let nowhere = &mut [IOVA, LEN as u64, 4096, 0];
    assert_eq!(with_words(fd, GET | REPORT, 40, nowhere), Err(libc::EFAULT));
    let unmapped = &mut [IOVA, LEN as u64, 4096, 0x1_0000];
    assert_eq!(
        with_words(fd, GET | REPORT, 40, unmapped),
        Err(libc::EFAULT)
    );
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, 0), Ok(WRITTEN));
}

#[test]
fn the_device_takes_the_granularity_that_it_has() {
    let host = TestHost::with(&HostConfig {
        dma_log: DmaLogConfig {
            min_page: 0x2000,
            max_page: 0x4000,
            ..DmaLogConfig::default()
        },
        ..logging()
    });
    let guest = Guest::new(host.by_group(1));
    let fd = fd(&guest.device);
    assert_eq!(start(fd, 0x4_0000, &[(0, 0x20_0000)]), Ok(0x4000));
    guest.work(1);
    assert_eq!(
        report(fd, IOVA, LEN as u64, 4096, 0),
        Ok(0b1111),
        "copied bits"
    );
    stop(fd).expect("STOP");
    assert_eq!(start(fd, 4096, &[(IOVA, LEN as u64)]), Ok(0x2000));
    guest.work(2);
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, 0), Ok(0b1100));
}

#[test]
fn a_device_joins_or_refuses_what_is_more_than_it_can_watch() {
    let far = [(0, 0x1000), (0x2000, 0x1000), (0x10_0000, 0x4000)];
    let limited = |refuse_ranges, bytes| HostConfig {
        dma_log: DmaLogConfig {
            ranges: 2,
            refuse_ranges,
            bytes,
            ..DmaLogConfig::default()
        },
        ..logging()
    };
    let host = TestHost::with(&limited(false, 0x8000));
    let guest = Guest::new(host.by_group(1));
    let joining = fd(&guest.device);
    assert_eq!(start(joining, 4096, &[(0, 0x9000)]), Err(libc::EOPNOTSUPP));
    assert_eq!(start(joining, 4096, &far), Ok(4096));
    guest.work(1);
    assert_eq!(report(joining, IOVA, LEN as u64, 4096, 0), Ok(WRITTEN));
    assert_eq!(
        report(joining, 0, 0x3000, 4096, 0),
        Ok(0),
        "the hole is watched too"
    );
    drop(guest);
    drop(host);
    let host = TestHost::with(&limited(true, 1 << 40));
    let device = host.by_group(1);
    assert_eq!(start(fd(&device), 4096, &far), Err(libc::E2BIG));
    assert_eq!(start(fd(&device), 4096, &far[..2]), Ok(4096));
}

#[test]
fn faults_hit_the_log() {
    let host = TestHost::with(&logging());
    let guest = Guest::new(host.by_group(1));
    let fd = fd(&guest.device);
    let faults = host.host.vf(1).expect("a VF");
    let fail = |op, errno| {
        let effect = Effect::Errno(errno);
        let spec = FaultSpec {
            op,
            nth: 1,
            count: 1,
            effect,
        };
        faults.faults().add(&spec).expect("a fault");
    };
    fail(Op::LogStart, Errno::ENOMEM);
    assert_eq!(start(fd, 4096, &[(IOVA, LEN as u64)]), Err(libc::ENOMEM));
    assert_eq!(start(fd, 4096, &[(IOVA, LEN as u64)]), Ok(4096));
    guest.work(1);
    fail(Op::LogReport, Errno::EIO);
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, 0), Err(libc::EIO));
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, 0), Ok(WRITTEN));
    fail(Op::LogStop, Errno::EIO);
    assert_eq!(stop(fd), Err(libc::EIO));
    assert_eq!(report(fd, IOVA, LEN as u64, 4096, 0), Ok(0), "still on");
}

#[test]
fn the_log_goes_on_over_states_and_resets_and_ends_with_the_last_close() {
    let host = TestHost::with(&logging());
    let guest = Guest::new(host.by_group(1));
    let device = fd(&guest.device);
    start(device, 4096, &[(IOVA, LEN as u64)]).expect("START");
    guest.work(1);
    for state in [STOP, STOP_COPY] {
        set_state(device, state).expect("SET");
    }
    assert_eq!(report(device, IOVA, LEN as u64, 4096, 0), Ok(WRITTEN));
    assert_eq!(ioctl_value(device, 0x3b6f, 0), Ok(0), "reset");
    assert_eq!(report(device, IOVA, LEN as u64, 4096, 0), Ok(0), "still on");
    drop(guest);
    let device = host.by_group(1);
    assert_eq!(
        report(fd(&device), IOVA, LEN as u64, 4096, 0),
        Err(libc::EINVAL)
    );
    assert_eq!(start(fd(&device), 4096, &[(IOVA, LEN as u64)]), Ok(4096));
}

#[test]
fn whoever_has_the_device_reports_what_another_process_lets_it_write() {
    let host = TestHost::with(&logging());
    let guest = Guest::new(host.by_group(1));
    let fd = fd(&guest.device);
    start(fd, 4096, &[(IOVA, LEN as u64)]).expect("START");
    guest.work(1);
    let child = fork(|| i32::from(report(fd, IOVA, LEN as u64, 4096, 0) != Ok(WRITTEN)));
    assert_eq!(wait(child), 0, "a child has the fd");
    assert_eq!(
        report(fd, IOVA, LEN as u64, 4096, 0),
        Ok(0),
        "and took the marks"
    );
}

#[test]
fn vfio_ioctls_drives_the_log() {
    let host = TestHost::with(&logging());
    let guest = Guest::new(host.by_cdev(1));
    let vfio = &guest.device.vfio;
    let range = DmaLoggingRange {
        iova: IOVA,
        length: LEN as u64,
    };
    assert_eq!(vfio.start_dma_logging(4096, &[range]).expect("start"), 4096);
    guest.work(1);
    assert!(!guest.interrupted(Duration::from_millis(1)));
    assert_eq!(
        vfio.report_dma_logging(range, 4096).expect("report"),
        [WRITTEN]
    );
    vfio.stop_dma_logging().expect("stop");
}
