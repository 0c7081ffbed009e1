// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which descriptor numbers may be ours: one byte each, so that a call on any other costs one load.
//!
//! A number is foreign until something of ours can have come to it (an open, a dup, a message with descriptors, inheritance),
//! and then "maybe" until `fstat` has said otherwise. The table never says "ours": the number may have been closed and used
//! again by calls that are not seen here.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, Ordering};

const SIZE: usize = 1 << 16;
const MAYBE: u8 = 1;

static TABLE: [AtomicU8; SIZE] = [const { AtomicU8::new(0) }; SIZE];

fn slot(fd: c_int) -> Option<&'static AtomicU8> {
    TABLE.get(usize::try_from(fd).ok()?)
}

/// Whether `fd` is surely not ours.
pub fn is_foreign(fd: c_int) -> bool {
    match slot(fd) {
        Some(slot) => slot.load(Ordering::Relaxed) != MAYBE,
        None => fd < 0,
    }
}

/// `fd` may be ours from now on.
pub fn suspect(fd: c_int) {
    if let Some(slot) = slot(fd) {
        slot.store(MAYBE, Ordering::Relaxed);
    }
}

/// `fd` has been looked at and is not ours.
pub fn clear(fd: c_int) {
    if let Some(slot) = slot(fd) {
        slot.store(0, Ordering::Relaxed);
    }
}
