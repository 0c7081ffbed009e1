// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A struct in a file that several processes map.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;

use super::RobustMutex;
use super::memory::Memory;

/// Data without pointers, references or niches: every bit pattern, all zeros included, is a value.
///
/// # Safety
/// The type is `repr(C)` or a primitive, `Copy`-like, and valid for any bytes, since another process wrote them.
pub unsafe trait Plain {}

/// A struct that may be shared between processes by mapping its file.
///
/// # Safety
/// The type is `repr(C)` and made of atomics and [`RobustMutex`]es of [`Plain`] data alone.
pub unsafe trait Shareable: Sync {
    /// Makes every lock in it usable, by `init` of each.
    fn init_locks(&self, init: &mut LockInit);
}

/// Proof that a file is being made and nobody else has mapped it yet.
#[derive(Debug)]
pub struct LockInit(());

impl LockInit {
    /// Makes `lock` usable.
    pub fn init<T: Plain>(&mut self, lock: &RobustMutex<T>) {
        RobustMutex::init(lock);
    }
}

/// A mapped `T`.
#[derive(Debug)]
pub struct Shared<T> {
    memory: Memory,
    of: PhantomData<T>,
}

impl<T: Shareable> Shared<T> {
    /// Makes the content of an empty `file`: zeros, and locks ready for use.
    ///
    /// # Errors
    /// When the file cannot take its size or be mapped.
    pub fn create(file: &File) -> io::Result<Self> {
        file.set_len(size_of::<T>() as u64)?;
        let shared = Self {
            memory: Memory::map(file, size_of::<T>())?,
            of: PhantomData,
        };
        shared.init_locks(&mut LockInit(()));
        Ok(shared)
    }

    /// Maps what `create` made.
    ///
    /// # Errors
    /// `InvalidData` when the file has another size; else as the mapping fails.
    pub fn open(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() != size_of::<T>() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "The file was made by another version of host-sim: make the host anew",
            ));
        }
        Ok(Self {
            memory: Memory::map(file, size_of::<T>())?,
            of: PhantomData,
        })
    }
}

impl<T: Shareable> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is as long as `T`, page aligned, lives as long as `self`, and `T` can be changed by other
        // processes because it is `Shareable`.
        unsafe { self.memory.as_ptr().cast::<T>().as_ref() }
    }
}
