// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Table, note and pictures of a comparison's results.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::chart::{self, Bar, Owner};
use crate::figures::Figures;
use crate::goal::{self, Goal, Verdict};
use crate::row::{FloorKind, Row, Way};
use crate::sample::{Results, Sample};
use crate::table::{self, Table};

const HEADS: [&str; 14] = [
    "way",
    "VRAM",
    "content",
    "VFs",
    "runs",
    "time, s",
    "floor, s",
    "ratio",
    "quartiles",
    "goal",
    "CPU / floor's, s",
    "CPU ratio",
    "stream / state",
    "memory, MiB",
];

/// The rows of which there are results, in the table's order.
#[must_use]
pub fn rows(results: &Results) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for sample in results.all() {
        if !rows.contains(&sample.row) {
            rows.push(sample.row);
        }
    }
    rows.sort_by_key(|row| (row.way, row.size, row.vfs, row.content as u8));
    rows
}

/// The table.
#[must_use]
pub fn table(results: &Results) -> Table {
    let mut table = Table::new(&HEADS);
    for row in rows(results) {
        table.row(&cells(row, results));
    }
    table
}

fn seconds(figures: &Figures) -> String {
    let median = figures.median();
    if median < 10.0 {
        format!("{median:.3}")
    } else {
        format!("{median:.1}")
    }
}

/// A row's cells.
#[must_use]
pub fn cells(row: Row, results: &Results) -> Vec<String> {
    let figures = |of: fn(&Sample) -> f64| results.figures(row, of);
    let ratio = figures(Sample::ratio);
    let (low, high) = ratio.quartiles();
    // A figure that no run has is an empty cell, never a number.
    let known = |of: fn(&Sample) -> Option<f64>, digits: usize| {
        let figures: Figures = results.of(row).filter_map(of).collect();
        (figures.count() > 0).then(|| format!("{:.digits$}", figures.median()))
    };
    let cpu = [
        known(|sample| sample.cpu, 2),
        known(|sample| sample.floor_cpu, 2),
    ];
    let cpu: Vec<String> = cpu.into_iter().flatten().collect();
    let cpu_ratio = known(Sample::cpu_ratio, 2);
    let part = known(Sample::stream_part, 3);
    let goal = Goal::of(row).map(|goal| format!("{goal} {}", goal.verdict(row, results)));
    vec![
        row.way.name().to_owned(),
        row.size_text(),
        row.content.name().to_owned(),
        row.vfs.to_string(),
        ratio.count().to_string(),
        seconds(&figures(|sample| sample.wall)),
        seconds(&figures(|sample| sample.floor)),
        format!("{:.2}", ratio.median()),
        format!("{low:.2} to {high:.2}"),
        goal.unwrap_or_default(),
        cpu.join(" / "),
        cpu_ratio.unwrap_or_default(),
        part.unwrap_or_default(),
        memory(row, results),
    ]
}

/// Source and destination of the greediest runs; a restore has no source, a save no destination.
fn memory(row: Row, results: &Results) -> String {
    let most = |of: fn(&Sample) -> u64| results.of(row).map(of).max().unwrap_or(0);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let source = mib(most(|sample| sample.source_memory));
    let destination = mib(most(|sample| sample.destination_memory));
    let text = match row.way {
        Way::Save => source,
        Way::Restore => destination,
        _ => format!("{source} / {destination}"),
    };
    match goal::memory(row, results) {
        Some(Verdict::Miss) => format!("{text} {}", Verdict::Miss),
        _ => text,
    }
}

/// Which machine, how busy it was, and which programs.
#[must_use]
pub fn note(results: &Results, machine: &str) -> String {
    if results.all().is_empty() {
        return format!("{machine}.\n");
    }
    let load: Figures = results.all().iter().map(|sample| sample.load).collect();
    let (least, most) = load.range();
    let programs: BTreeSet<String> = results
        .all()
        .iter()
        .filter_map(|sample| {
            Some(format!(
                "{}: {}",
                sample.row.way.name(),
                sample.program.as_ref()?
            ))
        })
        .collect();
    let programs: String = programs.iter().map(|said| format!(" {said}.")).collect();
    format!(
        "{machine}. Load of the machine in the minute before a run: {:.1}, from {least:.1} to {most:.1}.{programs}\n",
        load.median()
    )
}

/// The processor, its cores and the kernel.
#[must_use]
pub fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = value("model name").unwrap_or_else(|| "an unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {model}, Linux {}", version(&kernel))
}

/// Major and minor number of a kernel's release: the rest is its builder's.
fn version(release: &str) -> String {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (numbers.next(), numbers.next());
    match (major, minor) {
        (Some(major), Some(minor)) if !major.is_empty() && !minor.is_empty() => {
            format!("{major}.{minor}")
        }
        _ => "of an unknown version".to_owned(),
    }
}

/// The two pictures: file name, title, bars.
#[must_use]
pub fn pictures(results: &Results) -> Vec<(&'static str, &'static str, Vec<Bar>)> {
    let mut all = rows(results);
    // What has one heading stands together.
    all.sort_by_key(|row| {
        let disk = row.way.floor() == FloorKind::Disk;
        (disk, row.size, row.content as u8, row.way, row.vfs)
    });
    let bars = |wanted: &dyn Fn(&Row) -> bool| {
        let rows = all.iter().filter(|row| wanted(row));
        rows.map(|row| bar(*row, results)).collect::<Vec<_>>()
    };
    let ways = bars(&|row| !row.way.is_vmm());
    let peers = bars(&|row| row.way.is_vmm());
    [
        (
            "performance-ways.svg",
            "Time to move a VF's state, in units of the floor",
            ways,
        ),
        (
            "performance-peers.svg",
            "Downtime of a VM with one VF, in units of the floor",
            peers,
        ),
    ]
    .into_iter()
    .filter(|(_, _, bars)| !bars.is_empty())
    .collect()
}

fn bar(row: Row, results: &Results) -> Bar {
    let ratio = results.figures(row, Sample::ratio);
    let mut label = row.way.name().to_owned();
    if row.vfs > 1 {
        label += &format!(", {} VFs", row.vfs);
    }
    let heading = match row.way.floor() {
        FloorKind::Disk => "disk, floor: dd".to_owned(),
        _ => format!("{}, {}", row.size_text(), row.content.name()),
    };
    Bar {
        heading,
        label,
        owner: if row.way.is_foreign() {
            Owner::Other
        } else {
            Owner::Ours
        },
        median: ratio.median(),
        range: ratio.range(),
        goal: match Goal::of(row) {
            Some(Goal::Ratio(most)) => Some(most),
            _ => None,
        },
    }
}

/// Puts table and note into a document between its marks `compare`, and the pictures into the directory `img` beside it.
///
/// # Errors
/// When the document has no such marks, or a file cannot be written.
pub fn write(results: &Results, document: &Path) -> anyhow::Result<()> {
    let pictures = pictures(results);
    let mut text = String::new();
    if !pictures.is_empty() {
        let dir = document.with_file_name("img");
        fs::create_dir_all(&dir).with_context(|| format!("Cannot make {}", dir.display()))?;
        for (name, title, bars) in &pictures {
            fs::write(dir.join(name), chart::svg(title, bars))?;
            text += &format!("![{title}](img/{name})\n\n");
        }
    }
    text += table(results).text();
    text += "\n";
    text += &note(results, &machine());
    table::replace(document, "compare", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Content;

    fn results(of: &[(Way, Option<f64>, Option<f64>, u64)]) -> Results {
        let mut results = Results::default();
        for &(way, cpu, floor_cpu, state_bytes) in of {
            let row = Row {
                way,
                size: 1 << 30,
                content: Content::Random,
                vfs: 1,
            };
            let sample = Sample {
                row,
                wall: 1.0,
                floor: 0.5,
                cpu,
                floor_cpu,
                source_memory: 0,
                destination_memory: 0,
                state_bytes,
                stream_bytes: state_bytes / 2,
                load: 0.0,
                program: None,
            };
            results.add(sample).unwrap();
        }
        results
    }

    #[test]
    fn what_a_row_has_no_figure_of_is_an_empty_cell() {
        let results = results(&[
            (Way::Tcp, Some(0.5), Some(0.25), 8),
            (Way::Save, Some(0.5), None, 8),
            (Way::Qemu, None, None, 0),
        ]);
        let cells: Vec<_> = rows(&results)
            .into_iter()
            .map(|row| cells(row, &results)[10..13].to_vec())
            .collect();
        let expected = [
            ["0.50 / 0.25", "2.00", "0.500"],
            ["0.50", "", "0.500"],
            ["", "", ""],
        ];
        assert_eq!(cells, expected);
        assert!(!table(&results).text().contains("NaN"));
    }

    #[test]
    fn of_a_kernel_major_and_minor_are_told() {
        assert_eq!(version("6.18.44-vendor-9\n"), "6.18");
        assert_eq!(version("7.0"), "7.0");
        assert_eq!(version("6.1-rc2+"), "6.1");
        for odd in ["", "\n", "next"] {
            assert_eq!(version(odd), "of an unknown version");
        }
    }
}
