// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Locks that a fork cannot leave held.
//!
//! [`Lock`] is for the threads of a process; its word is the owner's process id, so what a child inherits from another thread
//! of its parent counts as free. [`FileLock`] is for the processes of a host; the kernel frees it with its holder.

// Unsafe: hands out the value behind the lock.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{CString, c_int};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{sys, worker};
use crate::vf::Errno;

/// Mutual exclusion between the threads of a process.
#[derive(Debug, Default)]
pub struct Lock<T> {
    owner: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a guard, of which there is one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Self {
        Self {
            owner: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    pub fn lock(&self) -> Guard<'_, T> {
        let pid = sys::pid();
        loop {
            match self
                .owner
                .compare_exchange(0, pid, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Guard(self),
                Err(owner) if owner != pid => {
                    // Left behind by a thread that this forked child does not have.
                    let _ =
                        self.owner
                            .compare_exchange(owner, 0, Ordering::Acquire, Ordering::Relaxed);
                }
                // The time limit stands for the wake-ups that the fast unlock leaves out.
                Err(_) => sys::futex_wait(&self.owner, pid, Some(Duration::from_micros(50))),
            }
        }
    }
}

/// The value, as long as this lives.
#[derive(Debug)]
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a guard is the only way to the value.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.owner.store(0, Ordering::Release);
    }
}

#[derive(Debug)]
struct Descriptor {
    fd: c_int,
    pid: u32,
    identity: (u64, u64),
}

/// Mutual exclusion between the processes that use a file.
#[derive(Debug)]
pub struct FileLock {
    path: CString,
    descriptor: Lock<Option<Descriptor>>,
}

impl FileLock {
    pub fn new(path: &Path) -> Self {
        Self {
            path: c_path(path),
            descriptor: Lock::new(None),
        }
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// When the lock's file cannot be opened.
    pub fn lock(&self) -> Result<FileGuard<'_>, Errno> {
        let mut descriptor = self.descriptor.lock();
        worker::run(|| acquire(&self.path, &mut descriptor))?;
        Ok(FileGuard(descriptor))
    }
}

fn acquire(path: &CString, descriptor: &mut Option<Descriptor>) -> Result<(), Errno> {
    // A descriptor may be the parent's (whose lock it would share) or closed behind our back.
    let usable = descriptor.as_ref().filter(|d| {
        d.pid == sys::pid() && sys::fstat(d.fd).is_ok_and(|s| (s.st_dev, s.st_ino) == d.identity)
    });
    let fd = match usable {
        Some(usable) => usable.fd,
        None => {
            let low = sys::open(path, libc::O_RDWR | libc::O_CREAT, 0o666)?;
            let fd = sys::duplicate_high(low);
            sys::close(low);
            let fd = fd?;
            let stat = sys::fstat(fd)?;
            *descriptor = Some(Descriptor {
                fd,
                pid: sys::pid(),
                identity: (stat.st_dev, stat.st_ino),
            });
            fd
        }
    };
    sys::flock(fd, libc::LOCK_EX)
}

/// Holds a [`FileLock`].
#[derive(Debug)]
pub struct FileGuard<'a>(Guard<'a, Option<Descriptor>>);

impl Drop for FileGuard<'_> {
    fn drop(&mut self) {
        if let Some(d) = self.0.as_ref() {
            let _ = worker::run(|| sys::flock(d.fd, libc::LOCK_UN));
        }
    }
}

/// A path for the kernel; one with a NUL byte, which no path has, becomes the empty path.
pub fn c_path(path: &Path) -> CString {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}
