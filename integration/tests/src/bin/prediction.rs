// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prints the table of downtimes as predicted and as they were; with `--write docs/performance.md` it replaces the one there.
//!
//! `cargo run --release -p e2e --bin prediction`

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use e2e::prediction::{Case, Move, Transport, moves};

const MOVES: usize = 6;
/// Moves of a VM after which its own history is what counts.
const KNOWN_AFTER: usize = 2;
const SIZES: [u64; 3] = [64, 256, 1024];

fn main() -> Result<()> {
    let (mut write, mut quick) = (None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => write = Some(PathBuf::from(arguments.next().context("--write DOCUMENT")?)),
            "--quick" => quick = true,
            other => bail!("{other}: there are --quick and --write DOCUMENT"),
        }
    }
    let directory = tempfile::tempdir()?;
    let history = directory.path().join("history.json");
    let mut table = String::from(
        "| way | VRAM, MiB | content | VFs | first: predicted / actual, ms | ratio | known by | later: predicted / actual, ms | ratio | \
         at the start | ratios | in the interval |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    print!("{table}");
    let mut known = Vec::new();
    for case in cases(quick) {
        let moved = moves(case, MOVES, &history);
        let row = row(case, &moved);
        print!("{row}");
        table.push_str(&row);
        known.push(median(later(&moved).iter().map(Move::ratio)));
    }
    let close = known.iter().filter(|ratio| (0.8..=1.2).contains(*ratio));
    let summary = format!(
        "\nWithin 20%: {} of {} medians of later moves; the farthest are {:.2} and {:.2}.\n",
        close.count(),
        known.len(),
        known.iter().copied().fold(f64::NAN, f64::min),
        known.iter().copied().fold(f64::NAN, f64::max),
    );
    print!("{summary}");
    table.push_str(&summary);
    if let Some(document) = write {
        replace(&document, &table)?;
    }
    Ok(())
}

/// Small ones first, so that the large ones show what the small ones have taught.
fn cases(quick: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let ways: [(_, &[_]); 3] = [
        (Transport::Tcp, &["random", "zero"]),
        (Transport::Unix, &["random", "zero"]),
        // What is in the VRAM makes no difference.
        (Transport::HandOver, &["random"]),
    ];
    for (transport, contents) in ways {
        for content in contents {
            for vfs in [1, 4] {
                for vram_mib in SIZES {
                    if !quick || vram_mib == 256 {
                        cases.push(Case {
                            transport,
                            vram_mib,
                            content,
                            vfs,
                        });
                    }
                }
            }
        }
    }
    cases
}

/// The moves of a VM that has moved before.
fn later(moved: &[Move]) -> &[Move] {
    &moved[KNOWN_AFTER.min(moved.len() - 1)..]
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(case: Case, moved: &[Move]) -> String {
    let first = &moved[0];
    let later = later(moved);
    let ratios: Vec<_> = later.iter().map(Move::ratio).collect();
    let edge = |pick: fn(f64, f64) -> f64| ratios.iter().copied().reduce(pick).unwrap_or(f64::NAN);
    let within = moved.iter().filter(|one| one.within).count();
    let mut row = String::new();
    // Writing to a string cannot fail.
    _ = writeln!(
        row,
        "| {} | {} | {} | {} | {:.0} / {:.0} | {:.2} | {} | {:.0} / {:.0} | {:.2} | {:.2} | {:.2} to {:.2} | {within} of {} |",
        case.transport.name(),
        case.vram_mib,
        case.content,
        case.vfs,
        first.predicted_ms,
        first.actual_ms,
        first.ratio(),
        first.basis.trim_start_matches("from "),
        median(later.iter().map(|one| one.predicted_ms)),
        median(later.iter().map(|one| one.actual_ms)),
        median(later.iter().map(Move::ratio)),
        median(later.iter().map(|one| one.start_ms / one.actual_ms)),
        edge(f64::min),
        edge(f64::max),
        moved.len(),
    );
    row
}

/// Puts the table between its marks.
fn replace(document: &Path, table: &str) -> Result<()> {
    let (begin, end) = ("<!-- prediction -->\n", "<!-- /prediction -->");
    let old = std::fs::read_to_string(document)?;
    let missing = || format!("{} has no marks for the table", document.display());
    let (before, rest) = old.split_once(begin).with_context(missing)?;
    let (_, after) = rest.split_once(end).with_context(missing)?;
    Ok(std::fs::write(
        document,
        format!("{before}{begin}{table}{end}{after}"),
    )?)
}
