// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a state of 1 GiB costs in memory, and that a save of one can be given up. Alone in its process, whose memory it measures.

#[allow(dead_code, reason = "the other tests' helpers")]
#[path = "host/common.rs"]
mod common;

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::*;
use host_sim::host::HostConfig;
use xe_vfio_device::device::DeviceError;
use xe_vfio_device::state::Outcome;
use xe_vfio_device::transfer::{Incoming, SaveError};

const LARGE: u64 = 1 << 30;
/// Five buffers, a thread and a watchdog on each side, and what the test itself takes.
const BOUND: u64 = 16 << 20;

/// Bytes of anonymous memory: VRAM is in files here and not counted.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

/// Most anonymous memory while `work` runs.
fn peak<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let (most, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(anonymous(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        (most.load(Ordering::Relaxed), result)
    })
}

#[test]
fn a_gibibyte_moves_or_is_given_up_in_a_few_mebibytes_of_memory() {
    let host = TestHost::with(&HostConfig {
        vram: LARGE,
        vram_chunk: 64 * MIB,
        ..config()
    });
    let (source, destination) = (host.device(1), host.device(2));
    source.passthrough().fill(1);
    source.start().unwrap();
    source.quiesce().unwrap();
    source.stop().unwrap();
    destination.prepare_load().unwrap();
    let resets = host.resets(1);
    for cancel in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let there = listener.accept().unwrap().0;
        source.begin_attempt(Default::default());
        let before = anonymous();
        let (most, (sent, received)) = peak(|| {
            thread::scope(|scope| {
                let received = scope.spawn(|| {
                    let incoming = Incoming::accept(there, &options().deadlines).unwrap();
                    destination.load_from(incoming)
                });
                scope.spawn(|| {
                    while cancel && source.info().progress.bytes == 0 {
                        thread::yield_now();
                    }
                    if cancel {
                        source.cancel_handle().cancel();
                    }
                });
                (source.send_over(here), received.join().unwrap())
            })
        });
        let extra = most.saturating_sub(before);
        assert!(extra < BOUND, "{extra} bytes more for both sides");
        if cancel {
            let Err(DeviceError::Save { source: error, .. }) = sent else {
                panic!("{sent:?}")
            };
            assert!(matches!(*error, SaveError::Cancelled));
            assert!(received.is_err());
            assert_eq!(source.give_back().unwrap(), Outcome::GpuStateKept);
            assert!(source.passthrough().holds(1));
            source.quiesce().unwrap();
            source.stop().unwrap();
        } else {
            assert_eq!(sent.unwrap().account.vram_bytes(), LARGE);
            received.unwrap();
            destination.unstop().unwrap();
            destination.run().unwrap();
            assert!(destination.passthrough().holds(1));
        }
    }
    assert_eq!(host.resets(1), resets);
}
