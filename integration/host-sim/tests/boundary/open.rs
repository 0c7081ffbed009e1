// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Paths, nodes, groups and containers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::common::*;

#[test]
fn sysfs_tells_what_the_vf_is() {
    let host = TestHost::new();
    let dir = host.sysfs(1);
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect(name);
    assert_eq!(read("vendor"), "0x8086\n");
    assert_eq!(read("device"), "0xe211\n");
    assert_eq!(read("class"), "0x038000\n");
    assert_eq!(read("resource").lines().count(), 17);
    assert_eq!(
        fs::read(dir.join("config")).expect("config")[..4],
        [0x86, 0x80, 0x11, 0xe2]
    );
    let driver = fs::read_link(dir.join("driver")).expect("a link");
    assert_eq!(driver.file_name().expect("a name"), "xe-vfio-pci");
    let group = fs::read_link(dir.join("iommu_group")).expect("a link");
    assert_eq!(
        group.file_name().expect("a name").to_string_lossy(),
        host.group(1).replace("/dev/vfio/", "")
    );
    let nodes: Vec<_> = fs::read_dir(dir.join("vfio-dev"))
        .expect("a directory")
        .map(|e| e.expect("an entry"))
        .collect();
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].path().is_dir());
    let real = fs::canonicalize(&dir).expect("a real path");
    assert!(
        real.starts_with("/sys/devices") && real.ends_with(host.bdf(1)),
        "{}",
        real.display()
    );
    let pf = dir.join("physfn");
    assert_eq!(
        fs::read_to_string(pf.join("sriov_numvfs")).expect("numvfs"),
        "2\n"
    );
    assert_eq!(
        fs::read_to_string(pf.join("sriov_admin/vf2/profile/vram_quota")).expect("a quota"),
        format!("{}\n", host.host.config().vram)
    );
    assert!(
        fs::canonicalize(pf.join("virtfn0"))
            .expect("virtfn0")
            .ends_with(host.bdf(1))
    );
    assert!(!dir.join("no_such_file").exists());
    let twisted = format!("//sys/bus/./pci//devices/{}/vendor", host.bdf(1));
    assert_eq!(
        fs::read_to_string(twisted).expect("the same file"),
        "0x8086\n"
    );
}

#[test]
fn device_nodes_are_character_devices_with_the_number_in_sysfs() {
    let host = TestHost::new();
    let node = host.cdev(1);
    let name = node.rsplit('/').next().expect("a name");
    let number =
        fs::read_to_string(host.sysfs(1).join(format!("vfio-dev/{name}/dev"))).expect("dev");
    let by_path = fs::metadata(&node).expect("metadata");
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&node)
        .expect("open");
    let by_fd = opened.metadata().expect("metadata");
    for metadata in [by_path, by_fd] {
        assert!(metadata.file_type().is_char_device());
        let rdev = metadata.rdev();
        assert_eq!(
            format!("{}:{}\n", libc::major(rdev), libc::minor(rdev)),
            number
        );
    }
    for node in ["/dev/vfio/vfio", "/dev/iommu", &host.group(1)] {
        assert!(
            fs::metadata(node)
                .expect("metadata")
                .file_type()
                .is_char_device(),
            "{node}"
        );
    }
    assert_eq!(
        open("/dev/vfio/4294967295", libc::O_RDWR),
        Err(libc::ENOENT)
    );
}

#[test]
fn a_group_opens_once_and_again_after_the_device_is_closed() {
    let host = TestHost::new();
    let first = open(&host.group(1), libc::O_RDWR).expect("open");
    assert_eq!(open(&host.group(1), libc::O_RDWR), Err(libc::EBUSY));
    // SAFETY: a descriptor of this test.
    let copy = unsafe { libc::dup(first) };
    close(first);
    assert_eq!(
        open(&host.group(1), libc::O_RDWR),
        Err(libc::EBUSY),
        "a copy holds it"
    );
    let other = open(&host.group(2), libc::O_RDWR).expect("another group");
    close(copy);
    close(other);
    let device = host.by_group(1);
    assert_eq!(open(&host.group(1), libc::O_RDWR), Err(libc::EBUSY));
    drop(device);
    close(open(&host.group(1), libc::O_RDWR).expect("free again"));
}

#[test]
fn group_and_container_go_through_their_states() {
    let host = TestHost::new();
    let container = open("/dev/vfio/vfio", libc::O_RDWR).expect("a container");
    let group = open(&host.group(1), libc::O_RDWR).expect("a group");
    let name = std::ffi::CString::new(host.bdf(1)).expect("a name");
    let status = |group| {
        let mut arg = [8u32, 0];
        ioctl(group, 0x3b67, &mut arg).expect("status");
        arg[1]
    };
    assert_eq!(ioctl_value(container, 0x3b64, 0), Ok(0));
    for (extension, there) in [(1, 1), (3, 1), (9, 1), (7, 0), (1234, 0)] {
        assert_eq!(
            ioctl_value(container, 0x3b65, extension),
            Ok(there),
            "extension {extension}"
        );
    }
    assert_eq!(
        ioctl_value(container, 0x3b66, 3),
        Err(libc::EINVAL),
        "no group yet"
    );
    assert_eq!(status(group), 1);
    assert_eq!(
        ioctl_value(group, 0x3b6a, name.as_ptr() as usize),
        Err(libc::EINVAL),
        "no container yet"
    );
    assert_eq!(ioctl(group, 0x3b68, &mut -1), Err(libc::EBADF));
    let mut not_one = 0;
    assert_eq!(ioctl(group, 0x3b68, &mut not_one), Err(libc::EINVAL));
    let mut fd = container;
    ioctl(group, 0x3b68, &mut fd).expect("SET_CONTAINER");
    assert_eq!(ioctl(group, 0x3b68, &mut fd), Err(libc::EINVAL), "has one");
    assert_eq!(status(group), 3);
    assert_eq!(
        ioctl_value(group, 0x3b6a, name.as_ptr() as usize),
        Err(libc::EINVAL),
        "no IOMMU yet"
    );
    assert_eq!(ioctl_value(container, 0x3b66, 3), Ok(0));
    assert_eq!(
        ioctl_value(container, 0x3b66, 3),
        Err(libc::EINVAL),
        "has one"
    );
    assert_eq!(
        ioctl_value(group, 0x3b6a, c"0000:00:00.0".as_ptr() as usize),
        Err(libc::ENODEV)
    );
    let device = ioctl_value(group, 0x3b6a, name.as_ptr() as usize).expect("a device");
    let second = ioctl_value(group, 0x3b6a, name.as_ptr() as usize).expect("a second fd");
    assert_eq!(set_state(device, STOP), Ok(-1));
    assert_eq!(state(second), STOP, "both are the same device");
    assert_eq!(ioctl_value(group, 0x3b69, 0), Err(libc::EBUSY));
    close(device);
    assert_eq!(state(second), STOP);
    assert_eq!(ioctl_value(group, 0x3b69, 0), Err(libc::EBUSY));
    close(second);
    assert_eq!(ioctl_value(group, 0x3b69, 0), Ok(0));
    assert_eq!(status(group), 1);
    close(group);
    close(container);
}
