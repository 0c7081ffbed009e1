// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty tracking by an IOMMU: IOMMU_HWPT_ALLOC, SET_DIRTY_TRACKING, GET_DIRTY_BITMAP.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use host_sim::host::{HostConfig, VfSet};
use host_sim::vf::{Effect, Errno, FaultSpec, Op};
use iommufd_ioctls::IommuFd;

use crate::common::*;
use crate::guest_driver::{Guest, IOVA, LEN};
use crate::requests::{alloc, call, map, split, unmap};

const DIRTY_TRACKING: u32 = 2;
const WRITTEN: u64 = 0b1100;

fn tracking() -> HostConfig {
    HostConfig {
        iommu_dirty_tracking: VfSet::All,
        ..config()
    }
}

fn capabilities(iommufd: i32, device: u32) -> Result<u64, i32> {
    let mut words = [0; 10];
    words[2] = device;
    call(iommufd, 0x3b8a, &mut words)?;
    Ok(u64::from(words[8]) | u64::from(words[9]) << 32)
}

fn hwpt_alloc(iommufd: i32, flags: u32, device: u32, pt: u32) -> Result<u32, i32> {
    let mut words = [0; 12];
    words[1..4].copy_from_slice(&[flags, device, pt]);
    call(iommufd, 0x3b89, &mut words).map(|()| words[4])
}

fn set_tracking(iommufd: i32, hwpt: u32, flags: u32) -> Result<(), i32> {
    call(iommufd, 0x3b8b, &mut [0, flags, hwpt, 0])
}

/// GET_DIRTY_BITMAP into one word that has the bits of `before`.
fn get_bitmap(
    iommufd: i32,
    hwpt: u32,
    flags: u32,
    (iova, len, page): (u64, u64, u64),
    before: u64,
) -> Result<u64, i32> {
    let mut bitmap = [before, 0x5555];
    let data = bitmap.as_mut_ptr() as u64;
    let mut words = [
        [0, hwpt],
        [flags, 0],
        split(iova),
        split(len),
        split(page),
        split(data),
    ]
    .concat();
    let answer = call(iommufd, 0x3b8c, &mut words);
    assert_eq!(bitmap[1], 0x5555, "past the bitmap");
    answer.map(|()| bitmap[0])
}

/// A guest on an IOMMU with dirty bits.
struct Tracked {
    iommufd: Arc<IommuFd>,
    ioas: u32,
    device: u32,
    hwpt: u32,
    guest: Guest,
    host: TestHost,
}

impl Tracked {
    #[track_caller]
    fn new(config: &HostConfig) -> Self {
        let host = TestHost::with(config);
        let iommufd = Arc::new(IommuFd::new().expect("an iommufd"));
        let fd = iommufd.as_raw_fd();
        let ioas = alloc(fd);
        let guest = Guest::new(host.by_cdev_in(1, &iommufd, ioas));
        let device = (1..9)
            .find(|&id| capabilities(fd, id).is_ok())
            .expect("a device");
        let hwpt = hwpt_alloc(fd, DIRTY_TRACKING, device, ioas).expect("a page table");
        let tracked = Self {
            iommufd,
            ioas,
            device,
            hwpt,
            guest,
            host,
        };
        assert_eq!(tracked.attach(hwpt), Ok(hwpt));
        tracked
    }

    fn fd(&self) -> i32 {
        self.iommufd.as_raw_fd()
    }

    fn attach(&self, pt: u32) -> Result<u32, i32> {
        let mut words = [12, 0, pt];
        ioctl(self.guest.device.vfio.as_raw_fd(), 0x3b77, &mut words).map(|_| words[2])
    }

    fn get(&self, flags: u32, before: u64) -> Result<u64, i32> {
        get_bitmap(
            self.fd(),
            self.hwpt,
            flags,
            (IOVA, LEN as u64, 4096),
            before,
        )
    }
}

#[test]
fn an_iommu_without_dirty_bits_says_so_and_refuses() {
    let host = TestHost::with(&HostConfig {
        iommu_dirty_tracking: VfSet::Only(vec![2]),
        ..config()
    });
    let iommufd = Arc::new(IommuFd::new().expect("an iommufd"));
    let fd = iommufd.as_raw_fd();
    let ioas = alloc(fd);
    let without = host.by_cdev_in(1, &iommufd, ioas);
    let with = host.by_cdev_in(2, &iommufd, ioas);
    let devices: Vec<_> = (1..9)
        .filter_map(|id| Some((id, capabilities(fd, id).ok()?)))
        .collect();
    let [(first, 0), (second, 1)] = devices[..] else {
        panic!("{devices:?}");
    };
    assert_eq!(
        hwpt_alloc(fd, DIRTY_TRACKING, first, ioas),
        Err(libc::EOPNOTSUPP)
    );
    let plain = hwpt_alloc(fd, 0, first, ioas).expect("a page table");
    assert_eq!(set_tracking(fd, plain, 1), Err(libc::EOPNOTSUPP));
    let whole = (0x1000, 0x1000, 4096);
    assert_eq!(get_bitmap(fd, plain, 0, whole, 0), Err(libc::EOPNOTSUPP));
    let tracking = hwpt_alloc(fd, DIRTY_TRACKING, second, ioas).expect("a page table");
    let attach = |device: &Device, pt| {
        let mut words = [12, 0, pt];
        ioctl(device.vfio.as_raw_fd(), 0x3b77, &mut words).map(|_| words[2])
    };
    assert_eq!(
        attach(&without, tracking),
        Err(libc::EINVAL),
        "its hardware sets no bits"
    );
    assert_eq!(attach(&with, tracking), Ok(tracking));
    assert_eq!(attach(&without, plain), Ok(plain));
    // The automatic page table has no dirty bits on any IOMMU.
    let auto = attach(&with, ioas).expect("attached");
    assert_eq!(set_tracking(fd, auto, 1), Err(libc::EOPNOTSUPP));
}

#[test]
fn page_tables_are_made_of_known_flags_and_ids() {
    let tracked = Tracked::new(&tracking());
    let (fd, device, ioas) = (tracked.fd(), tracked.device, tracked.ioas);
    for flags in [1, 4, 8, 16, 1 | DIRTY_TRACKING] {
        let answer = hwpt_alloc(fd, flags, device, ioas);
        assert_eq!(answer, Err(libc::EOPNOTSUPP), "{flags}");
    }
    assert_eq!(hwpt_alloc(fd, 0, 99, ioas), Err(libc::ENOENT));
    assert_eq!(
        hwpt_alloc(fd, 0, ioas, ioas),
        Err(libc::ENOENT),
        "no device"
    );
    assert_eq!(hwpt_alloc(fd, 0, device, 99), Err(libc::EINVAL));
    assert_eq!(hwpt_alloc(fd, 0, device, device), Err(libc::EINVAL));
    assert_eq!(
        hwpt_alloc(fd, 0, device, tracked.hwpt),
        Err(libc::EOPNOTSUPP),
        "nesting"
    );
    let mut words = [0; 12];
    words[2..4].copy_from_slice(&[device, ioas]);
    words[7] = 8;
    assert_eq!(
        call(fd, 0x3b89, &mut words),
        Err(libc::EINVAL),
        "data without a type"
    );
    words[6] = 1;
    assert_eq!(call(fd, 0x3b89, &mut words), Err(libc::EOPNOTSUPP));
    words[7] = 0;
    assert_eq!(
        call(fd, 0x3b89, &mut words),
        Err(libc::EINVAL),
        "a type without data"
    );
}

#[test]
fn what_a_job_writes_is_dirty_once_tracking_is_on() {
    let tracked = Tracked::new(&tracking());
    let fd = tracked.fd();
    tracked.guest.work(1);
    assert_eq!(tracked.get(0, 0), Ok(0), "off");
    assert_eq!(set_tracking(fd, tracked.hwpt, 1), Ok(()));
    assert_eq!(tracked.get(0, 0), Ok(0), "clean");
    tracked.guest.work(2);
    let kept = 1 << 63 | 1;
    assert_eq!(tracked.get(1, kept), Ok(kept | WRITTEN), "NO_CLEAR");
    assert_eq!(tracked.get(0, 0), Ok(WRITTEN), "still there");
    assert_eq!(tracked.get(0, 0), Ok(0), "taken");
    tracked.guest.work(3);
    let coarse = (IOVA, LEN as u64, 0x2000);
    assert_eq!(get_bitmap(fd, tracked.hwpt, 0, coarse, 0), Ok(0b10));
    tracked.guest.work(4);
    assert_eq!(set_tracking(fd, tracked.hwpt, 0), Ok(()));
    tracked.guest.work(5);
    assert_eq!(tracked.get(0, 0), Ok(WRITTEN), "kept from before");
    tracked.guest.work(6);
    assert_eq!(tracked.get(0, 0), Ok(0), "off");
    set_tracking(fd, tracked.hwpt, 1).expect("on");
    tracked.guest.work(7);
    assert_eq!(set_tracking(fd, tracked.hwpt, 1), Ok(()), "again");
    assert_eq!(tracked.get(0, 0), Ok(0), "a clean snapshot");
}

#[test]
fn requests_that_name_nothing_or_do_not_fit_are_refused() {
    let tracked = Tracked::new(&tracking());
    let (fd, hwpt, len) = (tracked.fd(), tracked.hwpt, LEN as u64);
    set_tracking(fd, hwpt, 1).expect("on");
    tracked.guest.work(1);
    assert_eq!(set_tracking(fd, hwpt, 2), Err(libc::EOPNOTSUPP));
    for id in [99, tracked.ioas, tracked.device] {
        assert_eq!(set_tracking(fd, id, 1), Err(libc::ENOENT), "{id}");
        let answer = get_bitmap(fd, id, 0, (IOVA, len, 4096), 0);
        assert_eq!(answer, Err(libc::ENOENT), "{id}");
    }
    assert_eq!(tracked.get(2, 0), Err(libc::EOPNOTSUPP));
    for (iova, len, page, errno) in [
        (IOVA + 0x800, len, 4096, libc::EINVAL),
        (IOVA, len - 1, 4096, libc::EINVAL),
        (IOVA, len, 0, libc::EINVAL),
        (IOVA, 0x3000, 0x2000, libc::EINVAL),
        (0, 0x1000, 4096, libc::EINVAL),
        (!0xfff, 0x2000, 4096, libc::EOVERFLOW),
    ] {
        let answer = get_bitmap(fd, hwpt, 0, (iova, len, page), 0);
        assert_eq!(answer, Err(errno), "{iova:#x} {len:#x} {page:#x}");
    }
    assert_eq!(tracked.get(1, 0), Ok(WRITTEN), "nothing was taken");
    // The mappings before the hole have been walked when it is found.
    let past = get_bitmap(fd, hwpt, 0, (IOVA, len + 0x1000, 4096), 0);
    assert_eq!(past, Err(libc::EINVAL));
    assert_eq!(tracked.get(0, 0), Ok(0), "lost, as the kernel loses them");
}

#[test]
fn dirty_bits_are_of_a_page_table_and_go_with_their_mapping() {
    let tracked = Tracked::new(&tracking());
    let (fd, ioas) = (tracked.fd(), tracked.ioas);
    let other = hwpt_alloc(fd, DIRTY_TRACKING, tracked.device, ioas).expect("another");
    for hwpt in [tracked.hwpt, other] {
        set_tracking(fd, hwpt, 1).expect("on");
    }
    tracked.guest.work(1);
    assert_eq!(tracked.attach(other), Ok(other), "replaced");
    assert_eq!(call(fd, 0x3b80, &mut [0, other]), Err(libc::EBUSY));
    let whole = (IOVA, LEN as u64, 4096);
    assert_eq!(get_bitmap(fd, other, 0, whole, 0), Ok(0));
    assert_eq!(tracked.get(1, 0), Ok(WRITTEN), "the old one keeps its own");
    tracked.guest.work(2);
    assert_eq!(get_bitmap(fd, other, 1, whole, 0), Ok(WRITTEN));
    let memory = tracked.guest.memory.0 as u64;
    assert_eq!(unmap(fd, ioas, IOVA, LEN as u64), Ok(LEN as u64));
    assert_eq!(tracked.get(0, 0), Err(libc::EINVAL), "not mapped");
    assert_eq!(map(fd, 7, ioas, memory, LEN as u64, IOVA), Ok(IOVA));
    assert_eq!(tracked.get(0, 0), Ok(0));
    assert_eq!(get_bitmap(fd, other, 0, whole, 0), Ok(0));
    assert_eq!(call(fd, 0x3b80, &mut [0, tracked.hwpt]), Ok(()));
    assert_eq!(tracked.get(0, 0), Err(libc::ENOENT));
}

#[test]
fn large_leaves_are_dirty_as_a_whole_until_they_are_switched_off() {
    let leaves = |small: bool| {
        let host = TestHost::with(&HostConfig {
            iommu_leaf: 0x4000,
            ..tracking()
        });
        let iommufd = Arc::new(IommuFd::new().expect("an iommufd"));
        let fd = iommufd.as_raw_fd();
        let ioas = alloc(fd);
        let option = |op: u32, value: u64| {
            let mut words = [[0, 1], [op, ioas], split(value)].concat();
            call(fd, 0x3b87, &mut words).map(|()| words[4])
        };
        if small {
            assert_eq!(option(0, 0), Ok(0), "HUGE_PAGES off");
        }
        assert_eq!(option(1, 9), Ok(u32::from(!small)));
        let guest = Guest::new(host.by_cdev_in(1, &iommufd, ioas));
        if !small {
            assert_eq!(option(0, 0), Err(libc::EINVAL), "too late");
        }
        let device = (1..9).find(|&id| capabilities(fd, id).is_ok());
        let hwpt = hwpt_alloc(fd, DIRTY_TRACKING, device.expect("a device"), ioas).expect("one");
        let mut words = [12, 0, hwpt];
        ioctl(guest.device.vfio.as_raw_fd(), 0x3b77, &mut words).expect("attached");
        set_tracking(fd, hwpt, 1).expect("on");
        guest.work(1);
        get_bitmap(fd, hwpt, 0, (IOVA, LEN as u64, 4096), 0)
    };
    assert_eq!(leaves(false), Ok(0b1111));
    assert_eq!(leaves(true), Ok(WRITTEN));
}

#[test]
fn faults_hit_the_page_tables_requests() {
    let tracked = Tracked::new(&tracking());
    let (fd, hwpt) = (tracked.fd(), tracked.hwpt);
    let vf = tracked.host.host.vf(1).expect("a VF");
    let fail = |op| {
        let effect = Effect::Errno(Errno::EIO);
        let spec = FaultSpec {
            op,
            nth: 1,
            count: 1,
            effect,
        };
        vf.faults().add(&spec).expect("a fault");
    };
    fail(Op::SetDirtyTracking);
    assert_eq!(set_tracking(fd, hwpt, 1), Err(libc::EIO));
    assert_eq!(set_tracking(fd, hwpt, 1), Ok(()));
    tracked.guest.work(1);
    fail(Op::GetDirtyBitmap);
    assert_eq!(tracked.get(0, 0), Err(libc::EIO));
    assert_eq!(tracked.get(0, 0), Ok(WRITTEN));
    fail(Op::HwptAlloc);
    let again = || hwpt_alloc(fd, DIRTY_TRACKING, tracked.device, tracked.ioas);
    assert_eq!(again(), Err(libc::EIO));
    assert!(again().is_ok());
}
