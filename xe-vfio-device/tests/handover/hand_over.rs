// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data fds that are handed over: what arrives, and that the source gets its VF back whatever a destination does.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use host_sim::host::HostConfig;
use host_sim::vf::{Effect, Op};
use xe_vfio_device::device::DeviceError;
use xe_vfio_device::state::{AnyVf, Outcome, Settled, Stopped, Vf};
use xe_vfio_device::stream::{
    Answer, AttemptId, Encoder, Flags, Limits, Opening, Receipt, StreamError, Taken,
};
use xe_vfio_device::transfer::{
    Context, Deadlines, Endpoint, Incoming, LoadError, Progress, SaveError, Threads, hand_over,
    load,
};
use xe_vfio_device::uapi::{Errno, receive_with_fd, send_with_fd};
use xe_vfio_device::xe::{ByKind, Expectation};

use crate::common::*;
use crate::pair::*;

fn handed_over(source: &Device, destination: &Device) -> (Sent, Received) {
    let (here, there) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let incoming = Incoming::accept(there, &options().deadlines).unwrap();
            assert!(incoming.hands_over());
            destination.load_from(incoming)
        });
        (source.send_fd_over(here), loaded.join().unwrap())
    })
}

#[test]
fn a_state_arrives_by_its_data_fd() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 1);
    let (sent, received) = handed_over(&source, &destination);
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!(sent.account.by_kind(), received.account.by_kind());
    assert_eq!(sent.account.vram_bytes(), VRAM);
    assert_eq!(sent.totals.payload_bytes, received.totals.payload_bytes);
    assert_eq!(sent.totals.payload_bytes, sent.account.stream_bytes());
    assert_eq!(sent.totals.wire_bytes, received.totals.wire_bytes);
    assert!(sent.totals.wire_bytes < 1000, "{:?}", sent.totals);
    assert_eq!(source.info().progress.bytes, sent.totals.payload_bytes);
    destination.unstop().unwrap();
    destination.run().unwrap();
    assert!(destination.passthrough().holds(1));
    // It has not come to running there, say: the source still has it all.
    assert_kept(&host, &source, 1);
}

/// The stopped session of a device that is not used otherwise from here on.
#[track_caller]
fn session(device: &Device) -> Vf<Kernel, Stopped> {
    match AnyVf::open(device.passthrough().kernel()) {
        AnyVf::Stopped(vf) => vf,
        other => panic!("{other}"),
    }
}

#[test]
fn one_thread_reads_and_writes_as_two_do() {
    for (threads, seed) in [(Threads::One, 24), (Threads::Two, 25)] {
        // The second fails in the middle.
        for fails in [false, true] {
            let host = TestHost::new();
            let (source, destination) = pair(&host, seed);
            if fails {
                host.fail(2, Op::Write, 7, libc::EIO);
            }
            let manifest = source.manifest().unwrap();
            let context = Context {
                deadlines: options().deadlines,
                interrupt: options().interrupt,
                threads,
                ..Context::default()
            };
            let expectation = Expectation::of(&manifest).sent_by(&manifest);
            let (here, there) = UnixStream::pair().unwrap();
            let (saved, loaded) = thread::scope(|scope| {
                let loaded = scope.spawn(|| {
                    let incoming = Incoming::accept(there, &context.deadlines).unwrap();
                    let context = Context {
                        progress: Progress::default(),
                        ..context.clone()
                    };
                    load(session(&destination), incoming, expectation, &context)
                });
                let saved = hand_over(session(&source), here, &manifest, &context);
                (saved, loaded.join().unwrap())
            });
            assert!(matches!(saved.vf, Ok(Settled::Stopped(_))), "{saved:?}");
            assert_eq!(saved.result.is_ok(), !fails, "{saved:?}");
            assert_eq!(loaded.result.is_ok(), !fails, "{loaded:?}");
            assert_eq!(destination.passthrough().holds(seed), !fails);
        }
    }
}

#[test]
fn a_data_fd_goes_to_the_url_of_a_unix_socket_and_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let host = TestHost::new();
    let (source, destination) = pair(&host, 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
    let error = save_error(source.send_fd_to(&tcp));
    assert!(matches!(error, SaveError::NoDescriptors), "{error:?}");
    let file = Endpoint::File(dir.path().to_owned());
    let error = source.send_fd_to(&file).unwrap_err();
    assert!(matches!(error, DeviceError::Endpoint { .. }), "{error:?}");

    let endpoint = Endpoint::Unix(dir.path().join("socket"));
    let listener = endpoint.listen().unwrap();
    thread::scope(|scope| {
        let received = scope.spawn(|| {
            let wait = Duration::from_secs(10);
            let connection = listener.accept(wait, &destination.cancel_handle()).unwrap();
            let incoming = Incoming::accept(connection, &Deadlines::default()).unwrap();
            destination.load_from(incoming)
        });
        source.send_fd_to(&endpoint).unwrap();
        received.join().unwrap().unwrap();
    });
    destination.unstop().unwrap();
    assert!(destination.passthrough().holds(2));
}

#[test]
fn a_cancelled_hand_over_gives_the_guest_its_gpu_back() {
    let host = TestHost::with(&HostConfig {
        device_rate: Some(20 * MIB),
        ..config()
    });
    for (seed, ends_at_the_source) in [(3, true), (4, false)] {
        let (source, destination) = pair(&host, seed);
        let (sent, received) = thread::scope(|scope| {
            scope.spawn(|| {
                while source.info().progress.bytes == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                let ended = if ends_at_the_source {
                    &source
                } else {
                    &destination
                };
                ended.cancel_handle().cancel();
            });
            handed_over(&source, &destination)
        });
        let (sent, received) = (save_error(sent), load_error(received));
        if ends_at_the_source {
            assert!(matches!(sent, SaveError::Cancelled), "{sent:?}");
            assert!(
                matches!(&received, LoadError::Stream(StreamError::Aborted { reason, .. })
                    if reason.contains("cancelled")),
                "{received:?}"
            );
        } else {
            assert!(matches!(received, LoadError::Cancelled), "{received:?}");
            assert!(
                matches!(sent, SaveError::PeerLost(_) | SaveError::Refused { .. }),
                "{sent:?}"
            );
        }
        assert_kept(&host, &source, seed);
        assert_clean(&destination);
    }
}

#[test]
fn a_failed_load_is_told_and_the_source_keeps_its_vf() {
    let faults: [(&str, u32, i32, &str); 4] = [
        ("write", 5, libc::EIO, "EIO"),
        ("write", 1, libc::ENODEV, "ENODEV"),
        ("arc:STOP->RESUMING", 1, libc::ENOMEM, "ENOMEM"),
        ("arc:RESUMING->STOP", 1, libc::ETIMEDOUT, "ETIMEDOUT"),
    ];
    for ((op, nth, errno, name), seed) in faults.into_iter().zip(5..) {
        let host = TestHost::new();
        let (source, destination) = pair(&host, seed);
        host.fail(2, op.parse().unwrap(), nth, errno);
        let (sent, received) = handed_over(&source, &destination);
        let sent = save_error(sent);
        assert!(
            matches!(&sent, SaveError::Refused { reason, .. } if reason.contains(name)),
            "{op}: {sent:?}"
        );
        load_error(received);
        assert_kept(&host, &source, seed);
        assert_clean(&destination);
    }
}

#[test]
fn a_source_that_cannot_enter_stop_copy_says_so_and_passes_nothing() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 9);
    host.fail(1, "arc:STOP->STOP_COPY".parse().unwrap(), 1, libc::EIO);
    let (sent, received) = handed_over(&source, &destination);
    assert!(matches!(save_error(sent), SaveError::Enter(_)));
    let received = load_error(received);
    assert!(
        matches!(&received, LoadError::Stream(StreamError::Aborted { reason, .. }) if reason.contains("EIO")),
        "{received:?}"
    );
    assert_kept(&host, &source, 9);
    assert_clean(&destination);
}

#[test]
fn a_read_that_fails_at_the_destination_is_drained_at_the_source() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 10);
    host.fail(1, Op::Read, 3, libc::EIO);
    let (sent, received) = handed_over(&source, &destination);
    let received = load_error(received);
    assert!(
        matches!(received, LoadError::Read { source, .. } if source.errno == Errno(libc::EIO)),
        "{received:?}"
    );
    let sent = save_error(sent);
    assert!(
        matches!(&sent, SaveError::Refused { reason, .. } if reason.contains("The source's VF cannot be read")),
        "{sent:?}"
    );
    assert_kept(&host, &source, 10);
    assert_clean(&destination);
}

#[test]
fn a_stuck_producer_is_given_up_by_the_destination_and_its_cost_is_told() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 11);
    host.fault(1, Op::Producer, 4, Effect::Stuck);
    let started = Instant::now();
    let (sent, received) = handed_over(&source, &destination);
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(matches!(
        load_error(received),
        LoadError::SourceStalled { .. }
    ));
    let error = sent.unwrap_err().to_string();
    assert!(error.contains("its GPU state is lost"), "{error}");
    assert!(matches!(source.give_back(), Ok(Outcome::Reset { .. })));
    assert_clean(&destination);
}

/// A destination by hand: takes the data fd as the crate would, and does with it what `then` does.
fn with_destination<T: Send>(
    source: &Device,
    then: impl FnOnce(UnixStream, OwnedFd) -> T + Send,
) -> (Sent, T) {
    let (here, mut there) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let then = scope.spawn(move || {
            let opening = Opening::read(&mut there, &Limits::default());
            assert!(opening.unwrap().1.hands_over());
            let mut frame = [0; 24];
            let (count, fd) = receive_with_fd(there.as_fd(), &mut frame).unwrap();
            assert_eq!(count, frame.len());
            then(there, fd.expect("the data fd"))
        });
        (source.send_fd_over(here), then.join().unwrap())
    })
}

fn read_some(fd: &OwnedFd, bytes: usize) {
    let mut file = File::from(fd.try_clone().unwrap());
    file.read_exact(&mut vec![0; bytes]).unwrap();
}

fn taken(all: bool, bytes: u64) -> Taken {
    let by_kind = ByKind::default();
    Taken {
        all,
        bytes,
        by_kind,
    }
}

#[test]
fn a_destination_that_goes_away_leaves_the_rest_to_the_source() {
    for (bytes, seed) in [(0, 12), (100, 13), (9 << 20, 14)] {
        let host = TestHost::new();
        let source = stopped(&host, seed);
        let (sent, ()) = with_destination(&source, |_, fd| read_some(&fd, bytes));
        let error = save_error(sent);
        assert!(matches!(error, SaveError::PeerLost(_)), "{error:?}");
        assert_kept(&host, &source, seed);
    }
}

#[test]
fn a_destination_that_says_it_has_read_all_is_not_believed() {
    let words: [fn(&mut UnixStream); 2] = [
        |there| taken(true, VRAM + 4096).write(there).unwrap(),
        |there| Receipt::Loaded.write(there).unwrap(),
    ];
    for (say, seed) in words.into_iter().zip(15..) {
        let host = TestHost::new();
        let source = stopped(&host, seed);
        let (sent, reason) = with_destination(&source, |mut there, fd| {
            read_some(&fd, 2 << 20);
            say(&mut there);
            let mut rest = Vec::new();
            _ = there.read_to_end(&mut rest);
            String::from_utf8_lossy(&rest).into_owned()
        });
        let error = save_error(sent);
        assert!(matches!(error, SaveError::LeftOver { .. }), "{error:?}");
        assert!(reason.contains("the kernel has more"), "{reason}");
        assert_kept(&host, &source, seed);
    }
}

#[test]
fn a_destination_that_gets_nowhere_is_given_up_and_its_data_fd_is_dead() {
    let mut quick = options();
    quick.deadlines.network = Duration::from_millis(300);
    quick.deadlines.linger = Duration::from_millis(200);
    for (repeats, seed) in [(false, 17), (true, 18)] {
        let host = TestHost::new();
        let source = Device::new(host.open(1), quick);
        source.passthrough().fill(seed);
        source.start().unwrap();
        source.quiesce().unwrap();
        source.stop().unwrap();
        let started = Instant::now();
        let (sent, fd) = with_destination(&source, |mut there, fd| {
            read_some(&fd, 1000);
            while repeats && taken(false, 1000).write(&mut there).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
            // Until the source has hung up.
            _ = there.read_to_end(&mut Vec::new());
            fd
        });
        assert!(started.elapsed() < Duration::from_secs(8));
        let error = save_error(sent);
        assert!(matches!(error, SaveError::Silent { .. }), "{error:?}");
        let error = File::from(fd).read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_kept(&host, &source, seed);
    }
}

#[test]
fn a_destination_that_answers_nonsense_is_left() {
    let host = TestHost::new();
    let source = stopped(&host, 19);
    let (sent, ()) = with_destination(&source, |mut there, fd| {
        there.write_all(&[7; 200]).unwrap();
        drop(fd);
        _ = there.read_to_end(&mut Vec::new());
    });
    let error = save_error(sent);
    assert!(matches!(error, SaveError::PeerLost(_)), "{error:?}");
    assert_kept(&host, &source, 19);
}

#[test]
fn a_receipt_that_never_comes_leaves_the_vf_stopped_with_its_state() {
    let host = TestHost::new();
    let source = stopped(&host, 20);
    let (sent, ()) = with_destination(&source, |mut there, fd| {
        let mut all = Vec::new();
        File::from(fd).read_to_end(&mut all).unwrap();
        taken(true, all.len() as u64).write(&mut there).unwrap();
    });
    let error = save_error(sent);
    assert!(matches!(error, SaveError::Unconfirmed(_)), "{error:?}");
    assert_kept(&host, &source, 20);
}

#[test]
fn a_load_that_the_source_does_not_hear_of_is_undone() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 21);
    // The source leaves once all was read, while the destination's kernel restores.
    let arc = "arc:RESUMING->STOP".parse().unwrap();
    host.fault(2, arc, 1, Effect::DelayMs(400));
    let (sent, received) = thread::scope(|scope| {
        scope.spawn(|| {
            while source.info().progress.bytes < VRAM {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(50));
            source.cancel_handle().cancel();
        });
        handed_over(&source, &destination)
    });
    assert!(matches!(save_error(sent), SaveError::Cancelled));
    assert!(matches!(load_error(received), LoadError::Receipt(_)));
    assert_kept(&host, &source, 21);
    assert_clean(&destination);
}

/// A source by hand: the stream of a device like the destination's, whose data fd is `fd` or missing.
fn from_source(destination: &Device, attempt: AttemptId, fd: Option<&File>) -> Received {
    let (mut here, there) = UnixStream::pair().unwrap();
    let manifest = destination.manifest().unwrap();
    let (mut encoder, opening) =
        Encoder::with_flags(&manifest, 1 << 20, attempt, Flags::HAND_OVER).unwrap();
    here.write_all(&opening).unwrap();
    let frame = encoder.hand_over();
    match fd {
        Some(fd) => assert_eq!(send_with_fd(here.as_fd(), &frame, fd.as_fd()).unwrap(), 24),
        None => here.write_all(&frame).unwrap(),
    }
    thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let incoming = Incoming::accept(there, &options().deadlines).unwrap();
            destination.load_from(incoming)
        });
        // After a failure the receiver waits for this end to close.
        here.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        while let Ok(Answer::Taken(_)) = Answer::read(&mut here) {}
        drop(here);
        loaded.join().unwrap()
    })
}

/// The bytes of a state, as a file that can be passed for a data fd.
fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// The state of VF 1, which is stopped again afterwards.
fn state_of(source: &Device) -> Vec<u8> {
    let (_, state) = with_destination(source, |_, fd| {
        let mut all = Vec::new();
        File::from(fd).read_to_end(&mut all).unwrap();
        all
    });
    state
}

#[test]
fn a_state_that_is_cut_or_altered_never_counts_as_loaded() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 22);
    let good = state_of(&source);
    let mut bad_trailer = good.clone();
    let trailer = good.len() - 24;
    bad_trailer[trailer + 16] = 1;
    let mut other_device = good.clone();
    other_device[24 + 4] ^= 1;
    let mut longer = good.clone();
    longer.extend_from_slice(&good[..24]);
    let cases = [
        ("no trailer", good[..trailer].to_vec()),
        ("half a trailer", good[..trailer + 10].to_vec()),
        ("cut in VRAM", good[..good.len() / 2].to_vec()),
        ("nothing", Vec::new()),
        ("a trailer of a size", bad_trailer),
        ("another device", other_device),
        ("bytes behind the trailer", longer),
    ];
    for (what, bytes) in cases {
        let received = from_source(&destination, AttemptId::NONE, Some(&file_of(&bytes)));
        let error = load_error(received);
        assert!(
            matches!(error, LoadError::Malformed(_)),
            "{what}: {error:?}"
        );
        assert_clean(&destination);
    }
    let loaded = from_source(&destination, AttemptId::NONE, Some(&file_of(&good)));
    loaded.unwrap();
    destination.unstop().unwrap();
    assert!(destination.passthrough().holds(22));
}

#[test]
fn a_data_fd_of_another_attempt_is_not_read() {
    let host = TestHost::new();
    let (source, destination) = pair(&host, 23);
    let mut file = file_of(&state_of(&source));
    let received = from_source(&destination, AttemptId(7), Some(&file));
    assert!(
        matches!(received, Err(DeviceError::OtherAttempt { .. })),
        "{received:?}"
    );
    assert_eq!(file.stream_position().unwrap(), 0, "it was read");
}

#[test]
fn a_hand_over_without_a_descriptor_is_refused_and_says_why() {
    let host = TestHost::new();
    let destination = host.device(2);
    destination.prepare_load().unwrap();
    let error = load_error(from_source(&destination, AttemptId::NONE, None));
    assert!(matches!(error, LoadError::NoDescriptor), "{error:?}");
    assert_clean(&destination);
}

#[test]
fn a_data_fd_that_never_gives_anything_is_given_up_at_the_deadline() {
    let host = TestHost::new();
    let destination = host.device(2);
    destination.prepare_load().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let silent = File::from(OwnedFd::from(reader));
    let started = Instant::now();
    let error = load_error(from_source(&destination, AttemptId::NONE, Some(&silent)));
    assert!(started.elapsed() < Duration::from_secs(8));
    assert!(
        matches!(error, LoadError::SourceStalled { .. }),
        "{error:?}"
    );
    assert_clean(&destination);
}

#[test]
fn a_stream_over_tcp_that_announces_a_data_fd_is_refused() {
    let host = TestHost::new();
    let destination = host.device(2);
    destination.prepare_load().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, _) = listener.accept().unwrap();
    let manifest = destination.manifest().unwrap();
    let (mut encoder, opening) =
        Encoder::with_flags(&manifest, 1 << 20, AttemptId::NONE, Flags::HAND_OVER).unwrap();
    here.write_all(&opening).unwrap();
    here.write_all(&encoder.hand_over()).unwrap();
    thread::scope(|scope| {
        let told = scope.spawn(move || Receipt::read(&mut here).unwrap());
        let incoming = Incoming::accept(there, &options().deadlines).unwrap();
        let error = load_error(destination.load_from(incoming));
        assert!(matches!(error, LoadError::NoDescriptor), "{error:?}");
        assert!(matches!(told.join().unwrap(), Receipt::Failed { .. }));
    });
    assert_clean(&destination);
}

/// A source in STOP with VRAM of its own.
#[track_caller]
fn stopped(host: &TestHost, seed: u8) -> Device {
    let source = host.device(1);
    source.passthrough().fill(seed);
    source.start().unwrap();
    source.quiesce().unwrap();
    source.stop().unwrap();
    source
}
