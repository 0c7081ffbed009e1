// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Functions that make and end descriptors.

use std::ffi::c_int;

use crate::boundary::{next, object, table};

#[unsafe(no_mangle)]
pub extern "C" fn close(fd: c_int) -> c_int {
    let ours = object::lookup(fd);
    // The number stays suspect: in a child of vfork this table is the parent's.
    let answer = next::close(fd);
    if let Some(object) = ours {
        object::released(&object);
    }
    answer
}

/// A descriptor `new` may now be what `old` is; what `new` was before is released.
fn copied(old: c_int, answer: c_int, replaced: Option<std::sync::Arc<object::Object>>) -> c_int {
    if answer >= 0 && !table::is_foreign(old) {
        table::suspect(answer);
    }
    if let Some(replaced) = replaced
        && answer >= 0
        && answer != old
    {
        object::released(&replaced);
    }
    answer
}

#[unsafe(no_mangle)]
pub extern "C" fn dup(fd: c_int) -> c_int {
    copied(fd, next::dup(fd), None)
}

#[unsafe(no_mangle)]
pub extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    let replaced = object::lookup(new);
    copied(old, next::dup2(old, new), replaced)
}

#[unsafe(no_mangle)]
pub extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    let replaced = object::lookup(new);
    copied(old, next::dup3(old, new, flags), replaced)
}

macro_rules! fcntl {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, command: c_int, arg: usize) -> c_int {
            // A file of a file system could do these.
            if matches!(command, libc::F_SETLEASE | libc::F_ADD_SEALS | libc::F_GET_SEALS)
                && object::lookup(fd).is_some()
            {
                return crate::boundary::sys::fail(crate::vf::Errno::EINVAL);
            }
            let answer = next::fcntl(fd, command, arg);
            if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) { copied(fd, answer, None) } else { answer }
        }
    )* };
}

fcntl! { fcntl fcntl64 }

super::table! { close, dup, dup2, dup3, fcntl, fcntl64 }
