// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! cdev and iommufd, request by request.

use crate::common::*;
use crate::requests::{alloc, call, map, split, unmap};

fn page() -> (Vec<u8>, u64) {
    let memory = vec![0; 0x6000];
    let at = (memory.as_ptr() as u64).next_multiple_of(4096);
    (memory, at)
}

#[test]
fn structures_of_the_wrong_size_are_told_apart() {
    let _host = TestHost::new();
    let iommufd = open("/dev/iommu", libc::O_RDWR).expect("open");
    assert_eq!(
        call(iommufd, 0x3b81, &mut [0, 0]),
        Err(libc::EINVAL),
        "short"
    );
    assert_eq!(
        call(iommufd, 0x3b81, &mut [0, 0, 0, 0]),
        Ok(()),
        "long and zero"
    );
    assert_eq!(
        call(iommufd, 0x3b81, &mut [0, 0, 0, 1]),
        Err(libc::E2BIG),
        "long and not zero"
    );
    assert_eq!(
        call(iommufd, 0x3b81, &mut [0, 1, 0]),
        Err(libc::EOPNOTSUPP),
        "unknown flag"
    );
    for unknown in [0x3b8d, 0x3b8e, 0x3b90, 0x3bff] {
        assert_eq!(
            call(iommufd, unknown, &mut [0; 16]),
            Err(libc::ENOTTY),
            "{unknown:#x}"
        );
    }
    close(iommufd);
}

#[test]
fn an_ioas_maps_unmaps_copies_and_goes() {
    let _host = TestHost::new();
    let iommufd = open("/dev/iommu", libc::O_RDWR).expect("open");
    let (a, b) = (alloc(iommufd), alloc(iommufd));
    assert_ne!(a, b);
    let (_memory, at) = page();
    assert_eq!(map(iommufd, 7, a, at, 0x2000, 0x10000), Ok(0x10000));
    assert_eq!(map(iommufd, 7, a, at, 0x1000, 0x11000), Err(libc::EEXIST));
    assert_eq!(map(iommufd, 7, 99, at, 0x1000, 0), Err(libc::ENOENT));
    assert_eq!(map(iommufd, 7, a, at, 0, 0x20000), Err(libc::EINVAL));
    assert_eq!(map(iommufd, 7, a, at, 0x1000, 0x20001), Err(libc::EINVAL));
    assert_eq!(
        map(iommufd, 8, a, at, 0x1000, 0x20000),
        Err(libc::EOPNOTSUPP)
    );
    assert_eq!(
        map(iommufd, 7, a, 0x1000, 0x1000, 0x20000),
        Err(libc::EFAULT)
    );
    assert_eq!(map(iommufd, 7, a, at, 0x2000, !0xfff), Err(libc::EOVERFLOW));
    let chosen = map(iommufd, 6, a, at, 0x1000, 0).expect("an IOVA of the kernel's choice");
    assert_eq!(unmap(iommufd, a, chosen, 0x1000), Ok(0x1000));
    let copy = |flags, to: u32, len, to_iova, from_iova| {
        let mut words = [
            [0, flags],
            [to, a],
            split(len),
            split(to_iova),
            split(from_iova),
        ]
        .concat();
        call(iommufd, 0x3b83, &mut words)
    };
    assert_eq!(
        copy(7, b, 0x1000, 0, 0x10000),
        Err(libc::ENOENT),
        "not all of a mapping"
    );
    assert_eq!(copy(7, b, 0x2000, 0x5000, 0x10000), Ok(()));
    assert_eq!(
        unmap(iommufd, b, 0x5000, 0x1000),
        Err(libc::ENOENT),
        "part of a mapping"
    );
    assert_eq!(unmap(iommufd, b, 0, u64::MAX), Ok(0x2000));
    assert_eq!(unmap(iommufd, b, 0, u64::MAX), Ok(0));
    assert_eq!(unmap(iommufd, b, 0x5000, 0x2000), Err(libc::ENOENT));
    let mut ranges = [0u64; 4];
    let mut words = [[0, a], [2, 0], split(ranges.as_mut_ptr() as u64), [0, 0]].concat();
    call(iommufd, 0x3b84, &mut words).expect("IOVA_RANGES");
    assert_eq!((words[2], words[6]), (1, 4096));
    assert_eq!(ranges[..2], [0, u64::MAX]);
    assert_eq!(call(iommufd, 0x3b80, &mut [0, a]), Ok(()));
    assert_eq!(call(iommufd, 0x3b80, &mut [0, a]), Err(libc::ENOENT));
    assert_eq!(map(iommufd, 7, a, at, 0x1000, 0), Err(libc::ENOENT));
    close(iommufd);
}

#[test]
fn a_file_is_mapped_without_being_in_the_process() {
    use std::os::fd::AsRawFd;
    let _host = TestHost::new();
    let iommufd = open("/dev/iommu", libc::O_RDWR).expect("open");
    let ioas = alloc(iommufd);
    let file = tempfile::tempfile().expect("a file");
    file.set_len(0x4000).expect("long enough");
    let mut words = [
        [0, 7],
        [ioas, file.as_raw_fd() as u32],
        split(0x1000),
        split(0x2000),
        split(0x8000),
    ]
    .concat();
    call(iommufd, 0x3b8f, &mut words).expect("IOAS_MAP_FILE");
    assert_eq!(unmap(iommufd, ioas, 0x8000, 0x2000), Ok(0x2000));
    close(iommufd);
}

#[test]
fn a_cdev_is_bound_attached_and_detached() {
    let host = TestHost::new();
    let iommufd = open("/dev/iommu", libc::O_RDWR).expect("open");
    let cdev = open(&host.cdev(1), libc::O_RDWR).expect("open");
    let bind = |cdev, iommufd: i32| {
        let mut words = [16, 0, iommufd as u32, 0];
        ioctl(cdev, 0x3b76, &mut words).map(|_| words[3])
    };
    let attach = |pt| {
        let mut words = [12, 0, pt];
        ioctl(cdev, 0x3b77, &mut words).map(|_| words[2])
    };
    let mut info = [24u32, 0, 0, 0, 0, 0];
    assert_eq!(
        ioctl(cdev, 0x3b6b, &mut info),
        Err(libc::EINVAL),
        "not bound"
    );
    assert_eq!(bind(cdev, -1), Err(libc::EINVAL));
    assert_eq!(bind(cdev, 987), Err(libc::EBADF));
    assert_eq!(bind(cdev, cdev), Err(libc::EBADFD));
    let id = bind(cdev, iommufd).expect("bound");
    assert_eq!(bind(cdev, iommufd), Err(libc::EINVAL), "twice");
    let second = open(&host.cdev(1), libc::O_RDWR).expect("a node opens as often as you like");
    assert_eq!(
        bind(second, iommufd),
        Err(libc::EINVAL),
        "but there is one owner"
    );
    close(second);
    assert_eq!(open(&host.group(1), libc::O_RDWR), Err(libc::EBUSY));
    ioctl(cdev, 0x3b6b, &mut info).expect("GET_INFO");
    assert_eq!(info[1..4], [3, 9, 5]);
    let ioas = alloc(iommufd);
    assert_eq!(attach(99), Err(libc::ENOENT));
    assert_eq!(attach(id), Err(libc::EINVAL), "no page table");
    let hwpt = attach(ioas).expect("attached");
    assert_ne!(hwpt, ioas);
    assert_eq!(attach(hwpt), Ok(hwpt), "again, by page table");
    let mut alloc_hwpt = [0, 0, id, ioas, 0, 0];
    call(iommufd, 0x3b89, &mut alloc_hwpt).expect("HWPT_ALLOC");
    assert_eq!(attach(alloc_hwpt[4]), Ok(alloc_hwpt[4]));
    let mut hw = [0; 10];
    hw[2] = id;
    call(iommufd, 0x3b8a, &mut hw).expect("GET_HW_INFO");
    let mut ranges = [0u64; 4];
    let mut words = [[0, ioas], [2, 0], split(ranges.as_mut_ptr() as u64), [0, 0]].concat();
    call(iommufd, 0x3b84, &mut words).expect("IOVA_RANGES");
    assert_eq!(
        ranges,
        [0, 0xfedf_ffff, 0xfef0_0000, (1 << 48) - 1],
        "narrowed by the device"
    );
    words[2] = 1;
    assert_eq!(call(iommufd, 0x3b84, &mut words), Err(libc::EMSGSIZE));
    assert_eq!(words[2], 2);
    assert_eq!(call(iommufd, 0x3b80, &mut [0, ioas]), Err(libc::EBUSY));
    assert_eq!(ioctl(cdev, 0x3b78, &mut [8u32, 0]), Ok(0));
    assert_eq!(call(iommufd, 0x3b80, &mut [0, alloc_hwpt[4]]), Ok(()));
    assert_eq!(call(iommufd, 0x3b80, &mut [0, ioas]), Ok(()));
    close(cdev);
    let group = open(&host.group(1), libc::O_RDWR).expect("free again");
    let cdev = open(&host.cdev(1), libc::O_RDWR).expect("open");
    assert_eq!(bind(cdev, iommufd), Err(libc::EBUSY), "the group is in use");
    close(group);
    bind(cdev, iommufd).expect("bound");
    close(cdev);
    close(iommufd);
}
