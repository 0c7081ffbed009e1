// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Peak of a process's own memory: anonymous pages, sampled while it works.
//!
//! Guest memory (a memfd) and simulated VRAM (files in shared memory) count as shared memory in
//! `/proc/PID/status`, so anonymous pages are what a VMM needs beyond the two. The kernel keeps no high-water mark of them, hence the sampling.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(5);

/// Samples a process until asked for the peak.
pub struct PeakSampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl PeakSampler {
    /// Starts to sample process `pid`.
    #[must_use]
    pub fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicU64::new(0));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(bytes) = anonymous_bytes(pid) {
                    highest.fetch_max(bytes, Ordering::Relaxed);
                }
                std::thread::sleep(PERIOD);
            }
        });
        Self {
            stop,
            peak,
            thread: Some(thread),
        }
    }

    /// Highest value seen so far, in bytes.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for PeakSampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `RssAnon` of a process in bytes, `None` when it has gone.
fn anonymous_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sampler_sees_memory_that_was_held_for_a_while() {
        let sampler = PeakSampler::start(std::process::id());
        let block = vec![1u8; 64 << 20];
        std::thread::sleep(PERIOD * 20);
        assert!(std::hint::black_box(&block).iter().all(|byte| *byte == 1));
        drop(block);
        assert!(sampler.peak() >= 64 << 20, "peak {}", sampler.peak());
    }
}
