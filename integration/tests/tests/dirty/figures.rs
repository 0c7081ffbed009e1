// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of docs/dirty-tracking.md: strategy x memory x DMA rate.
//!
//! One VM for each size of memory, filled once with words without a pattern, moves back and forth between two hosts that have all strategies;
//! each row is the migration with the median downtime of `XE_DIRTY_REPEATS`. A row is printed as it is made. With `XE_DIRTY_TABLE=FILE`
//! it is appended to the file too, and rows that the file has are not made again: a run that was ended goes on where it was.
//!
//! | variable | default |
//! |---|---|
//! | `XE_DIRTY_MEMORY` | `1G,4G,8G` |
//! | `XE_DIRTY_RATES` | `none,2000,full`; above 4 GiB `none,full` |
//! | `XE_DIRTY_STRATEGIES` | `device,iommu,content,all` |
//! | `XE_DIRTY_REPEATS` | 3, of `iommu` and `content`, which are compared; the others are moved once |

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use e2e::{AT_WORK, Rig, Setup};
use serde_json::Value;

use crate::*;

const HEAD: &str = "| memory | DMA, pages/s | strategy | sent, MiB | of these in the downtime | downtime, ms | GPU pause, ms | \
                    comparison, ms | CPU, ms | fingerprints, KiB |\n|---|---|---|---|---|---|---|---|---|---|";
/// Longest time to fill memory.
const FILLING: Duration = Duration::from_secs(120);
/// MiB that a run needs beside two VMs' memory.
const SPARE: u64 = 1536;

fn axis(variable: &str, default: &str) -> Vec<String> {
    let text = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(str::to_owned).collect()
}

fn mib(text: &str) -> u64 {
    let (digits, unit) = text.split_at(text.len() - 1);
    digits.parse::<u64>().expect("a size") * if unit == "G" { 1024 } else { 1 }
}

/// MiB that the machine could give.
fn available() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = told.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// A row by what it is about, and what it says.
struct Row {
    key: [String; 3],
    sent: f64,
    downtime: f64,
    text: String,
}

#[test]
#[ignore = "takes minutes and proves nothing"]
fn figures() {
    let began = Instant::now();
    let file = std::env::var("XE_DIRTY_TABLE").ok();
    let made = file
        .as_ref()
        .and_then(|path| std::fs::read_to_string(path).ok());
    let made = made.unwrap_or_default();
    println!("{HEAD}");
    let mut rows: Vec<Row> = made.lines().filter_map(read).collect();
    for row in &rows {
        println!("{}", row.text);
    }
    for memory in axis("XE_DIRTY_MEMORY", "1G,4G,8G") {
        let mut chain = None;
        let default = if mib(&memory) > 4096 {
            "none,full"
        } else {
            "none,2000,full"
        };
        for rate in axis("XE_DIRTY_RATES", default) {
            for strategy in axis("XE_DIRTY_STRATEGIES", "device,iommu,content,all") {
                let key = [&memory, &rate, &strategy].map(String::clone);
                if rows.iter().any(|row| row.key == key) {
                    continue;
                }
                if chain.is_none() && available() < 2 * mib(&memory) + SPARE {
                    println!(
                        "skipped: figures: {memory} twice and {SPARE} MiB are more than {} MiB",
                        available()
                    );
                    continue;
                }
                let chain = chain.get_or_insert_with(|| Chain::new(&memory));
                let row = chain.row(key);
                println!("{}", row.text);
                std::io::stdout().flush().expect("standard output");
                eprintln!("{:.0} s", began.elapsed().as_secs_f64());
                if let Some(path) = &file {
                    let mut options = std::fs::OpenOptions::new();
                    let file = options.append(true).create(true).open(path);
                    writeln!(file.expect("XE_DIRTY_TABLE"), "{}", row.text).expect("a row");
                }
                rows.push(row);
            }
        }
        if let Some(chain) = chain {
            chain.end();
        }
    }
    compare(&rows);
}

/// A row of an earlier run.
fn read(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let number = |at: usize| cells.get(at)?.parse().ok();
    Some(Row {
        key: [cells.get(1)?, cells.get(2)?, cells.get(3)?].map(|cell| (*cell).to_owned()),
        sent: number(4)?,
        downtime: number(6)?,
        text: line.to_owned(),
    })
}

/// `content` beside `iommu`.
fn compare(rows: &[Row]) {
    let of = |row: &Row, strategy: &str| {
        let [memory, rate, _] = &row.key;
        let same = |other: &&Row| other.key == [memory, rate, strategy];
        rows.iter().find(same).map(|row| (row.downtime, row.sent))
    };
    println!(
        "\n| memory | DMA, pages/s | downtime, content / iommu | sent, content / iommu |\n|---|---|---|---|"
    );
    for row in rows.iter().filter(|row| row.key[2] == "content") {
        if let (Some(content), Some(iommu)) = (of(row, "content"), of(row, "iommu")) {
            let [memory, rate, _] = &row.key;
            let (downtime, sent) = (content.0 / iommu.0, content.1 / iommu.1);
            println!("| {memory} | {rate} | {downtime:.2} | {sent:.2} |");
        }
    }
}

/// A VM that moves back and forth.
struct Chain {
    rig: Rig,
    high: bool,
    moved: u32,
}

impl Chain {
    #[track_caller]
    fn new(memory: &str) -> Self {
        let rig = Rig::new(&Setup {
            vram: "4M",
            both_hosts: vec!["--dma-logging", "--iommu-dirty-tracking"],
            vmm: vec!["--iommufd"],
            memory: Box::leak(memory.to_owned().into_boxed_str()),
            ..Setup::default()
        });
        let size = mib(memory);
        let high = size > 3072;
        fill(&rig, "32M", size.min(3072) - 32);
        if high {
            fill(&rig, "4G", size - 3072);
        }
        let moved = 0;
        Self { rig, high, moved }
    }

    /// Ends the VM before its hosts go, so that its memory is free for the next one.
    #[track_caller]
    fn end(mut self) {
        self.rig.source.remote(&["shutdown"]).expect("it ends");
        self.rig.source.wait().expect("it has ended");
    }

    #[track_caller]
    fn row(&mut self, key: [String; 3]) -> Row {
        let [_, rate, strategy] = &key;
        let repeats = axis("XE_DIRTY_REPEATS", "3")[0].parse().expect("a number");
        let compared = matches!(strategy.as_str(), "iommu" | "content");
        let repeats = if compared { repeats } else { 1 };
        let mut answers: Vec<Value> = (0..repeats).map(|_| self.moves(rate, strategy)).collect();
        answers.sort_by(|a, b| number(&a["downtime_ms"]).total_cmp(&number(&b["downtime_ms"])));
        let answer = answers.swap_remove(answers.len() / 2);
        if std::env::var_os("XE_DIRTY_PHASES").is_some() {
            let rest: Vec<_> = answers.iter().map(|a| number(&a["downtime_ms"])).collect();
            let phases: BTreeMap<String, Value> =
                serde_json::from_value(answer["phases"].clone()).expect("phases");
            eprintln!(
                "{phases:?} passes {} others {rest:?} {}",
                answer["passes"], answer["devices"]["vf1"]
            );
        }
        let dirty = &answer["dirty"];
        let sent = number(&answer["memory_bytes"]) / f64::from(1 << 20);
        let downtime = number(&answer["downtime_ms"]);
        let text = format!(
            "| {} | {rate} | {strategy} | {sent:.0} | {:.0} | {downtime:.1} | {:.0} | {:.0} | {:.0} | {:.0} |",
            key[0],
            number(&answer["last_pass_bytes"]) / f64::from(1 << 20),
            number(&answer["gpu_pause_ms"]),
            number(&dirty["scan_ms"]),
            number(&dirty["cpu_ms"]),
            number(&dirty["fingerprint_bytes"]) / 1024.0,
        );
        Row {
            key,
            sent,
            downtime,
            text,
        }
    }

    /// Moves the VM once, with a storm of `rate`.
    #[track_caller]
    fn moves(&mut self, rate: &str, strategy: &str) -> Value {
        let rate = match rate {
            "none" => None,
            "full" => Some("0"),
            rate => Some(rate),
        };
        self.moved += 1;
        if let Some(rate) = rate {
            let (at, seed) = (if self.high { "4G" } else { "32M" }, self.moved.to_string());
            let range = ["--iova", at, "--len", "64M"];
            storm(
                &self.rig.source_host,
                &[&range[..], &["--rate", rate, "--seed", &seed]].concat(),
            );
        }
        std::thread::sleep(RAGING);
        let name = format!("vmm{}", self.moved);
        let url = format!("unix:{}", self.rig.files.path().join(&name).display());
        let receive = ["--receive-migration".to_owned(), url.clone()];
        let destination = self.rig.other_vmm(&name, &receive).expect("a destination");
        let send = ["send-migration", &url, "--dirty", strategy];
        let answer = self.rig.source.remote(&send);
        let answer = answer.unwrap_or_else(|e| panic!("{e:#}\n{}", self.rig.source.log_tail()));
        arrived(&mut self.rig, destination, rate.is_some());
        answer
    }
}

/// Takes the arrived VM over, once its guest works and what the storm wrote is there.
#[track_caller]
fn arrived(rig: &mut Rig, destination: Vmm, storm: bool) {
    rig.serial
        .moved_to(destination.serial_path())
        .expect("serial files");
    rig.guest_works(AT_WORK);
    rig.source.wait().expect("the source ends");
    if storm {
        storm_is_whole(&rig.source_host, &rig.destination_host);
    }
    rig.source = destination;
    std::mem::swap(&mut rig.source_host, &mut rig.destination_host);
}

/// Has the VF write each page of a range once.
#[track_caller]
fn fill(rig: &Rig, iova: &str, mib: u64) {
    let len = format!("{mib}M");
    storm(
        &rig.source_host,
        &["--iova", iova, "--len", &len, "--sweep"],
    );
    let deadline = Instant::now() + FILLING;
    while rig.vf_status(&rig.source_host)["storm"]["on"] == true {
        assert!(
            Instant::now() < deadline,
            "memory is not full in {FILLING:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}
