// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saves and loads between VFs in memory: what arrives, and what holds when it does not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::state::fake::{Call, FakeVf, Gpu, packets};
use crate::state::{AnyVf, DeviceState, MigrationDevice, Outcome, Settled, Stopped, Vf};
use crate::stream::frame::{END_SIZE, FRAME_HEADER_SIZE};
use crate::stream::{Manifest, Pci, StreamError, VfOutcome};
use crate::uapi::{Errno, InterruptSignal};
use crate::xe::Expectation;

#[cfg(feature = "compression")]
mod compressed;
mod files;
mod split;

const RING: usize = 512;
const SIZE: usize = 3 << 20;

fn manifest() -> Manifest {
    let pci = Pci {
        vendor: 0x8086,
        device: 0xe211,
        revision: 0,
        subsystem_vendor: 0,
        subsystem_device: 0,
        class: 0x03_8000,
    };
    Manifest {
        device_id: "vf0".to_owned(),
        pci,
        pf: None,
        bars: [0; 6],
        migration_flags: 3,
        stop_copy_length: 0,
        gts: Some(1),
        vram_quota: None,
        ggtt_entries: None,
        contexts: None,
        doorbells: None,
        exec_quantum_ms: None,
        preempt_timeout_us: None,
        sched_priority: None,
        guc_version: None,
        kernel_release: None,
    }
}

fn short() -> Context {
    let ms = Duration::from_millis;
    let deadlines = Deadlines {
        connect: ms(2000),
        device: ms(150),
        network: ms(2000),
        receipt_margin: ms(0),
        linger: ms(500),
    };
    let interrupt = InterruptSignal::default_signal().unwrap();
    Context {
        deadlines,
        interrupt: Some(interrupt),
        threads: THREADS.get(),
        ..Context::default()
    }
}

thread_local! {
    /// What [`short`] asks for on this thread.
    static THREADS: std::cell::Cell<Threads> = const { std::cell::Cell::new(Threads::One) };
}

/// Runs a test with the stages taking turns, and with threads of their own.
fn with_one_and_two_threads(test: impl Fn()) {
    for threads in [Threads::One, Threads::Two] {
        THREADS.set(threads);
        test();
    }
}

#[track_caller]
fn stopped(vf: &FakeVf) -> Vf<FakeVf, Stopped> {
    match AnyVf::open(vf.clone()) {
        AnyVf::Running(vf) => vf.quiesce().unwrap().stop().unwrap(),
        other => panic!("{other}"),
    }
}

fn expectation() -> Expectation {
    Expectation::of(&manifest()).sent_by(&manifest())
}

fn receive(vf: &FakeVf, connection: impl Connection, context: &Context) -> Loaded<FakeVf> {
    let incoming = Incoming::accept(connection, &context.deadlines).unwrap();
    load(stopped(vf), incoming, expectation(), context)
}

/// Moves the state of one VF to another, each side on its thread.
fn transfer(
    source: &FakeVf,
    destination: &FakeVf,
    here: impl Connection,
    there: impl Connection,
) -> (Saved<FakeVf>, Loaded<FakeVf>) {
    let context = short();
    thread::scope(|scope| {
        let loaded = scope.spawn(|| receive(destination, there, &context));
        let saved = save(stopped(source), Peer::new(here), &manifest(), &short());
        (saved, loaded.join().unwrap())
    })
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (here, listener.accept().unwrap().0)
}

#[track_caller]
fn assert_kept<D: MigrationDevice>(saved: &Saved<D>) {
    assert!(
        matches!(saved.vf, Ok(Settled::Stopped(_))),
        "{:?}",
        saved.result
    );
}

#[track_caller]
fn assert_reset(loaded: &Loaded<FakeVf>, vf: &FakeVf) {
    let Ok(Settled::Running(recovered)) = &loaded.vf else {
        panic!("{:?}", loaded.result)
    };
    assert!(matches!(recovered.outcome, Outcome::Reset { .. }));
    assert_eq!(vf.kernel().gpu, Gpu::Clean);
    assert_eq!(vf.kernel().state, DeviceState::Running);
    vf.assert_clean_use();
}

#[track_caller]
fn assert_arrives(here: impl Connection, there: impl Connection) {
    let (source, destination) = (
        FakeVf::new(packets(SIZE), RING),
        FakeVf::new(packets(9), RING),
    );
    source.kernel().read_most = 300_001;
    let (saved, loaded) = transfer(&source, &destination, here, there);
    let (saved_report, loaded_report) = (saved.result.as_ref().unwrap(), loaded.result.unwrap());
    assert_eq!(saved_report.account, loaded_report.account);
    assert_eq!(saved_report.totals, loaded_report.totals);
    assert_eq!(
        saved_report.totals.payload_bytes,
        packets(SIZE).len() as u64
    );
    assert_kept(&saved);
    assert!(matches!(loaded.vf, Ok(Settled::Stopped(_))));
    assert_eq!(destination.kernel().gpu, Gpu::Guest(packets(SIZE)));
    source.assert_clean_use();
    destination.assert_clean_use();
}

#[test]
fn a_state_arrives_over_tcp() {
    with_one_and_two_threads(|| {
        let (here, there) = tcp();
        assert_arrives(here, there);
    });
}

#[test]
fn a_state_arrives_over_a_unix_socket() {
    with_one_and_two_threads(|| {
        let (here, there) = UnixStream::pair().unwrap();
        assert_arrives(here, there);
    });
}

#[test]
fn a_state_goes_through_a_file() {
    with_one_and_two_threads(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = stream_path(dir.path(), "vf0").unwrap();
        let (source, destination) = (
            FakeVf::new(packets(SIZE), RING),
            FakeVf::new(packets(9), RING),
        );
        let sink = FileSink::new(PendingFile::create(&path).unwrap());
        let saved = save(stopped(&source), sink, &manifest(), &short());
        assert_kept(&saved);
        saved.result.unwrap();
        let incoming = Incoming::open(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(incoming.device_id(), "vf0");
        load(stopped(&destination), incoming, expectation(), &short())
            .result
            .unwrap();
        assert_eq!(destination.kernel().gpu, Gpu::Guest(packets(SIZE)));
    });
}

#[test]
fn a_file_with_bytes_behind_its_end_is_refused() {
    with_one_and_two_threads(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (source, destination) = (
            FakeVf::new(packets(4096), RING),
            FakeVf::new(packets(9), RING),
        );
        let sink = FileSink::new(PendingFile::create(&path).unwrap());
        save(stopped(&source), sink, &manifest(), &short())
            .result
            .unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"x")
            .unwrap();
        let incoming = Incoming::open(std::fs::File::open(&path).unwrap()).unwrap();
        let loaded = load(stopped(&destination), incoming, expectation(), &short());
        assert!(matches!(
            loaded.result,
            Err(LoadError::Stream(StreamError::Decode(_)))
        ));
        assert_reset(&loaded, &destination);
    });
}

#[test]
fn a_cancelled_save_is_drained_and_the_vf_keeps_its_state() {
    with_one_and_two_threads(|| {
        let source = FakeVf::new(packets(SIZE), RING);
        source.kernel().read_most = 64 << 10;
        source.kernel().delay = Duration::from_millis(5);
        let destination = FakeVf::new(packets(9), RING);
        let (here, there) = tcp();
        let (context, theirs) = (short(), short());
        let (saved, loaded) = thread::scope(|scope| {
            let loaded = scope.spawn(|| receive(&destination, there, &theirs));
            let (cancel, progress) = (context.cancel.clone(), context.progress.clone());
            scope.spawn(move || {
                while progress.view().bytes == 0 {
                    thread::yield_now();
                }
                cancel.cancel();
            });
            let saved = save(stopped(&source), Peer::new(here), &manifest(), &context);
            (saved, loaded.join().unwrap())
        });
        assert!(
            matches!(saved.result, Err(SaveError::Cancelled)),
            "{:?}",
            saved.result
        );
        assert_kept(&saved);
        assert_eq!(source.kernel().gpu, Gpu::Guest(packets(SIZE)));
        assert_eq!(source.kernel().resets, 0);
        source.assert_clean_use();
        assert_reset(&loaded, &destination);
    });
}

#[test]
fn a_save_that_was_cancelled_before_it_began_touches_nothing() {
    with_one_and_two_threads(|| {
        let source = FakeVf::new(packets(4096), RING);
        let context = short();
        context.cancel.cancel();
        let saved = save(stopped(&source), Peer::new(tcp().0), &manifest(), &context);
        assert!(matches!(saved.result, Err(SaveError::Cancelled)));
        assert_kept(&saved);
        assert_eq!(
            source.kernel().log,
            [DeviceState::RunningP2p, DeviceState::Stop]
        );
    });
}

#[test]
fn a_destination_that_refuses_is_heard() {
    with_one_and_two_threads(|| {
        let source = FakeVf::new(packets(SIZE), RING);
        let failures = [
            (Call::Write, 700, libc::ENODEV, "ENODEV"),
            (
                Call::Arc(DeviceState::Stop, DeviceState::Resuming),
                0,
                libc::EIO,
                "EIO",
            ),
            (
                Call::Arc(DeviceState::Resuming, DeviceState::Stop),
                0,
                libc::ETIMEDOUT,
                "ETIMEDOUT",
            ),
        ];
        for (call, nth, errno, name) in failures {
            let source = FakeVf::new(source.kernel().gpu_bytes(), RING);
            let destination = FakeVf::new(packets(9), RING).with_fault(call, nth, errno);
            let (here, there) = tcp();
            let (saved, loaded) = transfer(&source, &destination, here, there);
            let Err(SaveError::Refused { vf, reason }) = &saved.result else {
                panic!("{:?}", saved.result)
            };
            assert_eq!(*vf, VfOutcome::Reset);
            assert!(reason.contains(name), "{reason}");
            assert_kept(&saved);
            assert_eq!(source.kernel().resets, 0);
            assert_reset(&loaded, &destination);
        }
    });
}

#[test]
fn a_state_of_another_device_never_reaches_the_kernel() {
    with_one_and_two_threads(|| {
        let (source, destination) = (
            FakeVf::new(packets(SIZE), RING),
            FakeVf::new(packets(9), RING),
        );
        let (here, there) = tcp();
        let (mut other, theirs) = (expectation(), short());
        other.device = Some(0xe212);
        let (saved, loaded) = thread::scope(|scope| {
            let loaded = scope.spawn(|| {
                let incoming = Incoming::accept(there, &theirs.deadlines).unwrap();
                load(stopped(&destination), incoming, other, &theirs)
            });
            (
                save(stopped(&source), Peer::new(here), &manifest(), &short()),
                loaded.join().unwrap(),
            )
        });
        assert!(
            matches!(saved.result, Err(SaveError::Refused { .. })),
            "{:?}",
            saved.result
        );
        assert!(matches!(loaded.result, Err(LoadError::Malformed(_))));
        assert_kept(&saved);
        assert_reset(&loaded, &destination);
    });
}

#[test]
fn a_read_error_is_told_to_both_sides() {
    with_one_and_two_threads(|| {
        for (vram, kept) in [(4096, true), (SIZE, false)] {
            let source = FakeVf::new(packets(vram), 8192).with_fault(Call::Read, 1, libc::EIO);
            source.kernel().read_most = 128;
            let destination = FakeVf::new(packets(9), RING);
            let (here, there) = tcp();
            let (saved, loaded) = transfer(&source, &destination, here, there);
            assert!(
                matches!(saved.result, Err(SaveError::Read { source, .. }) if source.errno == Errno(libc::EIO))
            );
            let Err(LoadError::Stream(StreamError::Aborted { reason, .. })) = &loaded.result else {
                panic!("{:?}", loaded.result)
            };
            assert!(reason.contains("EIO"), "{reason}");
            let stands = matches!(saved.vf, Ok(Settled::Stopped(_)));
            assert_eq!((stands, source.kernel().resets), (kept, usize::from(!kept)));
            source.assert_clean_use();
            assert_reset(&loaded, &destination);
        }
    });
}

#[test]
fn a_source_that_cannot_leave_stop_copy_is_not_reset_once_its_state_has_arrived() {
    with_one_and_two_threads(|| {
        let leave = Call::Arc(DeviceState::StopCopy, DeviceState::Stop);
        let source = FakeVf::new(packets(4096), RING)
            .with_fault(leave, 0, libc::EIO)
            .with_fault(leave, 0, libc::EIO);
        let destination = FakeVf::new(packets(9), RING);
        let (here, there) = tcp();
        let (saved, loaded) = transfer(&source, &destination, here, there);
        assert!(saved.result.is_ok(), "{:?}", saved.result);
        assert!(loaded.result.is_ok(), "{:?}", loaded.result);
        assert!(matches!(saved.vf, Ok(Settled::Unsettled(_))));
        assert_eq!(source.kernel().resets, 0);
    });
}

#[test]
fn a_stuck_producer_is_given_up_at_its_deadline() {
    with_one_and_two_threads(|| {
        let source = FakeVf::new(packets(SIZE), RING);
        source.kernel().read_most = 1 << 20;
        source.kernel().stuck_at = Some(1 << 20);
        let destination = FakeVf::new(packets(9), RING);
        let (here, there) = tcp();
        let started = Instant::now();
        let (saved, loaded) = transfer(&source, &destination, here, there);
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
        let Err(SaveError::Stalled { source: error, .. }) = &saved.result else {
            panic!("{:?}", saved.result)
        };
        assert_eq!(error.errno, Errno(libc::EINTR));
        assert!(
            matches!(saved.vf, Ok(Settled::Running(ref vf)) if matches!(vf.outcome, Outcome::Reset { .. }))
        );
        assert_reset(&loaded, &destination);
    });
}

#[test]
fn a_malformed_state_at_the_source_is_not_passed_on() {
    with_one_and_two_threads(|| {
        let mut content = packets(SIZE);
        content[24 + 16] = 9;
        let (source, destination) = (FakeVf::new(content, RING), FakeVf::new(packets(9), RING));
        let (here, there) = tcp();
        let (saved, loaded) = transfer(&source, &destination, here, there);
        assert!(
            matches!(saved.result, Err(SaveError::Malformed(_))),
            "{:?}",
            saved.result
        );
        assert_kept(&saved);
        assert_reset(&loaded, &destination);
    });
}

#[test]
fn a_peer_that_goes_away_leaves_the_vf_its_state() {
    with_one_and_two_threads(|| {
        for take in [0, 10, 5000, 2 << 20] {
            let source = FakeVf::new(packets(SIZE), RING);
            let (here, mut there) = tcp();
            let saved = thread::scope(|scope| {
                scope.spawn(move || {
                    let mut taken = vec![0; take];
                    there.read_exact(&mut taken).unwrap();
                });
                save(stopped(&source), Peer::new(here), &manifest(), &short())
            });
            assert!(saved.result.is_err());
            assert_kept(&saved);
            assert_eq!(source.kernel().resets, 0);
            source.assert_clean_use();
        }
    });
}

#[test]
fn without_a_receipt_the_source_does_not_know_and_says_so() {
    with_one_and_two_threads(|| {
        let source = FakeVf::new(packets(4096), RING);
        let (here, mut there) = UnixStream::pair().unwrap();
        let saved = thread::scope(|scope| {
            scope.spawn(move || {
                // The whole stream is far below what one read takes.
                let mut all = vec![0; 1 << 20];
                let mut got = 0;
                while !all[..got]
                    .windows(8)
                    .any(|bytes| bytes == [2, 0, 0, 0, 0, 0, 0, 0])
                    || got < 500
                {
                    match there.read(&mut all[got..]).unwrap() {
                        0 => break,
                        count => got += count,
                    }
                }
                thread::sleep(Duration::from_millis(100));
            });
            save(stopped(&source), Peer::new(here), &manifest(), &short())
        });
        assert!(
            matches!(
                saved.result,
                Err(SaveError::Unconfirmed(_) | SaveError::PeerLost(_) | SaveError::Stream(_))
            ),
            "{:?}",
            saved.result
        );
        assert_kept(&saved);
    });
}

/// The bytes of a stream, as a file holds them.
fn stream_bytes() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let source = FakeVf::new(packets(4096), RING);
    let sink = FileSink::new(PendingFile::create(&path).unwrap());
    save(stopped(&source), sink, &manifest(), &short())
        .result
        .unwrap();
    std::fs::read(&path).unwrap()
}

/// Loads what may be no good stream; a failure leaves the VF untouched or reset.
#[track_caller]
fn assert_refused(bytes: &[u8], what: &str) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let Ok(incoming) = Incoming::open(file) else {
        return;
    };
    let destination = FakeVf::new(packets(9), RING);
    let context = Context {
        interrupt: None,
        ..short()
    };
    let loaded = load(stopped(&destination), incoming, expectation(), &context);
    assert!(loaded.result.is_err(), "{what}");
    assert_reset(&loaded, &destination);
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused() {
    with_one_and_two_threads(|| {
        let bytes = stream_bytes();
        for length in 0..bytes.len() {
            assert_refused(&bytes[..length], &format!("cut at {length}"));
        }
    });
}

#[test]
fn a_stream_with_any_byte_altered_is_refused() {
    with_one_and_two_threads(|| {
        let bytes = stream_bytes();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x10;
            assert_refused(&altered, &format!("altered at {at}"));
        }
    });
}

#[test]
fn a_silent_sender_is_given_up_at_the_deadline() {
    with_one_and_two_threads(|| {
        let destination = FakeVf::new(packets(9), RING);
        let (mut here, there) = tcp();
        let mut context = short();
        context.deadlines.network = Duration::from_millis(200);
        let bytes = stream_bytes();
        here.write_all(&bytes[..bytes.len() - 200]).unwrap();
        let started = Instant::now();
        let loaded = receive(&destination, there, &context);
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(
            matches!(
                loaded.result,
                Err(LoadError::Stream(StreamError::Io { .. }))
            ),
            "{:?}",
            loaded.result
        );
        assert_reset(&loaded, &destination);
    });
}

#[test]
fn a_cancelled_load_leaves_the_vf_clean() {
    with_one_and_two_threads(|| {
        let destination = FakeVf::new(packets(9), RING);
        let (mut here, there) = tcp();
        let bytes = stream_bytes();
        here.write_all(&bytes[..bytes.len() - 200]).unwrap();
        let context = short();
        let cancel = context.cancel.clone();
        let loaded = thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(50));
                cancel.cancel();
            });
            receive(&destination, there, &context)
        });
        assert!(
            matches!(loaded.result, Err(LoadError::Cancelled)),
            "{:?}",
            loaded.result
        );
        assert_reset(&loaded, &destination);
    });
}

/// Panics on the first write of state.
struct Dying(bool);

impl Write for Dying {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        assert!(std::mem::replace(&mut self.0, false), "as it should");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink for Dying {
    fn begin(&mut self, _: &Deadlines) -> std::io::Result<()> {
        Ok(())
    }

    fn closer(&self) -> std::io::Result<Option<Closer>> {
        Ok(None)
    }

    fn still_wanted(&mut self) -> Result<(), SaveError> {
        Ok(())
    }

    fn why_broken(&mut self, _: Duration) -> Option<SaveError> {
        None
    }

    fn confirm(&mut self, _: Duration) -> Result<(), SaveError> {
        panic!("nothing to confirm")
    }
}

#[test]
fn a_stage_that_dies_in_a_save_leaves_the_vf_its_state() {
    THREADS.set(Threads::Two);
    let source = FakeVf::new(packets(SIZE), RING);
    let saved = save(stopped(&source), Dying(true), &manifest(), &short());
    assert!(
        matches!(saved.result, Err(SaveError::Stage("connection"))),
        "{:?}",
        saved.result
    );
    assert_kept(&saved);
    assert_eq!(source.kernel().resets, 0);
    source.assert_clean_use();
}

/// A stream whose connection panics after so many bytes.
struct Deadly(std::io::Cursor<Vec<u8>>, u64);

impl Read for Deadly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        assert!(self.0.position() < self.1, "as it should");
        self.0.read(buffer)
    }
}

impl Write for Deadly {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Connection for Deadly {
    fn closer(&self) -> std::io::Result<Closer> {
        Ok(Box::new(|| {}))
    }

    fn set_timeout(&self, _: Duration) -> std::io::Result<()> {
        Ok(())
    }

    fn has_input(&self) -> bool {
        false
    }
}

#[test]
fn a_stage_that_dies_in_a_load_leaves_the_vf_clean() {
    THREADS.set(Threads::Two);
    let destination = FakeVf::new(packets(9), RING);
    let bytes = stream_bytes();
    let end = (bytes.len() - END_SIZE - 2) as u64;
    let mut context = short();
    context.deadlines.linger = Duration::ZERO;
    let connection = Deadly(std::io::Cursor::new(bytes), end);
    let loaded = receive(&destination, connection, &context);
    assert!(
        matches!(loaded.result, Err(LoadError::Stage("connection"))),
        "{:?}",
        loaded.result
    );
    assert_reset(&loaded, &destination);
}

#[test]
fn a_destination_that_reads_nothing_holds_the_source_up_and_is_given_up_at_the_deadline() {
    with_one_and_two_threads(|| {
        let source = FakeVf::new(packets(64 << 20), 1 << 20);
        let (here, there) = tcp();
        let mut context = short();
        context.deadlines.network = Duration::from_millis(300);
        let started = Instant::now();
        let saved = save(stopped(&source), Peer::new(here), &manifest(), &context);
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(
            matches!(saved.result, Err(SaveError::Stream(StreamError::Io { .. }))),
            "{:?}",
            saved.result
        );
        assert_kept(&saved);
        assert_eq!(source.kernel().resets, 0);
        drop(there);
    });
}

#[test]
fn a_vf_that_refuses_while_its_sender_is_silent_tells_it_long_before_the_deadline() {
    with_one_and_two_threads(|| {
        let destination = FakeVf::new(packets(9), RING).with_fault(Call::Write, 1, libc::ENODEV);
        let (mut here, there) = tcp();
        let mut context = short();
        context.deadlines.network = Duration::from_secs(60);
        let bytes = stream_bytes();
        let (told, loaded) = thread::scope(|scope| {
            // Frames, but neither the end nor the end of the connection until the receipt is here.
            here.write_all(&bytes[..bytes.len() - FRAME_HEADER_SIZE - END_SIZE])
                .unwrap();
            let sender = scope.spawn(move || crate::stream::Receipt::read(&mut here).unwrap());
            let started = Instant::now();
            let loaded = receive(&destination, there, &context);
            assert!(started.elapsed() < Duration::from_secs(10));
            (sender.join().unwrap(), loaded)
        });
        let crate::stream::Receipt::Failed { vf, reason } = told else {
            panic!("{told:?}")
        };
        assert_eq!(vf, VfOutcome::Reset);
        assert!(reason.contains("ENODEV"), "{reason}");
        assert_reset(&loaded, &destination);
    });
}

#[test]
fn zeros_do_not_travel_and_arrive_all_the_same() {
    with_one_and_two_threads(|| {
        let mut content = packets(SIZE);
        let end = content.len() - 24;
        content[end - (2 << 20)..end - 5000].fill(0);
        let (source, destination) = (
            FakeVf::new(content.clone(), RING),
            FakeVf::new(packets(9), RING),
        );
        let (here, there) = tcp();
        let (saved, loaded) = transfer(&source, &destination, here, there);
        let (saved, loaded) = (saved.result.unwrap(), loaded.result.unwrap());
        assert_eq!(saved.totals, loaded.totals);
        assert_eq!(saved.totals.payload_bytes, content.len() as u64);
        assert!(saved.totals.zero_bytes > 2_000_000, "{:?}", saved.totals);
        assert!(saved.totals.wire_bytes < content.len() as u64 - 2_000_000);
        assert_eq!(destination.kernel().gpu, Gpu::Guest(content));
    });
}
