// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeping a VF open, since its state lives no longer than that.

use std::io::{self, BufRead};
use std::os::fd::AsFd;
use std::time::Duration;

use xe_vfio_device::uapi::wait_readable;

use crate::interrupt;

/// Waits for Enter or a signal. The end of standard input is neither: a service has none.
pub fn hold(address: &str, state: &str) {
    eprintln!(
        "Holding {address} in {state}: Enter, SIGINT or SIGTERM ends it, and the VF's state with it"
    );
    let slice = Duration::from_millis(100);
    let mut stdin = Some(io::stdin().lock());
    while !interrupt::received() {
        let Some(input) = &mut stdin else {
            std::thread::sleep(slice);
            continue;
        };
        if !wait_readable(input.as_fd(), slice) {
            continue;
        }
        match input.read_line(&mut String::new()) {
            Ok(0) | Err(_) => stdin = None,
            Ok(_) => return,
        }
    }
    interrupt::obeyed();
}
