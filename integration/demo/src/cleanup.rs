// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a run that is interrupted must not leave behind: processes, and gigabytes in shared memory.
//!
//! Destructors do it when a run ends by itself. [`on_signals`] does it for SIGINT and SIGTERM, which run none.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use vmm_sys_util::signal::register_signal_handler;

static SIGNAL: AtomicI32 = AtomicI32::new(0);
static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static PROCESSES: Mutex<Vec<u32>> = Mutex::new(Vec::new());

extern "C" fn on_signal(number: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SIGNAL.store(number, Ordering::Relaxed);
}

/// Lets SIGINT and SIGTERM end this process with everything that it has started.
///
/// # Errors
/// When a handler cannot be installed.
pub fn on_signals() -> Result<()> {
    for number in [libc::SIGINT, libc::SIGTERM] {
        register_signal_handler(number, on_signal)
            .map_err(|error| anyhow!("No handler for signal {number}: {error}"))?;
    }
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let number = SIGNAL.load(Ordering::Relaxed);
            if number != 0 {
                clean_up();
                std::process::exit(128 + number);
            }
        }
    });
    Ok(())
}

/// A directory to be removed.
pub(crate) fn directory(path: PathBuf) {
    DIRECTORIES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(path);
}

/// A process to be killed.
pub(crate) fn process(pid: u32) {
    PROCESSES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(pid);
}

/// A process that has been reaped: its number may be somebody else's now.
pub(crate) fn reaped(pid: u32) {
    PROCESSES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|known| *known != pid);
}

fn clean_up() {
    for pid in PROCESSES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        let _ = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status();
    }
    for path in DIRECTORIES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        let _ = std::fs::remove_dir_all(path);
    }
}
