// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // fcntl(2), preadv2(2)
//! Files and the page cache.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether reads and writes of the file, by all fds of its open, go past the page cache (O_DIRECT) from now on. They then want offsets, lengths
/// and memory in whole blocks.
///
/// # Errors
/// EINVAL where the filesystem has no such thing.
pub fn set_direct(fd: BorrowedFd<'_>, direct: bool) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument and touches no memory.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = if direct {
        flags | libc::O_DIRECT
    } else {
        flags & !libc::O_DIRECT
    };
    // SAFETY: F_SETFL takes an int and touches no memory.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether a byte of the file is in memory, so that reading it waits for no disk. `true` where the filesystem cannot tell.
pub fn is_cached(fd: BorrowedFd<'_>, offset: u64) -> bool {
    let mut byte = 0u8;
    let vector = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let Ok(offset) = libc::off_t::try_from(offset) else {
        return true;
    };
    // SAFETY: one vector of one byte, which lives as long as the call.
    let read = unsafe {
        libc::preadv2(
            fd.as_raw_fd(),
            &raw const vector,
            1,
            offset,
            libc::RWF_NOWAIT,
        )
    };
    read >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_was_just_written_is_in_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        assert!(is_cached(file.as_fd(), 4999) && is_cached(file.as_fd(), u64::MAX));
    }
}
