// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices in several processes: passed on, inherited, left behind by the dead.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use iommufd_ioctls::IommuFd;
use vfio_ioctls::{VfioDevice, VfioIommufd, VfioOps};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::common::*;

fn send(socket: &UnixStream, fd: i32) {
    socket.send_with_fd(&b"x"[..], fd).expect("sent");
}

fn receive(socket: &UnixStream) -> File {
    let mut byte = [0];
    let (n, file) = socket.recv_with_fd(&mut byte).expect("received");
    assert_eq!(n, 1);
    file.expect("an fd")
}

fn wait_for_byte(socket: &UnixStream) {
    use std::io::Read;
    let mut socket = socket;
    socket.read_exact(&mut [0]).expect("a byte");
}

#[test]
fn a_cdev_and_iommufd_opened_here_are_used_in_another_process() {
    let host = TestHost::new();
    let (here, there) = UnixStream::pair().expect("sockets");
    // The child is there before the fds are, so it inherits none of them.
    let child = fork(|| {
        let (iommufd, cdev) = (receive(&there), receive(&there));
        let ops: Arc<dyn VfioOps> = Arc::new(
            VfioIommufd::new(Arc::new(IommuFd::new_from_fd(iommufd)), None, None).expect("an IOAS"),
        );
        let device = VfioDevice::new_from_fd(cdev, ops).expect("a device");
        assert_eq!(device.get_region_size(0), 8 * MIB);
        device.set_migration_state(STOP_COPY).expect("STOP_COPY");
        let stream = device.read_migration_data_to_end().expect("read");
        i32::from(stream.len() < 8 << 20)
    });
    drop(there);
    let iommufd = open("/dev/iommu", libc::O_RDWR | libc::O_CLOEXEC).expect("open");
    let cdev = open(&host.cdev(1), libc::O_RDWR | libc::O_CLOEXEC).expect("open");
    send(&here, iommufd);
    send(&here, cdev);
    close(iommufd);
    close(cdev);
    assert_eq!(wait(child), 0);
}

#[test]
fn a_device_and_its_data_fd_are_used_in_another_process() {
    let host = TestHost::new();
    let (here, there) = UnixStream::pair().expect("sockets");
    let child = fork(|| {
        let (device, data) = (receive(&there), receive(&there));
        let (fd, data) = (device.as_raw_fd(), data.as_raw_fd());
        assert_eq!(state(fd), STOP_COPY);
        assert!(drain(data).len() > 8 << 20);
        assert_eq!(set_state(fd, STOP), Ok(-1));
        let load = set_state(fd, RESUMING).expect("RESUMING");
        send(&there, load);
        0
    });
    drop(there);
    let device = host.by_group(1);
    let fd = device.vfio.as_raw_fd();
    let data = set_state(fd, STOP_COPY).expect("SET");
    send(&here, fd);
    send(&here, data);
    close(data);
    let load = receive(&here);
    assert_eq!(state(fd), RESUMING);
    // SAFETY: a descriptor that was received; write-only, so that its file cannot be read here.
    let n = unsafe { libc::write(load.as_raw_fd(), [0u8; 1].as_ptr().cast(), 1) };
    // A version of 0 is refused once the header is there; a byte alone is taken or refused, but not by the wrong fd.
    assert!(n == 1 || errno(-1) == libc::EINVAL);
    assert_eq!(wait(child), 0);
}

#[test]
fn a_device_of_a_killed_process_is_free_and_reset() {
    let host = TestHost::new();
    let (here, there) = UnixStream::pair().expect("sockets");
    let child = fork(|| {
        let device = host.by_group(1);
        device.vfio.region_write(2, b"left behind", 64);
        device.vfio.set_migration_state(STOP).expect("STOP");
        send(&there, 0);
        loop {
            // SAFETY: waits for the signal.
            unsafe { libc::pause() };
        }
    });
    drop(there);
    wait_for_byte(&here);
    assert_eq!(open(&host.group(1), libc::O_RDWR), Err(libc::EBUSY));
    // SAFETY: a child of this test.
    unsafe { libc::kill(child, libc::SIGKILL) };
    assert_eq!(wait(child), 128 + libc::SIGKILL);
    let device = host.by_group(1);
    assert_eq!(device.vfio.get_migration_state().expect("GET"), RUNNING);
    let mut bytes = [1; 11];
    device.vfio.region_read(2, &mut bytes, 64);
    assert_eq!(bytes, [0; 11], "VRAM is cleared");
}

#[test]
fn a_device_stays_open_as_long_as_one_process_has_it() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let fd = device.vfio.as_raw_fd();
    set_state(fd, STOP).expect("SET");
    let (here, there) = UnixStream::pair().expect("sockets");
    let child = fork(|| {
        // Inherited; the parent closes its own now.
        send(&there, 0);
        wait_for_byte(&there);
        i32::from(state(fd) != STOP)
    });
    drop(there);
    wait_for_byte(&here);
    // SAFETY: the only owner of the number in this process.
    drop(unsafe { File::from_raw_fd(fd) });
    assert_eq!(open(&host.group(1), libc::O_RDWR), Err(libc::EBUSY));
    send(&here, 0);
    assert_eq!(wait(child), 0);
    // Its owner is left without the fd on purpose.
    std::mem::forget(device);
}
