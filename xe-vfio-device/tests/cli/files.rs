// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `inspect` and `verify` of good files and of altered ones.

use crate::common::*;

fn golden(name: &str) -> String {
    format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_saved_file_is_whole_and_shows_what_is_in_it() {
    let host = TestHost::new();
    let file = host.filled_state(3);
    let run = host.run(&["verify", &file]);
    run.succeeds();
    assert!(run.stdout().contains("is whole"), "{}", run.stdout());
    let run = host.run(&["inspect", &file, "--json"]);
    run.succeeds();
    let value = run.json();
    assert_eq!(value["manifest"]["device_id"], "vf0");
    assert_eq!(value["file_bytes"], std::fs::metadata(&file).unwrap().len());
    assert_eq!(value["totals"]["stream_bytes"], value["file_bytes"]);
    assert_eq!(value["packets"]["all"]["vram"]["bytes"], VRAM);
    assert_eq!(value["packets"]["all"]["vram"]["packets"], VRAM / MIB);
    assert_eq!(value["packets"]["gts"].as_array().unwrap().len(), 2);
    let text = host.run(&["inspect", &file]).stdout();
    for part in ["8086:e211", "12.00 MiB", "tile 0 GT 1", "12 VRAM"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_index_of_a_file_is_shown_and_one_without_is_read_all_the_same() {
    let host = TestHost::new();
    let file = host.filled_state(3);
    let run = host.run(&["inspect", &file, "--index", "--json"]);
    run.succeeds();
    let value = run.json();
    let frames = value["totals"]["frames"].as_u64().unwrap();
    let index = value["index"].as_array().unwrap();
    assert_eq!(value["indexed_frames"], frames);
    assert_eq!(index.len() as u64, frames);
    let last = &index[index.len() - 1];
    let end = last["state"]["offset"].as_u64().unwrap() + last["state"]["bytes"].as_u64().unwrap();
    assert_eq!(value["totals"]["state_bytes"], end);
    let text = host.run(&["inspect", &file, "--index"]).stdout();
    assert!(
        text.contains(&format!("frame {}: bytes", frames - 1)),
        "{text}"
    );
    let text = host.run(&["inspect", &golden("complete-v2.xevf")]).stdout();
    assert!(text.contains("no index"), "{text}");
    host.run(&["verify", &golden("indexed-v2.xevf")]).succeeds();
}

#[test]
fn a_file_altered_anywhere_is_broken_and_the_place_is_named() {
    let host = TestHost::new();
    let file = host.file("state");
    host.run(&["save", &host.path(1), "--to", &file]).succeeds();
    let whole = std::fs::read(&file).unwrap();
    let end = whole.len();
    for (at, part) in [
        (3, "preamble"),
        (20, "preamble"),
        (60, "manifest"),
        (500, "frame"),
        (end / 2, "frame"),
        (end - 100, "frame"),
    ] {
        let mut altered = whole.clone();
        altered[at] ^= 4;
        std::fs::write(&file, altered).unwrap();
        let run = host.run(&["verify", &file, "--json"]);
        let text = run.fails(1);
        let value = run.json();
        assert_eq!(value["broken"]["what"], part, "{text}");
        let offset = value["broken"]["offset"].as_u64().unwrap();
        assert!(
            offset <= at as u64 && at as u64 - offset <= MIB + 24,
            "{at}: {offset}"
        );
        assert!(
            text.contains(&format!("at byte {offset} of the file")),
            "{text}"
        );
        host.run(&["inspect", &file]).fails(1);
    }
}

#[test]
fn a_file_cut_anywhere_or_with_more_behind_it_is_broken() {
    let host = TestHost::new();
    let file = host.file("state");
    host.run(&["save", &host.path(1), "--to", &file]).succeeds();
    let whole = std::fs::read(&file).unwrap();
    for length in [0, 55, 56, 100, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).unwrap();
        let text = host.run(&["verify", &file]).fails(1);
        assert!(
            text.contains("before the next piece of it is whole"),
            "{length}: {text}"
        );
    }
    std::fs::write(&file, [&whole[..], b"x"].concat()).unwrap();
    let text = host.run(&["verify", &file]).fails(1);
    assert!(text.contains("Bytes follow the end"), "{text}");
}

#[test]
fn a_sender_that_stopped_is_told_with_its_reason() {
    let host = TestHost::new();
    host.run(&["verify", &golden("complete-v2.xevf")])
        .succeeds();
    let run = host.run(&["verify", &golden("aborted-v2.xevf"), "--json"]);
    let text = run.fails(1);
    assert!(text.contains("The sender stopped after"), "{text}");
    assert_eq!(run.json()["broken"]["what"], "abort");
}

#[test]
fn a_file_that_is_no_state_or_not_there_is_refused() {
    let host = TestHost::new();
    let text = host
        .run(&["verify", env!("CARGO_BIN_EXE_xe-vfio")])
        .fails(1);
    assert!(text.contains("this is no device state"), "{text}");
    let text = host.run(&["inspect", &host.file("none")]).fails(1);
    assert!(
        text.contains("cannot be read") && text.contains("No such file"),
        "{text}"
    );
}
