// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Estimates in worlds whose truth is known.

use std::path::Path;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

/// Where transfers take what a formula says.
#[derive(Clone, Copy)]
struct World {
    cores: usize,
    /// Seconds per GiB.
    read: f64,
    link: f64,
    write: f64,
    around: f64,
    /// What the model does not know of.
    surprise: f64,
}

const WORLD: World = World {
    cores: 2,
    read: 0.1,
    link: 0.4,
    write: 0.15,
    around: 0.03,
    surprise: 1.0,
};

impl World {
    fn lane(&self, state_bytes: u64, zeros: f64) -> Moved {
        let seconds = |cost: f64, share: f64| {
            Duration::from_secs_f64(cost * share * state_bytes as f64 / GIB as f64)
        };
        let (read, link) = (seconds(self.read, 1.0), seconds(self.link, 1.0 - zeros));
        let write = seconds(self.write, 1.0);
        let whole = (read + link).max(write).mul_f64(self.surprise);
        Moved {
            device: "vf0".to_owned(),
            side: Side::Save,
            state_bytes,
            zero_bytes: (state_bytes as f64 * zeros) as u64,
            wire_bytes: (state_bytes as f64 * (1.0 - zeros)) as u64,
            enter: Duration::from_millis(1),
            stream: whole,
            confirm: Duration::from_millis(2),
            in_device: read,
            in_frames: Duration::ZERO,
            in_codec: Duration::ZERO,
            in_link: link,
            far_device: Some(write),
        }
    }

    fn migration(&self, state_bytes: u64, zeros: f64) -> Finished {
        let moved = self.lane(state_bytes, zeros);
        Finished {
            hosts: Hosts::Same,
            around: Duration::from_secs_f64(self.around),
            ..Finished::alone(Route::Tcp, self.cores, moved)
        }
    }

    fn estimator(&self) -> Estimator {
        Estimator::new(Machine::assumed(self.cores), History::default())
    }
}

fn work(lanes: usize, state_bytes: u64, zeros: f64) -> Work {
    let lane = |number| Lane {
        device: format!("vf{number}"),
        state_bytes,
        zeros: Some(zeros),
    };
    Work::new(Route::Tcp, Hosts::Same, (0..lanes).map(lane).collect())
}

fn downtime(finished: &Finished) -> f64 {
    (finished.streaming + finished.around).as_secs_f64()
}

#[track_caller]
fn assert_near(estimate: &Estimate, truth: f64, within: f64) {
    let ratio = estimate.likely.as_secs_f64() / truth;
    assert!(
        (1.0 - within..=1.0 + within).contains(&ratio),
        "{estimate} and it is {truth:.3} s"
    );
}

fn moved() -> impl Strategy<Value = Moved> {
    let micros = || (0..100_000_000u64).prop_map(Duration::from_micros);
    let times = (
        micros(),
        micros(),
        micros(),
        micros(),
        micros(),
        micros(),
        prop_oneof![Just(Duration::ZERO), micros()],
        proptest::option::of(micros()),
    );
    (any::<bool>(), 0..64 * GIB, 0.0..=1.0, 0..64 * GIB, times).prop_map(
        |(save, state_bytes, zeros, wire_bytes, times)| {
            let (enter, stream, confirm, in_device, in_frames, in_link, in_codec, far_device) =
                times;
            Moved {
                device: "vf0".to_owned(),
                side: if save { Side::Save } else { Side::Load },
                state_bytes,
                zero_bytes: (state_bytes as f64 * zeros) as u64,
                wire_bytes,
                enter,
                stream,
                confirm,
                in_device,
                in_frames,
                in_codec,
                in_link,
                far_device,
            }
        },
    )
}

prop_compose! {
    fn finished()(
        route in prop::sample::select(Route::ALL.to_vec()),
        hosts in prop::sample::select(vec![Hosts::Same, Hosts::Apart, Hosts::Unknown]),
        cores in 1..64u32,
        devices in vec(moved(), 1..4),
        memory_bytes in 0..GIB,
        rate in proptest::option::of(1u32..2_000_000_000),
        streaming in 0..100_000_000u64,
        around in 0..10_000_000u64,
    ) -> Finished {
        Finished {
            route, hosts, cores, devices, memory_bytes,
            memory_cost: rate.and_then(|rate| Cost::per_second(f64::from(rate))),
            streaming: Duration::from_micros(streaming),
            around: Duration::from_micros(around),
        }
    }
}

/// Whatever the past was.
fn estimator() -> impl Strategy<Value = Estimator> {
    (vec(finished(), 0..6), 1..64usize).prop_map(|(past, cores)| {
        let mut estimator = Estimator::new(Machine::assumed(cores), History::default());
        past.into_iter().for_each(|one| estimator.learn(one));
        estimator
    })
}

proptest! {
    #[test]
    fn an_estimate_lies_in_its_interval(estimator in estimator(), lanes in 0..5usize, bytes: u64, zeros in 0.0..=1.0) {
        let mut work = work(lanes, bytes, zeros);
        for lane in &mut work.lanes {
            lane.zeros = (zeros < 0.5).then_some(zeros);
        }
        let estimate = estimator.estimate(&work);
        prop_assert!(estimate.low <= estimate.likely && estimate.likely <= estimate.high, "{estimate}");
    }

    #[test]
    fn more_bytes_never_take_less_time(
        estimator in estimator(), lanes in 1..5usize, state in 0..64 * GIB, more in 0..64 * GIB, memory in 0..GIB, zeros in 0.0..=1.0,
    ) {
        let less = work(lanes, state, zeros).with_memory(memory);
        let likely = |work: &Work| estimator.estimate(work).likely;
        prop_assert!(likely(&work(lanes, state + more, zeros).with_memory(memory)) >= likely(&less));
        prop_assert!(likely(&less.with_memory(memory + more)) >= likely(&less));
    }

    #[test]
    fn an_estimate_converges_on_what_happens_again_and_again(
        read in 0.01..2.0f64, link in 0.01..2.0f64, write in 0.01..2.0f64, around in 0.0..0.5f64,
        surprise in 0.3..3.0f64, zeros in 0.0..=1.0, mib in 16..8192u64,
    ) {
        let world = World { read, link, write, around, surprise, ..WORLD };
        let mut estimator = world.estimator();
        for _ in 0..8 {
            estimator.learn(world.migration(mib << 20, zeros));
        }
        let truth = downtime(&world.migration(mib << 20, zeros));
        let estimate = estimator.estimate(&work(1, mib << 20, zeros));
        let ratio = estimate.likely.as_secs_f64() / truth;
        prop_assert!((0.9..1.1).contains(&ratio), "{estimate}, and it is {truth}");
        prop_assert!(estimate.low.as_secs_f64() <= truth && truth <= estimate.high.as_secs_f64());
    }

    #[test]
    fn a_history_is_read_as_it_was_written(past in vec(finished(), 0..6)) {
        let mut history = History::default();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        for one in past {
            history.push(one.clone());
            let (_, broken) = History::append(&path, one).unwrap();
            prop_assert!(broken.is_none(), "{broken:?}");
        }
        let (read, error) = History::open(&path);
        prop_assert!(error.is_none(), "{error:?}");
        // Rates are whole bytes per second there.
        let rates = |history: &History| history.newest_first().map(|f| f.memory_cost.and_then(Cost::rate)).collect::<Vec<_>>();
        for (a, b) in rates(&history).into_iter().zip(rates(&read)) {
            prop_assert_eq!(a.is_some(), b.is_some());
            prop_assert!((a.unwrap_or(1.0) - b.unwrap_or(1.0)).abs() <= 1.0);
        }
        let rest = |history: &History| history.newest_first().map(|f| Finished { memory_cost: None, ..f.clone() }).collect::<Vec<_>>();
        prop_assert_eq!(rest(&history), rest(&read));
    }
}

#[test]
fn what_one_size_has_taught_holds_for_another() {
    let mut estimator = WORLD.estimator();
    for _ in 0..3 {
        estimator.learn(WORLD.migration(GIB / 4, 0.0));
    }
    for gib in [1, 4, 16] {
        let truth = downtime(&WORLD.migration(gib * GIB, 0.0));
        assert_near(&estimator.estimate(&work(1, gib * GIB, 0.0)), truth, 0.1);
    }
}

#[test]
fn zeros_do_not_cross_the_link_but_are_read_and_written() {
    let mut estimator = WORLD.estimator();
    for _ in 0..3 {
        estimator.learn(WORLD.migration(GIB, 0.0));
    }
    let estimate = estimator.estimate(&work(1, GIB, 1.0));
    assert_near(&estimate, downtime(&WORLD.migration(GIB, 1.0)), 0.2);
    assert_eq!(estimate.bound, Bound::Destination);
    assert_eq!(estimator.estimate(&work(1, GIB, 0.0)).bound, Bound::Link);
}

#[test]
fn one_odd_transfer_does_not_spoil_what_many_have_taught() {
    let mut estimator = WORLD.estimator();
    for number in 0..7 {
        let mut world = WORLD;
        if number == 5 {
            (world.surprise, world.link, world.around) = (6.0, 4.0, 5.0);
        }
        estimator.learn(world.migration(GIB, 0.0));
    }
    let truth = downtime(&WORLD.migration(GIB, 0.0));
    assert_near(&estimator.estimate(&work(1, GIB, 0.0)), truth, 0.15);
}

#[test]
fn a_change_of_the_world_is_followed_within_some_transfers() {
    let mut estimator = WORLD.estimator();
    let slow = World { link: 1.2, ..WORLD };
    for _ in 0..10 {
        estimator.learn(WORLD.migration(GIB, 0.0));
    }
    for _ in 0..8 {
        estimator.learn(slow.migration(GIB, 0.0));
    }
    let truth = downtime(&slow.migration(GIB, 0.0));
    assert_near(&estimator.estimate(&work(1, GIB, 0.0)), truth, 0.15);
}

#[test]
fn several_vfs_share_two_cores_and_not_many() {
    let time = |cores, lanes| {
        let estimator = Estimator::new(Machine::assumed(cores), History::default());
        let around = estimator.estimate(&work(0, 0, 0.0)).likely;
        estimator.estimate(&work(lanes, GIB, 0.0)).likely - around
    };
    let alone = time(2, 1);
    assert!(time(2, 4) > alone.mul_f64(3.8) && time(2, 4) < alone.mul_f64(4.2));
    assert_eq!(time(32, 4), time(32, 1));
}

#[test]
fn what_several_vfs_have_taught_holds_for_one() {
    let mut estimator = WORLD.estimator();
    let whole = WORLD.migration(GIB, 0.0);
    // Four of a quarter at the same time on two cores: each takes as long as all.
    let one = Moved {
        state_bytes: GIB / 4,
        wire_bytes: GIB / 4,
        ..whole.devices[0].clone()
    };
    for _ in 0..4 {
        estimator.learn(Finished {
            devices: vec![one.clone(); 4],
            ..whole.clone()
        });
    }
    let estimate = estimator.estimate(&work(1, GIB, 0.0));
    assert_near(&estimate, downtime(&whole), 0.1);
}

#[test]
fn who_knows_nothing_says_so_and_leaves_room() {
    let nothing = Estimator::new(Machine::assumed(8), History::default());
    let mut asked = work(1, GIB, 0.0);
    asked.hosts = Hosts::Apart;
    asked.lanes[0].zeros = None;
    let estimate = nothing.estimate(&asked);
    assert_eq!(estimate.basis, Basis::Guessed);
    assert!(estimate.high > estimate.likely.mul_f64(1.5), "{estimate}");
    assert!(estimate.low < estimate.likely.div_f64(1.5), "{estimate}");
    asked.memory_cost = Cost::per_second(1e9);
    let measured = nothing.estimate(&asked);
    assert_eq!(measured.basis, Basis::Measured);
    assert!(
        (0.5..2.0).contains(&measured.likely.as_secs_f64()),
        "{measured}"
    );
}

#[test]
fn a_devices_zeros_are_what_they_were_the_last_time() {
    let mut estimator = WORLD.estimator();
    estimator.learn(WORLD.migration(GIB, 0.2));
    estimator.learn(WORLD.migration(GIB, 0.9));
    let mut asked = work(1, GIB, 0.0);
    asked.lanes[0].zeros = None;
    let estimate = estimator.estimate(&asked);
    assert!((estimate.zeros - 0.9).abs() < 0.01, "{}", estimate.zeros);
    // It may be as it was before, too.
    let before = downtime(&WORLD.migration(GIB, 0.2));
    assert!(estimate.high.as_secs_f64() >= before, "{estimate}");
}

#[test]
fn a_pass_is_made_as_long_as_it_brings_the_goal_nearer() {
    let mut estimator = WORLD.estimator();
    estimator.learn(WORLD.migration(GIB, 0.0));
    let state = estimator.estimate(&work(1, GIB, 0.0)).likely;
    let goal = Goal {
        downtime: state + Duration::from_millis(100),
    };
    let dirty = |bytes, before| {
        let mut work = work(1, GIB, 0.0).with_memory(bytes);
        work.memory_cost = Cost::per_second(1e9);
        converge(goal, &estimator, &work, 0, before)
    };
    assert!(matches!(dirty(1 << 20, None), Verdict::Fits(_)));
    assert!(matches!(dirty(GIB, None), Verdict::Again(_)));
    assert!(matches!(dirty(GIB, Some(2 * GIB)), Verdict::Again(_)));
    assert!(matches!(dirty(GIB, Some(GIB)), Verdict::NotShrinking(_)));
}

#[test]
fn a_goal_below_the_devices_own_time_is_told_to_be_out_of_reach() {
    let mut estimator = WORLD.estimator();
    estimator.learn(WORLD.migration(GIB, 0.0));
    let goal = Goal {
        downtime: Duration::from_millis(300),
    };
    let work = work(1, GIB, 0.0).with_memory(1 << 20);
    let Verdict::NoPassHelps { now, least } = converge(goal, &estimator, &work, 0, None) else {
        panic!("half a second of state fits into 300 ms")
    };
    assert!(least > goal.downtime && least <= now.likely);
    // Memory that is sent at the end anyway counts with the state.
    let all = work.with_memory(64 * GIB);
    let roomy = Goal {
        downtime: Duration::from_secs(2),
    };
    let left = converge(roomy, &estimator, &all, 64 * GIB, None);
    assert!(matches!(left, Verdict::NoPassHelps { .. }), "{left:?}");
}

fn refused(text: &[u8]) -> HistoryError {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    std::fs::write(&path, text).unwrap();
    let (history, error) = History::open(&path);
    assert!(history.is_empty());
    error.unwrap_or_else(|| panic!("taken: {}", String::from_utf8_lossy(text)))
}

fn written() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    History::append(&path, WORLD.migration(GIB, 0.5)).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_history_that_was_cut_anywhere_is_no_history() {
    let text = written();
    for end in (1..text.len()).step_by(7) {
        assert!(matches!(refused(&text[..end]), HistoryError::Syntax { .. }));
    }
}

#[test]
fn numbers_that_cannot_be_are_refused_by_name() {
    let text = String::from_utf8(written()).unwrap();
    let altered = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        refused(text.replace(from, to).as_bytes())
    };
    let names = [
        (
            "\"zero_bytes\": 536870912",
            "\"zero_bytes\": 1073741825",
            "zero_bytes",
        ),
        (
            "\"state_bytes\": 1073741824",
            "\"state_bytes\": 18446744073709551615",
            "state_bytes",
        ),
        ("\"cores\": 2", "\"cores\": 0", "cores"),
        ("\"route\": \"tcp\"", "\"route\": \"pigeon\"", "route"),
        ("\"side\": \"save\"", "\"side\": \"\"", "side"),
        (
            "\"enter_us\": 1000",
            "\"enter_us\": 18446744073709551615",
            "enter_us",
        ),
        ("\"device\": \"vf0\"", "\"device\": \"\\u0007\"", "device"),
    ];
    for (from, to, name) in names {
        let error = altered(from, to);
        assert!(
            matches!(&error, HistoryError::Field { field, .. } if *field == name),
            "{error:?}"
        );
    }
    for (from, to) in [
        ("\"cores\": 2", "\"cores\": -2"),
        ("\"cores\": 2", "\"kernels\": 2"),
    ] {
        assert!(matches!(altered(from, to), HistoryError::Syntax { .. }));
    }
    let other = altered("\"version\": 1", "\"version\": 2");
    assert!(
        matches!(other, HistoryError::Format { version: 2, .. }),
        "{other:?}"
    );
}

#[test]
fn a_file_that_is_not_there_yet_is_an_empty_history() {
    let (history, error) = History::open(Path::new("/nonexistent/history"));
    assert!(history.is_empty() && error.is_none());
    let none = Path::new("/nonexistent/history");
    assert!(History::append(none, WORLD.migration(GIB, 0.0)).is_err());
}

#[test]
fn a_broken_history_is_begun_anew_and_nobody_elses_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    std::fs::write(&path, "{").unwrap();
    let (history, broken) = History::append(&path, WORLD.migration(GIB, 0.0)).unwrap();
    assert!(history.len() == 1 && broken.is_some());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..4 {
                    History::append(&path, WORLD.migration(GIB, 0.0)).unwrap();
                }
            });
        }
    });
    assert_eq!(History::open(&path).0.len(), 17);
}

#[test]
fn an_address_tells_whether_it_is_here() {
    let of = |url: &str| Hosts::of(&url.parse().unwrap());
    for here in [
        "tcp:127.0.0.1:1",
        "tcp:[::1]:1",
        "tcp:localhost:1",
        "unix:/s",
    ] {
        assert_eq!(of(here), Hosts::Same, "{here}");
    }
    for elsewhere in ["tcp:10.0.0.1:1", "tcp:b:4444", "tcp:[fe80::1]:1"] {
        assert_eq!(of(elsewhere), Hosts::Unknown, "{elsewhere}");
    }
}

#[test]
fn a_machine_is_measured_in_some_milliseconds() {
    let machine = Machine::measure();
    for cost in [machine.copy, machine.checksum, machine.zeros] {
        assert!(cost.rate().is_some_and(|rate| rate > 1e7), "{machine:?}");
    }
}

/// A transfer whose bytes went compressed over a link of 8 s for each GiB.
fn compressed(state_bytes: u64, link_limits: bool) -> Finished {
    let gib = state_bytes as f64 / GIB as f64;
    let seconds = |seconds: f64| Duration::from_secs_f64(seconds * gib);
    let (codec, ratio) = if link_limits { (1.6, 0.4) } else { (4.0, 0.3) };
    let sending = 8.0 * ratio;
    let stream = f64::max(0.5 + codec, sending);
    let moved = Moved {
        device: "vf0".to_owned(),
        side: Side::Save,
        state_bytes,
        zero_bytes: 0,
        wire_bytes: (state_bytes as f64 * ratio) as u64,
        enter: Duration::from_millis(1),
        stream: seconds(stream),
        confirm: Duration::from_millis(2),
        in_device: seconds(0.2),
        in_frames: seconds(0.3),
        in_codec: seconds(codec),
        // What the codec leaves of the time is hidden in the socket's buffer.
        in_link: seconds(if link_limits { sending } else { 0.2 }),
        far_device: Some(seconds(0.2)),
    };
    Finished::alone(Route::Tcp, 2, moved)
}

#[test]
fn a_compressed_transfer_tells_the_next_one_that_is_compressed() {
    for link_limits in [true, false] {
        let mut estimator = WORLD.estimator();
        for _ in 0..3 {
            estimator.learn(compressed(GIB, link_limits));
        }
        let asked = Work {
            hosts: Hosts::Unknown,
            compression: true,
            ..work(1, 3 * GIB, 0.0)
        };
        let asked = Work {
            lanes: asked
                .lanes
                .into_iter()
                .map(|lane| Lane {
                    device: "vf0".to_owned(),
                    ..lane
                })
                .collect(),
            ..asked
        };
        let truth = compressed(3 * GIB, link_limits).streaming.as_secs_f64();
        let estimate = estimator.estimate(&asked);
        let ratio = estimate.parts.state.as_secs_f64() / truth;
        assert!((0.8..1.25).contains(&ratio), "{estimate}, it is {truth} s");
    }
}

#[test]
fn what_the_link_costs_a_byte_is_learned_from_what_was_on_it() {
    let mut estimator = WORLD.estimator();
    for _ in 0..3 {
        estimator.learn(compressed(GIB, true));
    }
    let asked = Work {
        hosts: Hosts::Unknown,
        ..work(1, GIB, 0.0)
    };
    let costs = estimator.estimate(&asked).costs;
    let link = costs.link.cost.seconds(GIB as f64);
    assert!((7.0..9.0).contains(&link), "{link} s for each GiB");
    let frames = costs.frames.cost.seconds(GIB as f64);
    assert!(
        (0.25..0.35).contains(&frames),
        "the codec is not in it: {frames}"
    );
    assert_eq!(costs.packing, None, "it was not asked for");

    // A codec that was slower than the link hides what that costs.
    let mut estimator = WORLD.estimator();
    for _ in 0..3 {
        estimator.learn(compressed(GIB, false));
    }
    let basis = estimator.estimate(&asked).costs.link.basis;
    assert_eq!(basis, Basis::Guessed);
}

#[test]
fn a_goal_that_compression_meets_is_met() {
    let mut estimator = WORLD.estimator();
    for _ in 0..3 {
        estimator.learn(compressed(GIB, true));
    }
    let goal = Goal {
        downtime: Duration::from_secs(4),
    };
    let met = |compression| {
        let work = Work {
            hosts: Hosts::Unknown,
            compression,
            ..work(1, GIB, 0.0)
        };
        matches!(converge(goal, &estimator, &work, 0, None), Verdict::Fits(_))
    };
    assert!(met(true), "3.2 s");
    assert!(!met(false), "8 s");
}
