// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole states between two VFs, and what holds on both sides when one does not arrive.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use host_sim::host::HostConfig;
use host_sim::vf::{Effect, Op};
use xe_vfio_device::device::DeviceError;
use xe_vfio_device::state::Outcome;
use xe_vfio_device::transfer::{Endpoint, Incoming, LoadError, SaveError};
use xe_vfio_device::uapi::Errno;

use crate::common::*;
use crate::pair::*;

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (here, listener.accept().unwrap().0)
}

fn moved(source: &Device, destination: &Device) -> (Sent, Received) {
    let (here, there) = tcp();
    thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let incoming = Incoming::accept(there, &options().deadlines).unwrap();
            destination.load_from(incoming)
        });
        (source.send_over(here), loaded.join().unwrap())
    })
}

#[test]
fn a_state_moves_over_a_connection() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 1);
    let (sent, received) = moved(&source, &destination);
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!(sent.account, received.account);
    assert_eq!(sent.account.vram_bytes(), VRAM);
    destination.unstop().unwrap();
    destination.run().unwrap();
    assert!(destination.passthrough().holds(1));
}

#[test]
fn a_state_moves_by_url() {
    let dir = tempfile::tempdir().unwrap();
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let socket = dir.path().join("socket");
    let urls = [
        format!("unix:{}", socket.display()),
        format!("tcp:127.0.0.1:{port}"),
        format!("file://{}", dir.path().display()),
    ];
    for (url, seed) in urls.iter().zip(2..) {
        let host = TestHost::new();
        let (source, destination) = pair(&host, seed);
        let endpoint: Endpoint = url.parse().unwrap();
        if matches!(endpoint, Endpoint::File(_)) {
            source.send_to(&endpoint).unwrap();
            destination.receive_at(&endpoint).unwrap();
        } else {
            thread::scope(|scope| {
                let received = scope.spawn(|| destination.receive_at(&endpoint));
                let end = Instant::now() + Duration::from_secs(10);
                let sent = loop {
                    match source.send_to(&endpoint) {
                        Err(DeviceError::Endpoint { .. }) if Instant::now() < end => {
                            thread::sleep(Duration::from_millis(5));
                        }
                        sent => break sent,
                    }
                };
                sent.unwrap();
                received.join().unwrap().unwrap();
            });
        }
        destination.unstop().unwrap();
        destination.run().unwrap();
        assert!(destination.passthrough().holds(seed), "{url}");
        assert_kept(&host, &source, seed);
    }
}

#[test]
fn short_reads_change_nothing() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 5);
    for nth in [1, 2, 5] {
        host.fault(1, Op::Read, nth, Effect::Short(1001));
        host.fault(2, Op::Write, nth, Effect::Short(77));
    }
    let (sent, received) = moved(&source, &destination);
    sent.unwrap();
    received.unwrap();
    assert!(destination.passthrough().holds(5));
}

#[test]
fn a_cancelled_save_gives_the_guest_its_gpu_back() {
    let host = TestHost::with(&HostConfig {
        device_rate: Some(100 * MIB),
        ..config()
    });
    let (source, destination) = pair(&host, 6);
    let (sent, received) = thread::scope(|scope| {
        scope.spawn(|| {
            while source.info().progress.bytes == 0 {
                thread::yield_now();
            }
            source.cancel_handle().cancel();
        });
        moved(&source, &destination)
    });
    assert!(matches!(save_error(sent), SaveError::Cancelled));
    assert!(received.is_err());
    assert_kept(&host, &source, 6);
    assert_clean(&destination);
}

#[test]
fn a_destination_that_fails_says_why_and_is_clean() {
    let arc: Op = "arc:RESUMING->STOP".parse().unwrap();
    let enter: Op = "arc:STOP->RESUMING".parse().unwrap();
    for (op, errno) in [
        (Op::Write, libc::EIO),
        (Op::Write, libc::ENOMEM),
        (Op::Write, libc::EINTR),
        (enter, libc::EPERM),
        (arc, libc::ETIMEDOUT),
        (arc, libc::EIO),
    ] {
        let host = TestHost::new();
        let (source, destination) = pair(&host, 7);
        host.fail(2, op, 1, errno);
        let (sent, received) = moved(&source, &destination);
        let SaveError::Refused { reason, .. } = save_error(sent) else {
            panic!("{op}")
        };
        assert!(reason.contains(&Errno(errno).to_string()), "{op}: {reason}");
        load_error(received);
        assert_kept(&host, &source, 7);
        assert_clean(&destination);
    }
}

#[test]
fn a_source_that_cannot_read_tells_the_destination_and_its_own_loss() {
    for (op, errno) in [
        (Op::Read, libc::EIO),
        (Op::Read, libc::EINTR),
        (Op::Producer, libc::EIO),
    ] {
        let host = TestHost::new();
        let (source, destination) = pair(&host, 8);
        host.fail(1, op, 3, errno);
        let (sent, received) = moved(&source, &destination);
        assert!(matches!(save_error(sent), SaveError::Read { .. }), "{op}");
        assert!(matches!(load_error(received), LoadError::Stream(_)));
        assert_clean(&destination);
        match source.give_back().unwrap() {
            Outcome::GpuStateKept => assert!(source.passthrough().holds(8)),
            Outcome::Reset { .. } => assert!(source.passthrough().is_clean()),
        }
        assert_running(source.passthrough());
    }
}

#[test]
fn a_stuck_producer_is_given_up_at_its_deadline_and_the_vf_reset() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 9);
    host.fault(1, Op::Producer, 9, Effect::Stuck);
    let started = Instant::now();
    let (sent, received) = moved(&source, &destination);
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    assert!(matches!(save_error(sent), SaveError::Stalled { .. }));
    load_error(received);
    assert!(matches!(source.give_back(), Ok(Outcome::Reset { .. })));
    assert_clean(&destination);
}

#[test]
fn a_peer_that_goes_away_at_any_frame_leaves_the_source_its_gpu() {
    let host = TestHost::new();
    let (source, _destination) = pair(&host, 10);
    for frames in (0..=VRAM / MIB).step_by(6) {
        let (here, mut there) = tcp();
        let sent = thread::scope(|scope| {
            scope.spawn(move || {
                let mut taken = (&mut there).take(frames * MIB);
                std::io::copy(&mut taken, &mut std::io::sink()).unwrap();
                there.shutdown(Shutdown::Both).unwrap();
            });
            source.send_over(here)
        });
        save_error(sent);
        assert_kept(&host, &source, 10);
        source.quiesce().unwrap();
        source.stop().unwrap();
    }
}

#[test]
fn a_source_that_goes_away_at_any_frame_leaves_the_destination_clean() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 11);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state");
    source.send_to(&Endpoint::File(file.clone())).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for length in (1000..whole.len())
        .step_by(5 << 20)
        .chain([whole.len() - 1])
    {
        let (mut here, there) = tcp();
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                here.write_all(&whole[..length]).unwrap();
                here.shutdown(Shutdown::Write).unwrap();
                here.read_to_end(&mut Vec::new()).unwrap();
            });
            let incoming = Incoming::accept(there, &options().deadlines).unwrap();
            destination.load_from(incoming)
        });
        assert!(matches!(load_error(received), LoadError::Stream(_)));
        assert_clean(&destination);
    }
}

#[test]
fn an_altered_stream_is_refused_and_the_destination_clean() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 12);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state");
    let endpoint = Endpoint::File(file.clone());
    source.send_to(&endpoint).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for at in [500, whole.len() / 2, whole.len() - 10] {
        let mut altered = whole.clone();
        altered[at] ^= 4;
        std::fs::write(&file, altered).unwrap();
        load_error(destination.receive_at(&endpoint).map(|(_, report)| report));
        assert_clean(&destination);
    }
}

#[test]
fn another_device_is_refused_before_it_is_touched() {
    let (host, other) = (
        TestHost::new(),
        TestHost::with(&HostConfig {
            device_id: 0xe212,
            ..config()
        }),
    );
    let (source, _) = pair(&host, 13);
    let destination = other.device(1);
    let refused = destination.check(&source.manifest().unwrap()).unwrap_err();
    assert!(matches!(refused, DeviceError::Incompatible { .. }));
    let before = other.resets(1);
    let (sent, received) = moved(&source, &destination);
    assert!(matches!(received, Err(DeviceError::Incompatible { .. })));
    let SaveError::Refused { reason, .. } = save_error(sent) else {
        panic!("not refused")
    };
    assert!(reason.contains("e212"), "{reason}");
    assert_eq!(other.resets(1), before);
    assert_kept(&host, &source, 13);
}

#[test]
fn two_vfs_of_another_size_do_not_go_together() {
    let (host, other) = (
        TestHost::new(),
        TestHost::with(&HostConfig {
            vram: VRAM / 2,
            ..config()
        }),
    );
    let refused = other.device(1).check(&host.device(1).manifest().unwrap());
    assert!(matches!(refused, Err(DeviceError::Incompatible { .. })));
}
