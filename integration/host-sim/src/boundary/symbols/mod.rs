// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The C library's functions that this object stands in front of.
//!
//! Linked into a program they take precedence over the C library's; preloaded as a shared object they do so in any program.
//! What is not about a host goes on untouched. Variadic functions have a fixed third argument here, which on x86-64 and
//! aarch64 is passed the same way.

// Unsafe: the symbols replace those of the C library.
#![allow(unsafe_code)]
#![allow(missing_docs)]

mod fds;
mod files;
mod io;
mod messages;
mod open;
mod stat;

use std::ffi::c_void;

use crate::vf::Errno;

/// Keeps every symbol in a program that is linked statically with this crate.
pub fn keep() {
    for table in [
        open::ALL,
        io::ALL,
        fds::ALL,
        files::ALL,
        stat::ALL,
        messages::ALL,
    ] {
        std::hint::black_box(table);
    }
}

/// Addresses of functions, for [`keep`].
#[derive(Clone, Copy)]
struct Symbol(#[allow(dead_code)] *const c_void);

// SAFETY: addresses of functions.
unsafe impl Sync for Symbol {}

macro_rules! table {
    ($($name:ident),* $(,)?) => {
        #[used]
        static TABLE: &[crate::boundary::symbols::Symbol] =
            &[$(crate::boundary::symbols::Symbol($name as *const std::ffi::c_void)),*];
        pub(super) static ALL: &[crate::boundary::symbols::Symbol] = TABLE;
    };
}
use table;

/// The value of a system call that moves bytes.
fn bytes(answer: Result<usize, Errno>) -> isize {
    match answer {
        Ok(n) => n as isize,
        Err(errno) => super::sys::fail(errno) as isize,
    }
}
