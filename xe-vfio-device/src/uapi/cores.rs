// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // sched_getaffinity(2)
//! Cores that a thread may run on.

use std::mem::MaybeUninit;

/// How many cores the calling thread may run on; 1 when the kernel does not say. One system call and no file: a transfer runs on
/// threads whose seccomp filter knows no files, where `std::thread::available_parallelism` reads those of the control group.
pub fn usable_cores() -> usize {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the kernel writes at most the given size to the set, all bits of which may be zero.
    let result =
        unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if result < 0 {
        return 1;
    }
    // SAFETY: zeroed and then filled by the kernel; CPU_COUNT only reads it.
    let count = unsafe { libc::CPU_COUNT(set.assume_init_ref()) };
    usize::try_from(count).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_cores_as_the_thread_may_use() {
        let cores = usable_cores();
        // The control group's quota, which only std looks at, may allow less.
        assert!(cores >= std::thread::available_parallelism().unwrap().get());
    }
}
