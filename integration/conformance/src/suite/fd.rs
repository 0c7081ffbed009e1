// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the data fd is, and every system call that it refuses.

use std::os::fd::{AsFd, OwnedFd};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, works};
use crate::stream::{HEADER, drain, save};
use crate::sys;
use crate::vf::{RESUMING, STOP, STOP_COPY, Vf};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["fd":
        save_fd_is_read_only_and_close_on_exec,
        restore_fd_is_write_only_and_close_on_exec,
        wrong_direction_is_ebadf,
        pread_and_pwrite_are_espipe,
        lseek_is_espipe,
        splice_is_refused,
        sendfile_is_refused,
        copy_file_range_is_refused,
        mmap_is_enodev,
        mmap_of_the_restore_fd_is_eacces,
        epoll_is_eperm,
        poll_is_always_ready,
        any_ioctl_is_enotty,
        fsync_is_refused,
        ftruncate_is_refused,
        o_nonblock_can_be_set_and_means_nothing,
        closing_it_changes_no_state,
        dup_shares_the_position,
        dup_is_dead_with_it,
        zero_bytes_are_fine,
        zero_bytes_of_a_dead_fd_are_enodev,
        bad_address_is_efault,
        readv_goes_on_across_buffers,
        writev_goes_on_across_buffers,
    ]
}

fn in_save(world: &World) -> Outcome<(Vf, OwnedFd)> {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    Ok((vf, fd))
}

fn in_restore(world: &World) -> Outcome<(Vf, OwnedFd)> {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(RESUMING)?;
    Ok((vf, fd))
}

fn opened_as(fd: &OwnedFd, mode: i32) -> Outcome {
    same(
        "F_GETFD",
        &works("fcntl", sys::fcntl(fd.as_fd(), libc::F_GETFD, 0))?,
        &libc::FD_CLOEXEC,
    )?;
    same(
        "access mode",
        &(works("fcntl", sys::fcntl(fd.as_fd(), libc::F_GETFL, 0))? & libc::O_ACCMODE),
        &mode,
    )
}

fn save_fd_is_read_only_and_close_on_exec(world: &World) -> Outcome {
    opened_as(&in_save(world)?.1, libc::O_RDONLY)
}

fn restore_fd_is_write_only_and_close_on_exec(world: &World) -> Outcome {
    opened_as(&in_restore(world)?.1, libc::O_WRONLY)
}

fn wrong_direction_is_ebadf(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    refuses(
        "write to a save",
        sys::write(fd.as_fd(), &[0; 8]),
        libc::EBADF,
    )?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    refuses(
        "read of a restore",
        sys::read(fd.as_fd(), &mut [0; 8]),
        libc::EBADF,
    )
}

fn pread_and_pwrite_are_espipe(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    refuses("pread", sys::pread(fd.as_fd(), &mut [0; 8]), libc::ESPIPE)?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    refuses("pwrite", sys::pwrite(fd.as_fd(), &[0; 8]), libc::ESPIPE)
}

fn lseek_is_espipe(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    refuses("lseek of a save", sys::lseek(fd.as_fd(), 0), libc::ESPIPE)?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    refuses(
        "lseek of a restore",
        sys::lseek(fd.as_fd(), 0),
        libc::ESPIPE,
    )
}

fn splice_is_refused(world: &World) -> Outcome {
    let (out, into) = works("pipe", sys::pipe())?;
    let (vf, fd) = in_save(world)?;
    refuses(
        "splice from a save",
        sys::splice(fd.as_fd(), into.as_fd()),
        libc::EINVAL,
    )?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    works("write to the pipe", sys::write(into.as_fd(), &[0; 8]))?;
    refuses(
        "splice to a restore",
        sys::splice(out.as_fd(), fd.as_fd()),
        libc::EINVAL,
    )
}

fn sendfile_is_refused(world: &World) -> Outcome {
    let file = works("memfd", sys::memfd())?;
    let (vf, fd) = in_save(world)?;
    refuses(
        "sendfile from a save",
        sys::sendfile(fd.as_fd(), file.as_fd()),
        libc::EINVAL,
    )?;
    drop((fd, vf));
    works("write to the file", sys::write(file.as_fd(), &[0; 8]))?;
    works("rewind", sys::lseek(file.as_fd(), 0))?;
    let (_vf, fd) = in_restore(world)?;
    refuses(
        "sendfile to a restore",
        sys::sendfile(file.as_fd(), fd.as_fd()),
        libc::EINVAL,
    )
}

fn copy_file_range_is_refused(world: &World) -> Outcome {
    let file = works("memfd", sys::memfd())?;
    let (_vf, fd) = in_save(world)?;
    refuses(
        "copy_file_range",
        sys::copy_file_range(fd.as_fd(), file.as_fd()),
        libc::EINVAL,
    )
}

fn mmap_is_enodev(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    refuses("mmap", sys::mmap(fd.as_fd(), libc::PROT_READ), libc::ENODEV)
}

fn mmap_of_the_restore_fd_is_eacces(world: &World) -> Outcome {
    let (_vf, fd) = in_restore(world)?;
    refuses("mmap", sys::mmap(fd.as_fd(), libc::PROT_READ), libc::EACCES)
}

fn epoll_is_eperm(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    refuses("EPOLL_CTL_ADD", sys::epoll_add(fd.as_fd()), libc::EPERM)
}

fn poll_is_always_ready(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    same(
        "events of a save",
        &works("poll", sys::poll(fd.as_fd()))?,
        &(libc::POLLIN | libc::POLLOUT),
    )?;
    drain(fd.as_fd())?;
    same(
        "events at its end",
        &works("poll", sys::poll(fd.as_fd()))?,
        &(libc::POLLIN | libc::POLLOUT),
    )?;
    works("SET STOP", vf.set(STOP))?;
    same(
        "events of a dead fd",
        &works("poll", sys::poll(fd.as_fd()))?,
        &(libc::POLLIN | libc::POLLOUT),
    )
}

fn any_ioctl_is_enotty(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    let pre_copy_info = 0x3b79;
    refuses(
        "VFIO_MIG_GET_PRECOPY_INFO",
        sys::ioctl(fd.as_fd(), pre_copy_info, 0),
        libc::ENOTTY,
    )?;
    refuses(
        "VFIO_DEVICE_RESET",
        sys::ioctl(fd.as_fd(), 0x3b6f, 0),
        libc::ENOTTY,
    )?;
    refuses(
        "TCGETS",
        sys::ioctl(fd.as_fd(), libc::TCGETS, 0),
        libc::ENOTTY,
    )
}

fn fsync_is_refused(world: &World) -> Outcome {
    let (_vf, fd) = in_restore(world)?;
    refuses("fsync", sys::fsync(fd.as_fd()), libc::EINVAL)?;
    refuses("fdatasync", sys::fdatasync(fd.as_fd()), libc::EINVAL)
}

fn ftruncate_is_refused(world: &World) -> Outcome {
    let (_vf, fd) = in_restore(world)?;
    refuses("ftruncate", sys::ftruncate(fd.as_fd()), libc::EINVAL)
}

fn o_nonblock_can_be_set_and_means_nothing(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    works(
        "F_SETFL",
        sys::fcntl(fd.as_fd(), libc::F_SETFL, libc::O_NONBLOCK),
    )?;
    drain(fd.as_fd()).map(drop)
}

fn closing_it_changes_no_state(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    drain(fd.as_fd())?;
    drop(fd);
    same("state", &vf.state()?, &STOP_COPY)?;
    works("SET STOP", vf.set(STOP)).map(drop)
}

fn dup_shares_the_position(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let twin = works("dup", sys::dup(fd.as_fd()))?;
    let mut head = [0; 100];
    same(
        "bytes",
        &works("read", sys::read(fd.as_fd(), &mut head))?,
        &100,
    )?;
    drop(fd);
    let rest = drain(twin.as_fd())?;
    same(
        "the dup goes on where the fd was",
        &[&head[..], &rest].concat().len(),
        &whole.len(),
    )
}

fn dup_is_dead_with_it(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    let twin = works("dup", sys::dup(fd.as_fd()))?;
    drain(fd.as_fd())?;
    works("SET STOP", vf.set(STOP))?;
    refuses(
        "read of the dup",
        sys::read(twin.as_fd(), &mut [0; 8]),
        libc::ENODEV,
    )
}

fn zero_bytes_are_fine(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    same(
        "read of nothing",
        &works("read", sys::read(fd.as_fd(), &mut []))?,
        &0,
    )?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    same(
        "write of nothing",
        &works("write", sys::write(fd.as_fd(), &[]))?,
        &0,
    )
}

fn zero_bytes_of_a_dead_fd_are_enodev(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    works("reset", vf.reset())?;
    refuses(
        "read of nothing",
        sys::read(fd.as_fd(), &mut []),
        libc::ENODEV,
    )
}

fn bad_address_is_efault(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    refuses("read", sys::read_nowhere(fd.as_fd(), 8), libc::EFAULT)?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    refuses("write", sys::write_nowhere(fd.as_fd(), 8), libc::EFAULT)
}

fn readv_goes_on_across_buffers(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let (mut first, mut second) = ([0; 10], [0; 30]);
    same(
        "bytes",
        &works("readv", sys::readv(fd.as_fd(), &mut first, &mut second))?,
        &40,
    )?;
    same(
        "contents",
        &[&first[..], &second].concat(),
        &whole[..40].to_vec(),
    )
}

fn writev_goes_on_across_buffers(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(RESUMING)?;
    let (first, second) = whole.split_at(HEADER - 5);
    same(
        "bytes",
        &works("writev", sys::writev(fd.as_fd(), first, second))?,
        &whole.len(),
    )?;
    works("SET STOP", vf.set(STOP)).map(drop)
}
