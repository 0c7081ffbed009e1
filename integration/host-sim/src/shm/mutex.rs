// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A lock in shared memory that survives the death of whoever holds it.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use super::Plain;

/// A value in shared memory behind a robust, process-shared pthread mutex.
///
/// The holder is a thread; when it or its process dies the next one to lock gets the value as it was left, and is told.
#[repr(C)]
pub struct RobustMutex<T> {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<T>,
}

// Both sides of a mapping have to agree on it.
const _: () = assert!(size_of::<libc::pthread_mutex_t>() == 40);

// SAFETY: the value is reached through the lock alone, and it is plain data that any thread may hold.
unsafe impl<T: Plain> Sync for RobustMutex<T> {}
// SAFETY: as above; the mutex itself is never moved, since it lives in a mapping.
unsafe impl<T: Plain> Send for RobustMutex<T> {}

impl<T: Plain> RobustMutex<T> {
    /// Makes the lock usable. To be called once, before any other process can see the memory.
    pub(super) fn init(&self) {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: `attributes` is initialised by the first call and only then used; `mutex` is unlocked memory of the right
        // size that no other thread can see yet. None of these calls can fail for these arguments.
        unsafe {
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(
                attributes.as_mut_ptr(),
                libc::PTHREAD_PROCESS_SHARED,
            );
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(self.mutex.get(), attributes.as_ptr());
            libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
        }
    }

    /// Waits for the lock. A thread must not lock what it holds.
    pub fn lock(&self) -> Guard<'_, T> {
        // SAFETY: the mutex was initialised when its file was made.
        let result = unsafe { libc::pthread_mutex_lock(self.mutex.get()) };
        let holder_died = result == libc::EOWNERDEAD;
        if holder_died {
            // SAFETY: this thread holds the mutex, which EOWNERDEAD says.
            unsafe { libc::pthread_mutex_consistent(self.mutex.get()) };
        }
        assert!(
            holder_died || result == 0,
            "a lock in shared memory is damaged (error {result}): make the host anew"
        );
        Guard {
            lock: self,
            holder_died,
            not_send: PhantomData,
        }
    }
}

/// The lock, held.
pub struct Guard<'a, T: Plain> {
    lock: &'a RobustMutex<T>,
    holder_died: bool,
    // A pthread mutex is unlocked by the thread that locked it.
    not_send: PhantomData<*const ()>,
}

impl<T: Plain> Guard<'_, T> {
    /// Whether the last holder died with the lock, so that the value may be half changed.
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.holder_died
    }
}

impl<T: Plain> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held, so nobody changes the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: Plain> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, so nobody else has a reference.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: Plain> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this thread holds the mutex.
        unsafe { libc::pthread_mutex_unlock(self.lock.mutex.get()) };
    }
}
