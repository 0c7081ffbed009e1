// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every behaviour of the migration data fd.

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use crate::common::*;

fn read(fd: c_int, buf: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the buffer is as long as said.
    let n = unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) };
    usize::try_from(n).map_err(|_| errno(-1))
}

fn write(fd: c_int, buf: &[u8]) -> Result<usize, i32> {
    // SAFETY: the buffer is as long as said.
    let n = unsafe { libc::write(fd, buf.as_ptr().cast(), buf.len()) };
    usize::try_from(n).map_err(|_| errno(-1))
}

#[test]
fn a_saved_state_is_read_once_and_loaded_by_another_vf() {
    let host = TestHost::new();
    let (source, destination) = (host.by_group(1), host.by_cdev(2));
    source.vfio.region_write(2, b"content of VRAM", 4096);
    source
        .vfio
        .set_migration_state(STOP_COPY)
        .expect("STOP_COPY");
    let stream = source
        .vfio
        .read_migration_data_to_end()
        .expect("the stream");
    destination
        .vfio
        .set_migration_state(RESUMING)
        .expect("RESUMING");
    destination
        .vfio
        .write_migration_data(&stream)
        .expect("loaded");
    destination
        .vfio
        .set_migration_state(RUNNING)
        .expect("RUNNING");
    let mut bytes = [0; 15];
    destination.vfio.region_read(2, &mut bytes, 4096);
    assert_eq!(&bytes, b"content of VRAM");
}

#[test]
fn the_end_of_the_stream_is_0_again_and_again() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let data = set_state(device.vfio.as_raw_fd(), STOP_COPY).expect("SET");
    assert!(drain(data).len() > 8 << 20);
    for _ in 0..3 {
        assert_eq!(read(data, &mut [0; 64]), Ok(0));
    }
    close(data);
}

#[test]
fn everything_but_read_and_write_answers_its_errno() {
    let host = TestHost::new();
    let device = host.by_group(1);
    for (target, mode) in [(STOP_COPY, libc::O_RDONLY), (RESUMING, libc::O_WRONLY)] {
        let data = set_state(device.vfio.as_raw_fd(), target).expect("SET");
        let mut byte = [0u8; 1];
        let mut pipe = [0; 2];
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        let mut poll = libc::pollfd {
            fd: data,
            events: libc::POLLIN | libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: plain system calls with buffers that live here.
        unsafe {
            assert_eq!(libc::fcntl(data, libc::F_GETFL) & libc::O_ACCMODE, mode);
            assert_eq!(libc::fcntl(data, libc::F_GETFD), libc::FD_CLOEXEC);
            if mode == libc::O_RDONLY {
                assert_eq!(write(data, &byte), Err(libc::EBADF));
            } else {
                assert_eq!(read(data, &mut byte), Err(libc::EBADF));
            }
            assert_eq!(
                errno(libc::pread(data, byte.as_mut_ptr().cast(), 1, 0) as i64),
                libc::ESPIPE
            );
            assert_eq!(
                errno(libc::pwrite(data, byte.as_ptr().cast(), 1, 0) as i64),
                libc::ESPIPE
            );
            assert_eq!(errno(libc::lseek(data, 0, libc::SEEK_CUR)), libc::ESPIPE);
            assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
            assert_eq!(
                errno(libc::splice(data, null_mut(), pipe[1], null_mut(), 1, 0) as i64),
                libc::EINVAL
            );
            assert_eq!(
                errno(libc::splice(pipe[0], null_mut(), data, null_mut(), 1, 0) as i64),
                libc::EINVAL
            );
            assert_eq!(
                errno(libc::sendfile(pipe[1], data, null_mut(), 1) as i64),
                libc::EINVAL
            );
            assert_eq!(
                errno(libc::copy_file_range(data, null_mut(), pipe[1], null_mut(), 1, 0) as i64),
                libc::EINVAL
            );
            let mapped = libc::mmap(null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, data, 0);
            // The access mode is looked at first.
            let expected = if mode == libc::O_RDONLY {
                libc::ENODEV
            } else {
                libc::EACCES
            };
            assert_eq!((mapped, errno(-1)), (libc::MAP_FAILED, expected));
            let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert_eq!(
                errno(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, data, &raw mut event).into()),
                libc::EPERM
            );
            assert_eq!(ioctl(data, 0x3b75, &mut byte), Err(libc::ENOTTY));
            assert_eq!(errno(libc::fsync(data).into()), libc::EINVAL);
            assert_eq!(libc::poll(&raw mut poll, 1, 0), 1);
            assert_eq!(poll.revents, libc::POLLIN | libc::POLLOUT);
            for fd in [epoll, pipe[0], pipe[1], data] {
                close(fd);
            }
        }
        assert_eq!(ioctl_value(device.vfio.as_raw_fd(), 0x3b6f, 0), Ok(0));
    }
}

/// Size, mode and number of blocks of each file that stands for something open, past everything that answers for it.
fn open_files(host: &TestHost) -> Vec<(std::ffi::OsString, u64, u32, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut files: Vec<_> = std::fs::read_dir(host.host.open_dir())
        .expect("the directory")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let file = entry.metadata().expect("there");
            (entry.file_name(), file.len(), file.mode(), file.blocks())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn calls_for_files_answer_as_for_what_has_no_file_and_touch_none_of_ours() {
    let host = TestHost::new();
    let device = host.by_group(1);
    for (target, readable) in [(STOP_COPY, true), (RESUMING, false)] {
        let data = set_state(device.vfio.as_raw_fd(), target).expect("SET");
        let before = open_files(&host);
        let mut byte = [0u8; 1];
        let part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let refused = |answer: i64, expected: i32, what: &str| {
            assert_eq!(errno(answer), expected, "{what}, readable: {readable}");
        };
        let only = |mode: bool, expected| if mode { expected } else { libc::EBADF };
        // SAFETY: plain system calls with buffers that live here.
        unsafe {
            refused(libc::ftruncate(data, 64).into(), libc::EINVAL, "ftruncate");
            refused(
                libc::fallocate(data, 0, 0, 4096).into(),
                only(!readable, libc::ENODEV),
                "fallocate",
            );
            assert_eq!(
                libc::posix_fallocate(data, 0, 4096),
                only(!readable, libc::ENODEV)
            );
            refused(libc::fchmod(data, 0).into(), libc::EOPNOTSUPP, "fchmod");
            refused(libc::fchown(data, 1, 1).into(), libc::EOPNOTSUPP, "fchown");
            refused(
                libc::sync_file_range(data, 0, 0, 0).into(),
                libc::ESPIPE,
                "sync_file_range",
            );
            refused(
                libc::readahead(data, 0, 1) as i64,
                only(readable, libc::EINVAL),
                "readahead",
            );
            refused(
                libc::preadv2(data, &raw const part, 1, 0, 0) as i64,
                libc::ESPIPE,
                "preadv2",
            );
            refused(
                libc::pwritev2(data, &raw const part, 1, -1, libc::RWF_APPEND) as i64,
                only(!readable, libc::EOPNOTSUPP),
                "pwritev2",
            );
            refused(
                libc::fcntl(data, libc::F_SETLEASE, libc::F_RDLCK).into(),
                libc::EINVAL,
                "F_SETLEASE",
            );
            let name = c"user.x".as_ptr();
            refused(
                libc::fsetxattr(data, name, null_mut(), 0, 0).into(),
                libc::EPERM,
                "fsetxattr",
            );
            let flags = libc::O_WRONLY | libc::O_TRUNC;
            assert_eq!(
                open(&format!("/proc/self/fd/{data}"), flags),
                Err(libc::ENXIO)
            );
        }
        assert_eq!(
            ioctl(data, libc::FIONREAD as u32, &mut 0),
            Err(libc::ENOTTY)
        );
        assert_eq!(open_files(&host), before);
        close(data);
        assert_eq!(ioctl_value(device.vfio.as_raw_fd(), 0x3b6f, 0), Ok(0));
    }
}

#[test]
fn locks_of_a_program_do_not_make_its_fds_look_closed() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let fd = device.vfio.as_raw_fd();
    let data = set_state(fd, STOP_COPY).expect("SET");
    let held = host.host.held().expect("what is held");
    for fd in [fd, data] {
        for operation in [libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN] {
            // SAFETY: integers.
            assert_eq!(unsafe { libc::flock(fd, operation) }, 0);
        }
        // SAFETY: integers.
        assert_eq!(errno(unsafe { libc::flock(fd, 0) }.into()), libc::EINVAL);
    }
    assert_eq!(host.host.held().expect("what is held"), held);
    assert_eq!(open(&host.group(1), libc::O_RDWR), Err(libc::EBUSY));
    close(data);
}

#[test]
fn looking_at_what_is_held_makes_nothing_look_held() {
    let host = TestHost::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                host.host.held().expect("what is held");
            }
        });
        // The second open finds the first's file, closed a moment ago.
        let opened = (0..300).all(|_| {
            open(&host.group(1), libc::O_RDWR).is_ok_and(|fd| {
                close(fd);
                true
            })
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(opened, "EBUSY for a group that nobody has open");
    });
}

#[test]
fn vectored_reads_copies_of_the_fd_and_children_go_on_with_one_stream() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let fd = device.vfio.as_raw_fd();
    let whole = {
        let data = set_state(fd, STOP_COPY).expect("SET");
        let all = drain(data);
        close(data);
        set_state(fd, STOP).expect("SET");
        all
    };
    let data = set_state(fd, STOP_COPY).expect("SET");
    let (mut a, mut b) = ([0u8; 100], [0u8; 50]);
    let parts = [
        libc::iovec {
            iov_base: a.as_mut_ptr().cast(),
            iov_len: a.len(),
        },
        libc::iovec {
            iov_base: b.as_mut_ptr().cast(),
            iov_len: b.len(),
        },
    ];
    // SAFETY: two live buffers.
    assert_eq!(unsafe { libc::readv(data, parts.as_ptr(), 2) }, 150);
    assert_eq!((&a[..], &b[..]), (&whole[..100], &whole[100..150]));
    // SAFETY: a descriptor of this test.
    let copy = unsafe { libc::fcntl(data, libc::F_DUPFD_CLOEXEC, 100) };
    close(data);
    let mut next = [0; 50];
    assert_eq!(read(copy, &mut next), Ok(50));
    assert_eq!(next, whole[150..200]);
    let child = fork(|| {
        let mut buf = [0; 100];
        i32::from(read(copy, &mut buf) != Ok(100) || buf[..] != whole[200..300])
    });
    assert_eq!(wait(child), 0);
    assert_eq!(
        drain(copy),
        whole[300..],
        "the child's bytes are gone from here"
    );
    close(copy);
}

#[test]
fn the_fd_is_dead_after_its_state_a_reset_or_the_close_of_the_device() {
    let host = TestHost::new();
    let device = host.by_group(1);
    let fd = device.vfio.as_raw_fd();
    let left = set_state(fd, STOP_COPY).expect("SET");
    drain(left);
    set_state(fd, STOP).expect("SET");
    let reset = set_state(fd, STOP_COPY).expect("SET");
    assert_eq!(
        read(left, &mut [0; 8]),
        Err(libc::ENODEV),
        "not the new session"
    );
    assert_eq!(ioctl_value(fd, 0x3b6f, 0), Ok(0));
    let closed = set_state(fd, STOP_COPY).expect("SET");
    drop(device);
    for data in [left, reset, closed] {
        assert_eq!(read(data, &mut [0; 8]), Err(libc::ENODEV));
        close(data);
    }
}

#[test]
fn without_a_free_fd_the_state_is_reached_all_the_same() {
    let host = TestHost::new();
    let child = fork(|| {
        let device = host.by_group(1);
        let fd = device.vfio.as_raw_fd();
        let limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let mut old = limit;
        // SAFETY: limits of this child only.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut old);
            libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: 0, ..old });
        }
        let answer = set_state(fd, STOP_COPY);
        let reached = state(fd);
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const old) };
        i32::from(answer != Err(libc::EMFILE) || reached != STOP_COPY)
    });
    assert_eq!(wait(child), 0);
}
