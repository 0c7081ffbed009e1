// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The comparison as its user runs it, with a little VRAM.

use std::path::Path;
use std::process::Command;

/// Runs `compare` and answers what it printed.
#[track_caller]
fn compare(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(arguments)
        .args(["--results", "runs", "--disk", "."])
        .current_dir(dir)
        .output()
        .expect("compare runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    text
}

fn runs(dir: &Path) -> usize {
    let text = std::fs::read_to_string(dir.join("runs")).expect("results");
    text.lines().count()
}

#[test]
fn runs_are_kept_and_not_repeated_and_fill_the_document() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = [
        "--ways",
        "tcp,plain,unix,save,restore",
        "--sizes",
        "16",
        "--contents",
        "half",
        "--vfs",
        "1,2",
    ];
    compare(dir.path(), &[&small[..], &["--runs", "1"]].concat());
    // Five ways with one VF, three of them with two.
    assert_eq!(runs(dir.path()), 8);
    let document = dir.path().join("page.md");
    std::fs::write(&document, "a\n<!-- compare -->\n<!-- /compare -->\nb\n").expect("a document");
    let more = [&small[..], &["--runs", "2", "--write", "page.md"]].concat();
    let said = compare(dir.path(), &more);
    assert_eq!(runs(dir.path()), 16);
    let page = std::fs::read_to_string(&document).expect("the document");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.contains("16 MiB"))
        .collect();
    assert_eq!(rows.len(), 8, "{page}");
    assert!(rows.iter().all(|row| said.contains(*row)), "{said}");
    assert!(page.contains("](img/performance-ways.svg)"), "{page}");
    assert!(dir.path().join("img/performance-ways.svg").is_file());
}

#[test]
fn what_has_no_time_or_no_program_is_left_out_and_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let said = compare(
        dir.path(),
        &["--ways", "tcp,qemu", "--sizes", "16", "--minutes", "0"],
    );
    for line in [
        "left out: tcp, 16 MiB, random: there is no time left",
        "left out: QEMU, 16 MiB, random: its program was not given",
    ] {
        assert!(said.lines().any(|said| said == line), "{said}");
    }
    assert!(!dir.path().join("runs").exists());
}
