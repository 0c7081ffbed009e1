// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF's frames over several connections: what arrives, and what holds when one of the connections fails.

use super::*;
use crate::stream::{DecodeFault, Encoder, Frame, Outlet};
use crate::xe::Parser;

type Boxed = Box<dyn Connection>;

/// With a deadline that no thread of a busy machine misses.
fn patient() -> Context {
    let mut context = short();
    context.deadlines.network = Duration::from_secs(20);
    context
}

/// Both ends of `count` connections.
fn pairs(count: usize) -> (Vec<Boxed>, Vec<Boxed>) {
    (0..count)
        .map(|number| -> (Boxed, Boxed) {
            if number % 2 == 0 {
                let (here, there) = tcp();
                (Box::new(here), Box::new(there))
            } else {
                let (here, there) = UnixStream::pair().unwrap();
                (Box::new(here), Box::new(there))
            }
        })
        .unzip()
}

fn gathered(
    connections: Vec<Boxed>,
    context: &Context,
) -> Result<Incoming<Peer<Boxed>>, GatherError> {
    let gather = Gather::new(context.attempt);
    // The last comes first: they arrive in any order.
    for connection in connections.into_iter().rev() {
        let incoming = Incoming::accept(connection, &context.deadlines).unwrap();
        if let Some(whole) = gather.add(incoming, &context.deadlines)? {
            return Ok(whole);
        }
    }
    panic!("not all connections are here")
}

fn send_over(source: &FakeVf, connections: Vec<Boxed>, context: &Context) -> Saved<FakeVf> {
    let peers = Peers::new(connections).unwrap();
    save(stopped(source), peers, &manifest(), context)
}

fn moved_over(
    source: &FakeVf,
    destination: &FakeVf,
    (here, there): (Vec<Boxed>, Vec<Boxed>),
    context: &Context,
) -> (Saved<FakeVf>, Loaded<FakeVf>) {
    thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let incoming = gathered(there, context).unwrap();
            load(stopped(destination), incoming, expectation(), context)
        });
        let saved = send_over(source, here, context);
        (saved, loaded.join().unwrap())
    })
}

#[test]
fn a_state_arrives_over_any_number_of_connections() {
    for count in 1..=8 {
        let content = packets(24 << 20);
        let (source, destination) = (
            FakeVf::new(content.clone(), RING),
            FakeVf::new(packets(9), RING),
        );
        source.kernel().read_most = 300_001;
        let (saved, loaded) = moved_over(&source, &destination, pairs(count), &patient());
        assert_kept(&saved);
        let (saved, loaded) = (saved.result.unwrap(), loaded.result.unwrap());
        assert_eq!(saved.account, loaded.account);
        assert_eq!(saved.totals, loaded.totals);
        assert!(destination.kernel().gpu == Gpu::Guest(content), "{count}");
        source.assert_clean_use();
        destination.assert_clean_use();
    }
}

/// A connection that counts what goes through it, and does something after so many bytes of writing.
struct Counting<F> {
    inner: Boxed,
    written: usize,
    after: usize,
    then: F,
}

impl<F> Read for Counting<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl<F: Fn(&mut Boxed) + Send> Write for Counting<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.written >= self.after {
            (self.then)(&mut self.inner);
            self.after = usize::MAX;
        }
        // In small pieces, so that it happens in the middle of a frame too.
        let some = bytes.len().min(10_000);
        let count = self.inner.write(&bytes[..some])?;
        self.written += count;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<F: Fn(&mut Boxed) + Send> Connection for Counting<F> {
    fn closer(&self) -> std::io::Result<Closer> {
        self.inner.closer()
    }

    fn set_timeout(&self, timeout: Duration) -> std::io::Result<()> {
        self.inner.set_timeout(timeout)
    }

    fn has_input(&self) -> bool {
        self.inner.has_input()
    }
}

fn counting(inner: Boxed, after: usize, then: impl Fn(&mut Boxed) + Send + 'static) -> Boxed {
    Box::new(Counting {
        inner,
        written: 0,
        after,
        then,
    })
}

#[test]
fn a_connection_that_dies_in_the_middle_ends_the_transfer_and_the_guest_keeps_its_gpu() {
    for (number, after) in [(0, 2_000_000), (1, 400), (2, 2_000_000), (3, 1_500_001)] {
        let (source, destination) = (
            FakeVf::new(packets(64 << 20), 1 << 20),
            FakeVf::new(packets(9), RING),
        );
        let (mut here, there) = pairs(4);
        let inner = here.remove(number);
        let dying = counting(inner, after, |connection| connection.closer().unwrap()());
        here.insert(number, dying);
        let started = Instant::now();
        let (saved, loaded) = moved_over(&source, &destination, (here, there), &patient());
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_kept(&saved);
        assert_eq!(source.kernel().resets, 0);
        source.assert_clean_use();
        let error = chain(&saved.result.unwrap_err());
        let why = chain(loaded.result.as_ref().unwrap_err());
        if number > 0 {
            let named = format!("Connection {number} of 4");
            assert!(why.contains(&named), "{why}");
            assert!(error.contains(&named), "{error}");
        }
        assert_reset(&loaded, &destination);
    }
}

#[test]
fn a_slow_connection_holds_nothing_up_but_its_own_frames() {
    let (source, destination) = (
        FakeVf::new(packets(64 << 20), 1 << 20),
        FakeVf::new(packets(9), RING),
    );
    let (mut here, there) = pairs(4);
    let slow = counting(here.pop().unwrap(), 0, |_| {
        thread::sleep(Duration::from_millis(300));
    });
    here.push(slow);
    let (saved, loaded) = moved_over(&source, &destination, (here, there), &patient());
    assert!(saved.result.is_ok() && loaded.result.is_ok());
}

#[test]
fn a_silent_connection_is_given_up_at_the_deadline() {
    let (source, destination) = (
        FakeVf::new(packets(64 << 20), 1 << 20),
        FakeVf::new(packets(9), RING),
    );
    let (mut here, there) = pairs(3);
    let stuck = counting(here.pop().unwrap(), 1_000_000, |_| {
        thread::sleep(Duration::from_millis(2500));
    });
    here.push(stuck);
    let mut context = patient();
    context.deadlines.network = Duration::from_millis(500);
    let started = Instant::now();
    let (saved, loaded) = moved_over(&source, &destination, (here, there), &context);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(saved.result.is_err());
    assert_kept(&saved);
    assert!(
        matches!(loaded.result, Err(LoadError::Connection { .. })),
        "{:?}",
        loaded.result
    );
    assert_reset(&loaded, &destination);
}

#[test]
fn a_destination_that_refuses_is_heard_over_several_connections() {
    for threads in [1, 700] {
        let source = FakeVf::new(packets(64 << 20), 1 << 20);
        let destination =
            FakeVf::new(packets(9), RING).with_fault(Call::Write, threads, libc::ENODEV);
        let (saved, loaded) = moved_over(&source, &destination, pairs(4), &patient());
        let Err(SaveError::Refused { vf, reason }) = &saved.result else {
            panic!("{:?}", saved.result)
        };
        assert_eq!(*vf, VfOutcome::Reset);
        assert!(reason.contains("ENODEV"), "{reason}");
        assert_kept(&saved);
        assert_reset(&loaded, &destination);
    }
}

#[test]
fn a_cancel_ends_all_connections_on_either_side() {
    for at_source in [true, false] {
        let source = FakeVf::new(packets(64 << 20), 1 << 20);
        source.kernel().delay = Duration::from_millis(2);
        let destination = FakeVf::new(packets(9), RING);
        let (ours, theirs) = (patient(), patient());
        let (here, there) = pairs(4);
        let (saved, loaded) = thread::scope(|scope| {
            let loaded = scope.spawn(|| {
                let incoming = gathered(there, &theirs).unwrap();
                load(stopped(&destination), incoming, expectation(), &theirs)
            });
            let progress = ours.progress.clone();
            let context = if at_source { &ours } else { &theirs };
            let cancel = context.cancel.clone();
            scope.spawn(move || {
                while progress.view().bytes < 8 << 20 {
                    thread::yield_now();
                }
                cancel.cancel();
            });
            (send_over(&source, here, &ours), loaded.join().unwrap())
        });
        assert_kept(&saved);
        assert_eq!(source.kernel().resets, 0);
        assert_eq!(
            matches!(saved.result, Err(SaveError::Cancelled)),
            at_source,
            "{:?}",
            saved.result
        );
        assert_eq!(
            matches!(loaded.result, Err(LoadError::Cancelled)),
            !at_source,
            "{:?}",
            loaded.result
        );
        assert_reset(&loaded, &destination);
    }
}

/// The bytes of each connection of a stream over `count`, frames dealt in turn.
fn recorded(count: usize) -> Vec<Vec<u8>> {
    let size = crate::stream::frame::FRAME_DEFAULT;
    let split = Encoder::split(&manifest(), size, AttemptId::NONE, count as u8);
    let (mut encoder, mut streams) = split.unwrap();
    let (mut parser, mut frame) = (Parser::new(Expectation::any()), Frame::new());
    for (number, payload) in packets(SIZE).chunks(100_000).enumerate() {
        parser.observe(payload).unwrap();
        encoder.frame(payload, &mut frame);
        let mut outlet = Outlet::new(&mut streams[number % count]);
        outlet.frame(&frame, payload).unwrap();
    }
    let (end, _) = encoder.end(*parser.finish().unwrap().by_kind());
    streams[0].extend(end);
    streams
}

/// Plays recorded connections to a destination.
fn played(streams: Vec<Vec<u8>>) -> (Loaded<FakeVf>, FakeVf) {
    let destination = FakeVf::new(packets(9), RING);
    let context = patient();
    let (here, there) = pairs(streams.len());
    let loaded = thread::scope(|scope| {
        for (mut here, bytes) in here.into_iter().zip(streams) {
            scope.spawn(move || {
                _ = here.write_all(&bytes);
                _ = here.read(&mut [0]);
            });
        }
        let incoming = gathered(there, &context).unwrap();
        load(stopped(&destination), incoming, expectation(), &context)
    });
    (loaded, destination)
}

#[test]
fn frames_lost_altered_or_repeated_on_one_connection_are_refused() {
    let good = recorded(3);
    let (loaded, destination) = played(good.clone());
    assert!(loaded.result.is_ok(), "{:?}", loaded.result);
    assert!(destination.kernel().gpu == Gpu::Guest(packets(SIZE)));

    // The first frame behind the opening of the last connection.
    let opening = 56 + u32::from_le_bytes(good[2][20..24].try_into().unwrap()) as usize;
    let length = u32::from_le_bytes(good[2][opening + 4..opening + 8].try_into().unwrap());
    let frame = opening..opening + FRAME_HEADER_SIZE + length as usize;

    let mut lost = good.clone();
    lost[2].drain(frame.clone());
    let (loaded, destination) = played(lost);
    assert!(loaded.result.is_err());
    assert_reset(&loaded, &destination);

    let mut repeated = good.clone();
    let copy = good[2][frame.clone()].to_vec();
    repeated[1].splice(opening..opening, copy);
    let (loaded, destination) = played(repeated);
    assert!(loaded.result.is_err());
    assert_reset(&loaded, &destination);

    for at in [
        opening,
        opening + 5,
        opening + 9,
        opening + 17,
        opening + 999,
    ] {
        let mut altered = good.clone();
        altered[2][at] ^= 1;
        let (loaded, destination) = played(altered);
        assert!(
            matches!(loaded.result, Err(LoadError::Connection { number: 2, .. })),
            "byte {at}: {:?}",
            loaded.result
        );
        assert_reset(&loaded, &destination);
    }
    let mut altered = good;
    altered[2][opening + 999] ^= 1;
    let Err(LoadError::Connection { source, .. }) = played(altered).0.result else {
        panic!("an altered byte")
    };
    assert!(matches!(
        source,
        StreamError::Decode(error) if matches!(error.fault, DecodeFault::Checksum { .. })
    ));
}

#[test]
fn connections_that_do_not_belong_together_are_refused_and_told() {
    let (a, b) = (recorded(3), recorded(2));
    let mut other_attempt = a[1].clone();
    other_attempt[32] ^= 1;
    let checksum = crate::stream::crc::crc64(&other_attempt[..48]);
    other_attempt[48..56].copy_from_slice(&checksum.to_le_bytes());
    let cases = [
        (vec![&a[0], &a[0]], "has come twice"),
        (vec![&a[0], &b[1]], "another number of connections"),
        (vec![&other_attempt], "is of attempt"),
    ];
    for (streams, what) in cases {
        let gather = Gather::new(AttemptId::NONE);
        let context = patient();
        let last = streams.len() - 1;
        for (number, bytes) in streams.into_iter().enumerate() {
            let (mut here, there) = UnixStream::pair().unwrap();
            thread::scope(|scope| {
                let told = scope.spawn(move || {
                    _ = here.write_all(&bytes[..1000]);
                    (number == last).then(|| crate::stream::Receipt::read(&mut here).unwrap())
                });
                let incoming = Incoming::accept(there, &context.deadlines).unwrap();
                let added = gather.add(incoming, &context.deadlines);
                if number == last {
                    let error = added.err().unwrap().to_string();
                    assert!(error.contains(what), "{error}");
                } else {
                    assert!(added.unwrap().is_none());
                }
                if let Some(receipt) = told.join().unwrap() {
                    assert!(format!("{receipt:?}").contains(what), "{receipt:?}");
                }
            });
        }
    }
}

#[test]
fn a_slow_vf_holds_up_all_connections_and_the_source_behind_them() {
    const STATE: usize = 256 << 20;
    let (source, destination) = (
        FakeVf::new(packets(STATE), 1 << 20),
        FakeVf::new(packets(9), RING),
    );
    // For each 1000 bytes: a second a frame.
    destination.kernel().delay = Duration::from_millis(1);
    let (ours, theirs) = (patient(), patient());
    let sent = ours.progress.clone();
    // Of unix sockets: those of TCP grow to tens of MiB each.
    let (here, there): (Vec<Boxed>, Vec<Boxed>) = (0..8)
        .map(|_| -> (Boxed, Boxed) {
            let (here, there) = UnixStream::pair().unwrap();
            (Box::new(here), Box::new(there))
        })
        .unzip();
    let ahead = thread::scope(|scope| {
        scope.spawn(|| {
            let incoming = gathered(there, &theirs).unwrap();
            load(stopped(&destination), incoming, expectation(), &theirs)
        });
        scope.spawn(|| send_over(&source, here, &ours));
        thread::sleep(Duration::from_millis(1500));
        let ahead = sent.view().bytes as usize;
        ours.cancel.cancel();
        ahead
    });
    // The buffers of both sides, the few frames that were written, and what eight pairs of sockets hold.
    assert!(ahead > 0 && ahead < STATE / 4, "{ahead}");
}
