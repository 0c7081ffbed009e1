// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The downtime is told before it happens, compared with what it was, and aimed at.

use e2e::{AT_WORK, Rig, Setup};
use serde_json::Value;

/// A VM whose VMMs write events and share a history.
fn rig(more: &[&'static str]) -> (Rig, tempfile::TempDir) {
    let files = tempfile::tempdir().expect("a directory");
    let path = |name: &str| -> &'static str {
        Box::leak(
            files
                .path()
                .join(name)
                .display()
                .to_string()
                .into_boxed_str(),
        )
    };
    let mut vmm = vec![
        "--migration-history",
        path("history.json"),
        "--event-file",
        path("events"),
    ];
    vmm.extend_from_slice(more);
    let setup = Setup {
        vmm,
        ..Setup::default()
    };
    (Rig::new(&setup), files)
}

/// Events of the source; the destination must not have overwritten them.
fn events(files: &tempfile::TempDir, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(files.path().join("events")).expect("events");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|event| event["event"] == name).collect()
}

#[track_caller]
fn number(value: &Value, name: &str) -> f64 {
    value[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn a_downtime_is_predicted_compared_and_remembered() {
    let (mut rig, files) = rig(&[]);
    let url = rig.tcp_url();
    let (destination, first) = rig.migrates(&url);
    let prediction = &first["prediction"];
    assert_eq!(
        number(prediction, "actual_ms"),
        number(&first, "downtime_ms")
    );
    assert!(number(prediction, "start_ms") > 0.0 && number(prediction, "ratio") > 0.0);
    assert!(number(prediction, "low_ms") <= number(prediction, "predicted_ms"));

    rig.source = destination;
    std::mem::swap(&mut rig.source_host, &mut rig.destination_host);
    let back = rig.tcp_url();
    let (_, second) = rig.migrates_to("third", &back);
    let basis = second["prediction"]["basis"].as_str().expect("a basis");
    assert!(!basis.contains("guess"), "{basis}");
    let text = std::fs::read_to_string(files.path().join("history.json")).expect("a history");
    let history: Value = serde_json::from_str(&text).expect("JSON");
    // Each move was seen by both sides.
    assert_eq!(
        history["records"].as_array().map(Vec::len),
        Some(4),
        "{text}"
    );
}

#[test]
fn a_migrations_timeline_has_both_ends_of_every_vf() {
    let mut rig = Rig::new(&Setup::default());
    let url = rig.tcp_url();
    let (_destination, answer) = rig.migrates(&url);
    let timeline: timeline::Timeline =
        serde_json::from_value(answer["timeline"].clone()).expect("a timeline");
    let bar = |lane: &str, name: &str| {
        let bar = timeline
            .bars
            .iter()
            .find(|bar| bar.lane == lane && bar.name == name);
        bar.unwrap_or_else(|| panic!("no {name} of {lane} in {timeline:?}"))
    };
    let downtime = timeline.downtime.expect("a downtime");
    for lane in ["vf1 source", "vf1 destination"] {
        for name in ["enter", "stream", "confirm"] {
            let span = bar(lane, name).span;
            let inside = span.at_ms >= downtime.at_ms - 1.0 && span.end() <= downtime.end() + 1.0;
            assert!(inside, "{lane} {name} {span:?} is not in {downtime:?}");
        }
        assert!(bar(lane, "stream").bytes > Some(64 << 20));
    }
    let load = bar("destination", "load").span;
    assert!(
        load.at_ms >= bar("source", "load").span.at_ms - 1.0,
        "{timeline:?}"
    );
    let picture = timeline::svg(&timeline, "test");
    assert!(picture.contains("vf1 destination"));
}

#[test]
fn a_goal_that_the_state_alone_exceeds_is_told_and_passed_over() {
    let (mut rig, files) = rig(&["--downtime-ms", "1"]);
    let url = rig.unix_url();
    // The destination has the same event file, so it is read while the source's events are there.
    let error = {
        let destination = rig.destination(&url);
        let answer = rig
            .source
            .remote(&["send-migration", &url])
            .expect("it moves");
        rig.serial
            .moved_to(destination.serial_path())
            .expect("serial files");
        rig.guest_works(AT_WORK);
        answer
    };
    assert!(number(&error, "downtime_ms") > 1.0);
    let log = rig.source.log();
    assert!(log.contains("device state alone needs"), "{log}");
    drop(files);
}

#[test]
fn a_strict_goal_that_cannot_be_met_leaves_the_guest_where_it_is() {
    let (mut rig, _files) = rig(&["--downtime-ms", "1", "--downtime-strict"]);
    let url = rig.unix_url();
    let _destination = rig.destination(&url);
    let error = rig.fails_to_migrate(&url);
    assert!(error.contains("device state alone needs"), "{error}");
    assert!(error.contains("was never paused"), "{error}");
    rig.guest_still_works_at_the_source();
}

#[test]
fn an_estimate_is_an_event_before_anything_moves_and_before_the_pause() {
    let (rig, files) = rig(&[]);
    let url = rig.unix_url();
    // Nobody is there: the first estimate needs nobody.
    rig.source
        .remote(&["send-migration", &url])
        .expect_err("nobody listens");
    let estimates = events(&files, "estimate");
    assert_eq!(estimates.len(), 1, "{estimates:?}");
    assert_eq!(estimates[0]["when"], "start");
    assert!(number(&estimates[0], "likely_ms") <= number(&estimates[0], "high_ms"));
}
