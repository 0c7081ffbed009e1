// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages, which can bring descriptors of ours from another process.

use std::ffi::{c_int, c_uint};

use libc::{mmsghdr, msghdr, ssize_t, timespec};

use crate::boundary::{next, table};

/// Suspects every descriptor that came with a message.
fn look(message: &msghdr) {
    // SAFETY: the kernel has just filled the control data of the message; CMSG_NXTHDR stays within its length.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<c_int>();
                let bytes = (*header)
                    .cmsg_len
                    .saturating_sub(libc::CMSG_LEN(0) as usize);
                for i in 0..bytes / size_of::<c_int>() {
                    table::suspect(data.add(i).read_unaligned());
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    let answer = next::recvmsg(fd, message, flags);
    if answer >= 0 {
        // SAFETY: the kernel has accepted the pointer.
        look(unsafe { &*message });
    }
    answer
}

#[unsafe(no_mangle)]
pub extern "C" fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let answer = next::recvmmsg(fd, messages, count, flags, timeout);
    for i in 0..usize::try_from(answer).unwrap_or(0) {
        // SAFETY: the kernel has filled so many elements.
        look(unsafe { &(*messages.add(i)).msg_hdr });
    }
    answer
}

super::table! { recvmsg, recvmmsg }
