// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Large copies from and to a VF's memory, through its file.
//!
//! A copy through a mapping takes a page fault for each page it touches for the first time and allocates the holes it reads;
//! these do neither, and measured faster than the first touch. All by system calls of their own, because the process's `pread`
//! and the like may be the simulated ones. They go by [`offload`], since a VMM's filter need not know them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::offload;

/// Fills `buf` from `file` at `offset`.
///
/// # Errors
/// As pread; `UnexpectedEof` past the end.
pub fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    offload::run(|| read_at_here(file, buf, offset))
}

fn read_at_here(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        // SAFETY: `buf` is writable for its length.
        let n = unsafe {
            libc::syscall(
                libc::SYS_pread64,
                file.as_raw_fd(),
                buf.as_mut_ptr(),
                buf.len(),
                offset.cast_signed(),
            )
        };
        let n = moved(n)?;
        buf = &mut buf[n..];
        offset += n as u64;
    }
    Ok(())
}

/// Writes all of `buf` to `file` at `offset`, likewise.
///
/// # Errors
/// As pwrite.
pub fn write_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    offload::run(|| write_at_here(file, buf, offset))
}

fn write_at_here(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        // SAFETY: `buf` is readable for its length.
        let n = unsafe {
            libc::syscall(
                libc::SYS_pwrite64,
                file.as_raw_fd(),
                buf.as_ptr(),
                buf.len(),
                offset.cast_signed(),
            )
        };
        let n = moved(n)?;
        buf = &buf[n..];
        offset += n as u64;
    }
    Ok(())
}

fn moved(n: libc::c_long) -> io::Result<usize> {
    match n {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => usize::try_from(n).or_else(|_| {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                Ok(0)
            } else {
                Err(error)
            }
        }),
    }
}

/// Makes `len` bytes of `file` at `offset` read as zeros and gives their memory back.
///
/// # Errors
/// As fallocate; `EOPNOTSUPP` where the file system has no holes.
pub fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(
        file,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        offset,
        len,
    )
}

/// Gives the first `len` bytes of `file` memory, now, by writing zeros: memory that was only allocated is found at the
/// first write to it, which a machine that is virtual itself pays for dearly.
///
/// # Errors
/// As pwrite; `ENOSPC` when there is not enough.
pub fn populate(file: &File, len: u64) -> io::Result<()> {
    write_zeros(file, 0, len)
}

/// Writes zeros to `from..to` of `file`.
///
/// # Errors
/// As pwrite.
pub fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let n = zeros
            .len()
            .min(usize::try_from(to - at).unwrap_or(usize::MAX));
        write_at(file, &zeros[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    offload::run(|| fallocate_here(file, mode, offset, len))
}

fn fallocate_here(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    loop {
        // SAFETY: no memory of ours is named.
        let result = unsafe {
            libc::fallocate(
                file.as_raw_fd(),
                mode,
                offset.cast_signed(),
                len.cast_signed(),
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The next run of bytes in `offset..end` of `file` that is no hole.
///
/// # Errors
/// As lseek.
pub fn next_data(file: &File, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    offload::run(|| next_data_here(file, offset, end))
}

fn next_data_here(file: &File, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: u64, whence: libc::c_int| {
        // SAFETY: no memory of ours is named.
        let at = unsafe {
            libc::syscall(
                libc::SYS_lseek,
                file.as_raw_fd(),
                from.cast_signed(),
                whence,
            )
        };
        u64::try_from(at).map_err(|_| io::Error::last_os_error())
    };
    if offset >= end {
        return Ok(None);
    }
    match seek(offset, libc::SEEK_DATA) {
        Ok(start) if start < end => Ok(Some((start, seek(start, libc::SEEK_HOLE)?.min(end)))),
        Ok(_) => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(e) => Err(e),
    }
}
