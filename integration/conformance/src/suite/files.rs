// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls for files of a file system, on a data fd, which is none.

use std::os::fd::{AsFd, OwnedFd};

use super::{Behaviour, World, behaviours};
use crate::check::{Outcome, refuses, same, works};
use crate::stream::{drain, same_stream, save};
use crate::sys::{self, files};
use crate::vf::{RESUMING, STOP, STOP_COPY, Vf, group_path};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours!["file":
        fallocate_is_refused,
        mode_and_owner_cannot_be_changed,
        flock_does_nothing_to_the_vf,
        record_locks_follow_the_access_mode,
        leases_are_refused,
        sync_file_range_is_espipe,
        fadvise_is_taken,
        readahead_is_refused,
        preadv2_reads_on,
        pwritev2_is_refused_with_an_offset,
        tee_and_vmsplice_are_refused,
        fionread_is_enotty,
        attributes_are_refused,
        it_cannot_be_opened_again,
    ]
}

fn in_save(world: &World) -> Outcome<(Vf, OwnedFd)> {
    let vf = Vf::open(&world.device)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    Ok((vf, fd))
}

/// After a save, so that there is nothing of an earlier restore.
fn in_restore(world: &World) -> Outcome<(Vf, OwnedFd)> {
    let vf = Vf::open(&world.device)?;
    save(&vf)?;
    let fd = vf.set_for_fd(RESUMING)?;
    Ok((vf, fd))
}

fn fallocate_is_refused(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    refuses("of a save", files::fallocate(fd.as_fd()), libc::EBADF)?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    refuses("of a restore", files::fallocate(fd.as_fd()), libc::ENODEV)
}

fn mode_and_owner_cannot_be_changed(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    refuses("fchmod", files::fchmod(fd.as_fd()), libc::EOPNOTSUPP)?;
    refuses("fchown", files::fchown(fd.as_fd()), libc::EOPNOTSUPP)
}

fn flock_does_nothing_to_the_vf(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    // One after the other: both are of the kernel's one anonymous inode.
    for locked in [fd.as_fd(), vf.fd()] {
        for operation in [libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN] {
            works("flock", files::flock(locked, operation))?;
        }
    }
    refuses(
        "flock of no kind",
        files::flock(fd.as_fd(), 0),
        libc::EINVAL,
    )?;
    refuses(
        "open of the group",
        sys::open(&group_path(&world.device)?, libc::O_RDWR),
        libc::EBUSY,
    )?;
    same_stream("the stream", &drain(fd.as_fd())?, &whole)?;
    works("SET STOP", vf.set(STOP)).map(drop)
}

fn record_locks_follow_the_access_mode(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    works("F_RDLCK", files::record_lock(fd.as_fd(), libc::F_RDLCK))?;
    refuses(
        "F_WRLCK of a save",
        files::record_lock(fd.as_fd(), libc::F_WRLCK),
        libc::EBADF,
    )?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    works("F_WRLCK", files::record_lock(fd.as_fd(), libc::F_WRLCK))?;
    refuses(
        "F_RDLCK of a restore",
        files::record_lock(fd.as_fd(), libc::F_RDLCK),
        libc::EBADF,
    )
}

fn leases_are_refused(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    refuses(
        "F_SETLEASE",
        sys::fcntl(fd.as_fd(), libc::F_SETLEASE, libc::F_RDLCK),
        libc::EINVAL,
    )
}

fn sync_file_range_is_espipe(world: &World) -> Outcome {
    let (_vf, fd) = in_restore(world)?;
    refuses(
        "sync_file_range",
        files::sync_file_range(fd.as_fd()),
        libc::ESPIPE,
    )
}

fn fadvise_is_taken(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    works("posix_fadvise", files::fadvise(fd.as_fd()))
}

fn readahead_is_refused(world: &World) -> Outcome {
    let (vf, fd) = in_save(world)?;
    refuses("of a save", files::readahead(fd.as_fd()), libc::EINVAL)?;
    drop((fd, vf));
    let (_vf, fd) = in_restore(world)?;
    refuses("of a restore", files::readahead(fd.as_fd()), libc::EBADF)
}

fn preadv2_reads_on(world: &World) -> Outcome {
    let vf = Vf::open(&world.device)?;
    let whole = save(&vf)?;
    let fd = vf.set_for_fd(STOP_COPY)?;
    let mut head = [0; 20];
    refuses(
        "with an offset",
        files::preadv2(fd.as_fd(), &mut head, 0, 0),
        libc::ESPIPE,
    )?;
    refuses(
        "with RWF_NOWAIT",
        files::preadv2(fd.as_fd(), &mut head, -1, libc::RWF_NOWAIT),
        libc::EOPNOTSUPP,
    )?;
    same(
        "bytes",
        &works("preadv2", files::preadv2(fd.as_fd(), &mut head, -1, 0))?,
        &20,
    )?;
    same_stream(
        "the stream",
        &[&head[..], &drain(fd.as_fd())?].concat(),
        &whole,
    )
}

fn pwritev2_is_refused_with_an_offset(world: &World) -> Outcome {
    let (_vf, fd) = in_restore(world)?;
    refuses(
        "with an offset",
        files::pwritev2(fd.as_fd(), &[0; 8], 0, 0),
        libc::ESPIPE,
    )?;
    refuses(
        "with RWF_APPEND",
        files::pwritev2(fd.as_fd(), &[0; 8], -1, libc::RWF_APPEND),
        libc::EOPNOTSUPP,
    )
}

fn tee_and_vmsplice_are_refused(world: &World) -> Outcome {
    let (out, into) = works("pipe", sys::pipe())?;
    let (_vf, fd) = in_restore(world)?;
    works("write to the pipe", sys::write(into.as_fd(), &[0; 8]))?;
    refuses("tee", files::tee(out.as_fd(), fd.as_fd()), libc::EINVAL)?;
    refuses("vmsplice", files::vmsplice(fd.as_fd()), libc::EBADF)
}

fn fionread_is_enotty(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    refuses("FIONREAD", files::bytes_to_read(fd.as_fd()), libc::ENOTTY)
}

fn attributes_are_refused(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    refuses("fsetxattr", files::set_attribute(fd.as_fd()), libc::EPERM)
}

fn it_cannot_be_opened_again(world: &World) -> Outcome {
    let (_vf, fd) = in_save(world)?;
    refuses(
        "open of /proc/self/fd",
        files::reopen(fd.as_fd(), libc::O_RDONLY),
        libc::ENXIO,
    )
}
