// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A named pipe that takes what the guest says, whichever VMM it lives in.
//!
//! Cloud Hypervisor truncates a serial file when it opens it, also when it receives a VM whose source still writes there. A pipe
//! has nothing to truncate; a thread copies what comes out of it to a file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

/// The pipe and its reader.
pub struct SerialPipe {
    path: PathBuf,
    copy: PathBuf,
    end: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl SerialPipe {
    /// Makes the pipe `directory/serial`.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn new(directory: &Path) -> Result<Self> {
        let (path, copy) = (directory.join("serial"), directory.join("serial.copy"));
        let status = Command::new("mkfifo").arg(&path).status()?;
        if !status.success() {
            bail!("mkfifo {} failed", path.display());
        }
        // Open for both, so that it never comes to its end.
        let mut pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .context("Cannot open the serial pipe")?;
        let mut file = File::create(&copy)?;
        let end = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&end);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = pipe.read(&mut buffer) {
                if over.load(Ordering::Relaxed) || file.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            path,
            copy,
            end,
            reader: Some(reader),
        })
    }

    /// The pipe.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file with everything that has come.
    #[must_use]
    pub fn copy(&self) -> PathBuf {
        self.copy.clone()
    }
}

impl Drop for SerialPipe {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // The reader may be asleep in the pipe.
        let woken = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|mut pipe| pipe.write_all(b"\n"));
        if let (Ok(()), Some(reader)) = (woken, self.reader.take()) {
            let _ = reader.join();
        }
    }
}
