// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM through its mapping: copied out while vCPUs and VFs write it, and asked which of its pages are there.
//!
//! Rules of the unsafe code here:
//! - Memory is copied by one string instruction in an assembly block. To the compiler that is a foreign access, of which it assumes
//!   nothing: no reference to guest memory exists, and a write that races with it makes the copy torn and nothing else.
//! - Reading a page that is not there would allocate it, so [`resident`] is asked first. Its answer decides what is allocated, never what
//!   is read: a page may be absent because it is a hole, and then it is zeros, or because it is swapped out, and then it is not.
#![allow(unsafe_code)]

use std::io;

use super::PAGE_SIZE;

/// Pages that are asked for at once: 2 MiB.
pub(super) const WINDOW: usize = 512;

/// Copies bytes out of guest memory; what is written meanwhile may come torn.
///
/// # Safety
/// `from` must be mapped for reads of `to.len()` bytes.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn copy_out(from: *const u8, to: &mut [u8]) {
    // SAFETY: source by the caller's promise, destination by its reference. The direction flag is clear at the beginning of every
    // assembly block, the stack is not used and no flag is changed.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") to.len() => _,
            inout("rsi") from => _,
            inout("rdi") to.as_mut_ptr() => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Asks of each page from `host` on whether it is there; of `pages.len()` pages, at most [`WINDOW`].
///
/// # Safety
/// `host` must be page-aligned and begin `pages.len()` mapped pages.
pub(super) unsafe fn resident(host: *const u8, pages: &mut [bool]) -> io::Result<()> {
    let mut told = [0u8; WINDOW];
    let told = &mut told[..pages.len()];
    #[allow(clippy::cast_possible_truncation)] // a constant
    let length = pages.len() * PAGE_SIZE as usize;
    // SAFETY: the range is the caller's promise; the kernel writes one byte for each of its pages.
    let result = unsafe { libc::mincore(host.cast_mut().cast(), length, told.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    for (page, told) in pages.iter_mut().zip(told) {
        *page = *told & 1 != 0;
    }
    Ok(())
}

/// How many pages at the beginning of `pages` are as the first one is.
pub(super) fn run(pages: &[bool]) -> usize {
    let like_the_first = |page: &&bool| Some(*page) == pages.first();
    pages.iter().take_while(like_the_first).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_any_length_and_alignment_is_what_was_there() {
        let from: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        for start in [0, 1, 7, 64] {
            for length in [0, 1, 8, 4095, 4096, 9000] {
                let mut to = vec![0; length + 2];
                // SAFETY: both lie in their vectors.
                unsafe { copy_out(from.as_ptr().add(start), &mut to[1..=length]) };
                assert_eq!(to[1..=length], from[start..start + length]);
                assert_eq!((to[0], to[length + 1]), (0, 0));
            }
        }
    }

    #[test]
    fn a_run_ends_with_the_first_page_that_is_otherwise() {
        assert_eq!(run(&[true, true, false, true]), 2);
        assert_eq!(run(&[false]), 1);
        assert_eq!(run(&[]), 0);
    }
}
