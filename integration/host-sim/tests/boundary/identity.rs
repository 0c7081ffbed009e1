// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whose an fd is: by what it is, never by its number.

use std::os::fd::AsRawFd;

use crate::common::*;

#[test]
fn a_number_that_was_ours_and_was_closed_unseen_is_not_hijacked() {
    let host = TestHost::new();
    // In a child of its own, so that no other test's thread takes the number.
    let child = fork(|| {
        let device = host.by_group(1);
        let fd = device.vfio.as_raw_fd();
        let data = set_state(fd, STOP_COPY).expect("SET");
        drain(data);
        // SAFETY: closes this child's data fd behind the boundary's back; the pipe takes its number.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_close_range, data, data, 0), 0);
            let mut pipe = [0; 2];
            assert_eq!(libc::syscall(libc::SYS_pipe2, pipe.as_mut_ptr(), 0), 0);
            assert!(pipe.contains(&data), "{pipe:?} {data}");
            assert_eq!(libc::write(pipe[1], c"hello".as_ptr().cast(), 5), 5);
            let mut buf = [0u8; 8];
            assert_eq!(libc::read(pipe[0], buf.as_mut_ptr().cast(), 8), 5);
            assert_eq!(&buf[..5], b"hello");
            assert_eq!(libc::fsync(pipe[0]), -1);
        }
        // The session lives on in the kernel, and so it does here.
        assert_eq!(state(fd), STOP_COPY);
        assert_eq!(set_state(fd, RUNNING), Ok(-1));
        0
    });
    assert_eq!(wait(child), 0);
}

#[test]
fn a_device_closed_unseen_is_closed() {
    let host = TestHost::new();
    let child = fork(|| {
        let device = host.by_group(1);
        set_state(device.vfio.as_raw_fd(), STOP).expect("SET");
        let ours = |fd: &i32| {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
            link.to_string_lossy().contains("vfio")
        };
        let fds: Vec<i32> = (3..256).filter(ours).collect();
        assert_eq!(fds.len(), 3, "container, group and device");
        for fd in fds {
            // SAFETY: descriptors of this child that nothing uses any more.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, fd, fd, 0) };
            assert_eq!(closed, 0);
        }
        std::mem::forget(device);
        let again = host.by_group(1);
        let answer = i32::from(state(again.vfio.as_raw_fd()) != RUNNING);
        drop(again);
        answer
    });
    assert_eq!(wait(child), 0);
}

#[test]
fn dup2_onto_a_device_closes_it() {
    let host = TestHost::new();
    let group = open(&host.group(1), libc::O_RDWR).expect("open");
    let null = open("/dev/null", libc::O_RDWR).expect("open");
    // SAFETY: descriptors of this test.
    assert_eq!(unsafe { libc::dup2(null, group) }, group);
    let again = open(&host.group(1), libc::O_RDWR).expect("free again");
    // And a device may come to a number by dup2.
    // SAFETY: as above.
    assert_eq!(unsafe { libc::dup2(again, group) }, group);
    close(again);
    let mut status = [8u32, 0];
    ioctl(group, 0x3b67, &mut status).expect("the group");
    for fd in [group, null] {
        close(fd);
    }
}

#[test]
fn foreign_files_are_left_alone() {
    let host = TestHost::new();
    let path = host.host.dir().join("foreign");
    std::fs::write(&path, "content").expect("write");
    assert_eq!(std::fs::read_to_string(&path).expect("read"), "content");
    assert!(std::fs::metadata("/dev/null").is_ok());
    assert!(std::fs::metadata("/sys/bus/pci/devices/ffff:ff:1f.7").is_err());
}

#[test]
fn two_hosts_live_in_one_process_and_a_clash_is_refused() {
    let (a, b) = (TestHost::new(), TestHost::new());
    let (x, y) = (a.by_group(1), b.by_cdev(1));
    x.vfio.set_migration_state(STOP_COPY).expect("STOP_COPY");
    let stream = x.vfio.read_migration_data_to_end().expect("read");
    y.vfio.set_migration_state(RESUMING).expect("RESUMING");
    y.vfio.write_migration_data(&stream).expect("write");
    y.vfio.set_migration_state(RUNNING).expect("RUNNING");
    let twin = TestHost::unattached(a.host.config());
    let error = host_sim::boundary::attach(twin.host.dir()).expect_err("the same devices twice");
    assert!(error.to_string().contains(&a.bdf(1)), "{error}");
    host_sim::boundary::attach(a.host.dir()).expect("again is nothing");
}
