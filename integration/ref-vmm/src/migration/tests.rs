// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both roles over loopback, with a guest that has no VF and prints that once; VFs join in the end-to-end tests.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xe_vfio_device::device::Options;
use xe_vfio_device::transfer::{Cancel, Endpoint, Listener};

use super::Limits;
use super::channel::Channel;
use super::destination::{self, Destination};
use super::forecast::Forecaster;
use super::protocol::{self, Config, Kind, Loaded, Ready, Reason};
use super::source::{self, Error, Outcome};
use super::watch::Watch;
use crate::accel::{Choice, Kind as Accel};
use crate::config::{DeviceConfig, HostConfig};
use crate::events::Events;
use crate::serial::Target;
use crate::vm::Vm;

const MEMORY: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn host() -> HostConfig {
    HostConfig {
        serial: Target::Null,
        accel: Choice::Only(Accel::Soft),
        iommufd: false,
        dma_block: None,
    }
}

fn running_vm() -> Box<Vm> {
    let options = Options::default();
    let vm = Vm::new(MEMORY, &[], Choice::Only(Accel::Soft), &host(), options).unwrap();
    vm.boot(None).unwrap();
    vm.ram()
        .write(0x180_0000, b"some memory of the guest")
        .unwrap();
    vm.resume().unwrap();
    Box::new(vm)
}

fn destination(limits: Limits) -> Destination {
    Destination {
        host: host(),
        devices: Vec::new(),
        limits,
        options: Options::default(),
        events: Events::new(None).unwrap(),
    }
}

fn listener() -> Listener {
    "tcp:127.0.0.1:0"
        .parse::<Endpoint>()
        .unwrap()
        .listen()
        .unwrap()
}

fn send_to(endpoint: &Endpoint, limits: Limits) -> (Box<Vm>, Outcome) {
    let watch = Arc::new(Watch::default());
    let events = Events::new(None).unwrap();
    let mut vm = running_vm();
    let outcome = source::send(
        &mut vm,
        endpoint,
        &limits,
        &watch,
        &events,
        &Forecaster::default(),
    );
    (vm, outcome)
}

#[track_caller]
fn assert_still_here((vm, outcome): (Box<Vm>, Outcome)) -> Error {
    let Outcome::StillHere { error, now } = outcome else {
        panic!("the VM has gone")
    };
    assert!(vm.is_running(), "{now}");
    assert!(now.contains("runs on at the source"), "{now}");
    error
}

/// A main connection made by hand.
fn connect(endpoint: &Endpoint) -> Channel {
    Channel::new(
        endpoint.connect(PATIENCE).unwrap(),
        &Cancel::new(),
        PATIENCE,
    )
    .unwrap()
}

fn accept(listener: &Listener) -> Channel {
    let connection = listener.accept(PATIENCE, &Cancel::new()).unwrap();
    Channel::new(connection, &Cancel::new(), PATIENCE).unwrap()
}

#[track_caller]
fn next(channel: &mut Channel) -> (Kind, Vec<u8>) {
    let (header, payload) = channel.receive("testing", &|| 0).unwrap();
    (header.kind, payload.to_vec())
}

#[track_caller]
fn next_reason(channel: &mut Channel, expected: Kind) -> String {
    let (kind, payload) = next(channel);
    assert_eq!(kind, expected);
    protocol::decode::<Reason>(kind, &payload).unwrap().reason
}

fn config() -> Config {
    Config {
        memory: MEMORY,
        accel: Accel::Soft,
        devices: Vec::new(),
        compression: false,
    }
}

#[track_caller]
fn arrives(endpoint: &Endpoint, listener: Listener) {
    std::thread::scope(|scope| {
        let receiving = scope
            .spawn(move || destination(Limits::default()).receive(&listener, &Watch::default()));
        let (left, Outcome::HandedOver { report }) = send_to(endpoint, Limits::default()) else {
            panic!("the VM was not handed over")
        };
        let arrived = receiving.join().unwrap().unwrap();
        assert!(arrived.is_running() && !left.is_running());
        let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in (0..MEMORY).step_by(1 << 20) {
            left.ram().read(at, &mut there).unwrap();
            arrived.ram().read(at, &mut here).unwrap();
            assert!(here == there, "memory differs in the MiB at {at:#x}");
        }
        assert!(report.memory_bytes > 0 && report.wire_bytes > report.memory_bytes);
        let phases: Vec<_> = report.phases.keys().copied().collect();
        assert_eq!(
            phases,
            [
                "connect", "load", "precopy", "quiesce", "resume", "stop", "stream"
            ]
        );
    });
}

#[test]
fn a_vm_arrives_over_tcp_with_its_memory() {
    let listener = listener();
    arrives(&listener.endpoint(), listener);
}

#[test]
fn a_destination_that_was_told_to_go_cannot_be_cancelled() {
    let listener = listener();
    let endpoint = listener.endpoint();
    let watch = Watch::default();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| destination(Limits::default()).receive(&listener, &watch));
        let (_left, outcome) = send_to(&endpoint, Limits::default());
        assert!(matches!(outcome, Outcome::HandedOver { .. }));
        receiving.join().unwrap().unwrap();
    });
    assert!(!watch.cancel("too late"));
}

#[test]
fn a_vm_arrives_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(directory.path().join("socket"));
    let listener = endpoint.listen().unwrap();
    arrives(&endpoint, listener);
}

#[test]
fn strangers_on_the_listener_do_not_disturb_an_attempt() {
    let listener = listener();
    let endpoint = listener.endpoint();
    let _silent = endpoint.connect(PATIENCE).unwrap();
    let mut talking = endpoint.connect(PATIENCE).unwrap();
    talking.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(endpoint.connect(PATIENCE).unwrap());
    let before = Instant::now();
    arrives(&endpoint, listener);
    assert!(
        before.elapsed() < Limits::default().silence,
        "it waited for a stranger"
    );
}

#[test]
fn a_silent_connection_during_an_attempt_does_not_hold_its_end_up() {
    let before = Instant::now();
    let listener = listener();
    let endpoint = listener.endpoint();
    std::thread::scope(|scope| {
        let receiving = scope
            .spawn(move || destination(Limits::default()).receive(&listener, &Watch::default()));
        let mut channel = connect(&endpoint);
        channel.send(Kind::Config, &config()).unwrap();
        assert_eq!(next(&mut channel).0, Kind::Ready);
        let _silent = endpoint.connect(PATIENCE).unwrap();
        let reason = Reason {
            reason: "changed my mind".into(),
        };
        channel.send(Kind::Abandon, &reason).unwrap();
        next_reason(&mut channel, Kind::Failed);
        drop(channel);
        receiving.join().unwrap().err().unwrap();
    });
    assert!(
        before.elapsed() < Limits::default().silence,
        "it waited for a stranger"
    );
}

#[test]
fn nobody_there_leaves_the_guest_running() {
    let gone = listener().endpoint();
    let error = assert_still_here(send_to(&gone, Limits::default()));
    assert!(matches!(error, Error::Endpoint(_)), "{error}");
}

#[test]
fn a_destination_with_other_vfs_refuses_before_the_guest_stops() {
    let listener = listener();
    let endpoint = listener.endpoint();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut destination = destination(Limits::default());
            destination.devices = vec![DeviceConfig {
                id: "vf0".into(),
                path: "/sys/x".into(),
            }];
            let error = destination
                .receive(&listener, &Watch::default())
                .err()
                .unwrap();
            assert!(
                matches!(error, destination::Error::Devices { .. }),
                "{error}"
            );
        });
        let error = assert_still_here(send_to(&endpoint, Limits::default()));
        assert!(
            matches!(&error, Error::Refused(reason) if reason.contains("vf0")),
            "{error}"
        );
    });
}

#[test]
fn a_destination_that_goes_away_gives_the_guest_back() {
    let listener = listener();
    let endpoint = listener.endpoint();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut channel = accept(&listener);
            next(&mut channel);
            let ready = Ready {
                attempt: "1".repeat(32),
                lease_ms: 1000,
                prepare_ms: 0.0,
                compression: false,
            };
            channel.send(Kind::Ready, &ready).unwrap();
            next(&mut channel);
        });
        assert_still_here(send_to(&endpoint, Limits::default()));
    });
}

#[test]
fn a_destination_that_hangs_is_given_up_after_the_time_that_was_set() {
    let listener = listener();
    let limits = Limits {
        total: Duration::from_millis(300),
        ..Limits::default()
    };
    let error = assert_still_here(send_to(&listener.endpoint(), limits));
    assert!(
        matches!(&error, Error::Cancelled(why) if why.contains("0.3 s")),
        "{error}"
    );
}

/// A destination by hand, up to the go that it reads.
fn until_go(listener: &Listener) -> Channel {
    let mut channel = accept(listener);
    next(&mut channel);
    let ready = Ready {
        attempt: "1".repeat(32),
        lease_ms: 1000,
        prepare_ms: 0.0,
        compression: false,
    };
    channel.send(Kind::Ready, &ready).unwrap();
    while next(&mut channel).0 != Kind::State {}
    channel
        .send(
            Kind::Loaded,
            &Loaded {
                load_ms: 0.0,
                devices: Vec::new(),
            },
        )
        .unwrap();
    assert_eq!(next(&mut channel).0, Kind::Go);
    channel
}

#[test]
fn without_an_answer_to_go_the_guest_stays_paused() {
    let listener = listener();
    let endpoint = listener.endpoint();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(until_go(&listener)));
        let (vm, Outcome::Undecided { .. }) = send_to(&endpoint, Limits::default()) else {
            panic!("the source has decided")
        };
        assert!(!vm.is_running());
    });
}

#[test]
fn a_destination_that_fails_after_go_gives_the_guest_back() {
    let listener = listener();
    let endpoint = listener.endpoint();
    std::thread::scope(|scope| {
        scope.spawn(move || until_go(&listener).fail(Kind::Failed, "no more room"));
        let error = assert_still_here(send_to(&endpoint, Limits::default()));
        assert!(
            matches!(&error, Error::Peer(reason) if reason == "no more room"),
            "{error}"
        );
    });
}

#[test]
fn a_destination_that_gave_up_before_go_gives_the_guest_back() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(directory.path().join("socket"));
    let listener = endpoint.listen().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut channel = accept(&listener);
            next(&mut channel);
            let ready = Ready {
                attempt: "1".repeat(32),
                lease_ms: 1000,
                prepare_ms: 0.0,
                compression: false,
            };
            channel.send(Kind::Ready, &ready).unwrap();
            while next(&mut channel).0 != Kind::State {}
            channel
                .send(
                    Kind::Loaded,
                    &Loaded {
                        load_ms: 0.0,
                        devices: Vec::new(),
                    },
                )
                .unwrap();
            // Closed at once: go meets a socket that takes nothing, or none at all.
            let reason = Reason {
                reason: "the lease is over".into(),
            };
            channel.send(Kind::Failed, &reason).unwrap();
        });
        let error = assert_still_here(send_to(&endpoint, Limits::default()));
        assert!(
            matches!(&error, Error::Peer(reason) if reason == "the lease is over"),
            "{error}"
        );
    });
}

/// Runs a destination against a source by hand; answers the destination's error.
fn receive_from(limits: Limits, source: impl FnOnce(Channel) + Send) -> destination::Error {
    let listener = listener();
    let endpoint = listener.endpoint();
    std::thread::scope(|scope| {
        let receiving =
            scope.spawn(move || destination(limits).receive(&listener, &Watch::default()));
        source(connect(&endpoint));
        receiving
            .join()
            .unwrap()
            .err()
            .expect("nothing has arrived")
    })
}

#[test]
fn a_go_after_the_lease_is_refused() {
    let limits = Limits {
        lease: Duration::from_millis(100),
        ..Limits::default()
    };
    let error = receive_from(limits, |mut channel| {
        let vm = &mut *running_vm();
        vm.pause().unwrap();
        let state = serde_json::to_vec(&vm.save().unwrap()).unwrap();
        channel.send(Kind::Config, &config()).unwrap();
        assert_eq!(next(&mut channel).0, Kind::Ready);
        channel.send_raw(Kind::State, 0, &state).unwrap();
        assert_eq!(next(&mut channel).0, Kind::Loaded);
        assert!(next_reason(&mut channel, Kind::Failed).contains("lease"));
    });
    assert!(matches!(error, destination::Error::Lease(_)), "{error}");
}

#[test]
fn memory_outside_the_guest_ends_the_attempt_and_the_source_hears_why() {
    let error = receive_from(Limits::default(), |mut channel| {
        channel.send(Kind::Config, &config()).unwrap();
        assert_eq!(next(&mut channel).0, Kind::Ready);
        channel.send_memory(MEMORY, &[1; 4096]).unwrap();
        assert!(next_reason(&mut channel, Kind::Failed).contains("outside RAM"));
    });
    assert!(matches!(error, destination::Error::Memory(_)), "{error}");
}

#[test]
fn a_frame_at_the_wrong_time_ends_the_attempt() {
    let error = receive_from(Limits::default(), |mut channel| {
        channel.send(Kind::Config, &config()).unwrap();
        assert_eq!(next(&mut channel).0, Kind::Ready);
        channel.send_raw(Kind::Go, 0, &[]).unwrap();
        assert!(next_reason(&mut channel, Kind::Failed).contains("Go frame"));
    });
    assert!(matches!(error, destination::Error::Channel(_)), "{error}");
}

#[test]
fn a_source_that_gives_up_is_heard() {
    let error = receive_from(Limits::default(), |mut channel| {
        channel.send(Kind::Config, &config()).unwrap();
        assert_eq!(next(&mut channel).0, Kind::Ready);
        channel
            .send(
                Kind::Abandon,
                &Reason {
                    reason: "changed my mind".into(),
                },
            )
            .unwrap();
        assert!(next_reason(&mut channel, Kind::Failed).contains("changed my mind"));
    });
    assert!(matches!(&error, destination::Error::Abandoned(why) if why == "changed my mind"));
}

#[test]
fn a_second_migration_is_turned_away_while_one_is_under_way() {
    let listener = listener();
    let endpoint = listener.endpoint();
    std::thread::scope(|scope| {
        scope.spawn(move || destination(Limits::default()).receive(&listener, &Watch::default()));
        let mut first = connect(&endpoint);
        first.send(Kind::Config, &config()).unwrap();
        assert_eq!(next(&mut first).0, Kind::Ready);
        let mut second = connect(&endpoint);
        second.send(Kind::Config, &config()).unwrap();
        assert!(next_reason(&mut second, Kind::Refused).contains("under way"));
    });
}

#[test]
fn an_unusable_state_is_refused_before_anything_runs() {
    let error = receive_from(Limits::default(), |mut channel| {
        channel.send(Kind::Config, &config()).unwrap();
        assert_eq!(next(&mut channel).0, Kind::Ready);
        channel.send_raw(Kind::State, 0, b"{}").unwrap();
        assert!(next_reason(&mut channel, Kind::Failed).contains("cannot be decoded"));
    });
    assert!(matches!(error, destination::Error::Channel(_)), "{error}");
}
