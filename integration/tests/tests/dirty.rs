// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that VFs write arrives whole, however it is found: VFs that write at full rate through migrations, page by page
//! compared at the destination with what was written last.
//!
//! `XE_DIRTY_MIGRATIONS=100` has each strategy move the VM so many times. The table of docs/dirty-tracking.md is
//! made by `cargo test --release -p e2e --test dirty -- --ignored --nocapture figures`, with `XE_DIRTY_MEMORY=256M,1G` and
//! `XE_DIRTY_RATES=none,2000,full` as its axes.

use std::time::Duration;

use demo::host::SimulatedHost;
use demo::vmm::Vmm;
use e2e::{ALL_CHECKED, AT_WORK, Rig, Setup};
use serde_json::Value;

/// Where storms rage: memory that the guest leaves alone.
const STORM: [&str; 4] = ["--iova", "32M", "--len", "24M"];
/// Long enough for a storm to have written most of its pages.
const RAGING: Duration = Duration::from_millis(300);

fn setup(strategy: &str) -> Setup {
    let mut setup = Setup {
        vram: "4M",
        ..Setup::default()
    };
    match strategy {
        "device" => setup.both_hosts = vec!["--dma-logging"],
        "iommu" => {
            setup.both_hosts = vec!["--iommu-dirty-tracking"];
            setup.vmm = vec!["--iommufd"];
        }
        "all" => setup.vmm = vec!["--dirty", "all"],
        _ => {}
    }
    setup
}

#[track_caller]
fn storm(host: &SimulatedHost, more: &[&str]) {
    let mut arguments = vec!["start", host.directory().to_str().expect("ASCII")];
    arguments.extend_from_slice(&["--vf", "1"]);
    arguments.extend_from_slice(more);
    host_sim(host, &arguments);
}

#[track_caller]
fn host_sim(host: &SimulatedHost, arguments: &[&str]) -> String {
    let programs = demo::programs::Programs::build().expect("programs");
    let mut all = vec!["storm"];
    all.extend_from_slice(arguments);
    demo::host::run(&programs.host_sim, &all)
        .unwrap_or_else(|error| panic!("{error:#} on {}", host.directory().display()))
}

/// Every page of the storm at the source is at the destination as it was written last.
#[track_caller]
fn storm_is_whole(source: &SimulatedHost, destination: &SimulatedHost) {
    let path = |host: &SimulatedHost| host.directory().to_str().expect("ASCII").to_owned();
    let told = host_sim(
        destination,
        &[
            "check",
            &path(destination),
            "--vf",
            "1",
            "--written-by",
            &path(source),
        ],
    );
    assert!(!told.starts_with("0 pages intact"), "no storm: {told}");
}

/// Moves the VM once; the rig's source is where it is afterwards.
#[track_caller]
fn moves(rig: &mut Rig, name: &str) -> Value {
    let url = format!(
        "unix:{}",
        rig.files.path().join(format!("{name}.migration")).display()
    );
    let receive = ["--receive-migration".to_owned(), url.clone()];
    let destination = rig.other_vmm(name, &receive).expect("a destination");
    let answer = rig.source.remote(&["send-migration", &url]);
    let answer = answer.unwrap_or_else(|error| {
        panic!(
            "{error:#}\n{}\n{}",
            rig.source.log_tail(),
            destination.log_tail()
        )
    });
    settle_in(rig, destination);
    answer
}

#[track_caller]
fn settle_in(rig: &mut Rig, destination: Vmm) {
    rig.serial
        .moved_to(destination.serial_path())
        .expect("serial files");
    rig.guest_works(AT_WORK);
    rig.source.wait().expect("the source ends");
    storm_is_whole(&rig.source_host, &rig.destination_host);
    rig.source = destination;
    std::mem::swap(&mut rig.source_host, &mut rig.destination_host);
}

fn migrations() -> u32 {
    let set = std::env::var("XE_DIRTY_MIGRATIONS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(2)
}

#[track_caller]
fn storms_arrive_whole(strategy: &str, setup: &Setup) {
    let mut rig = Rig::new(setup);
    for number in 0..migrations() {
        let seed = (number + 1).to_string();
        storm(&rig.source_host, &[&STORM[..], &["--seed", &seed]].concat());
        std::thread::sleep(RAGING);
        let answer = moves(&mut rig, &format!("vmm{number}"));
        assert_eq!(answer["dirty"]["strategies"]["vf1"], strategy, "{answer}");
    }
    rig.guest_works(ALL_CHECKED);
}

#[test]
fn a_storm_of_dma_arrives_whole_by_the_devices_log() {
    storms_arrive_whole("device", &setup("device"));
}

#[test]
fn a_storm_of_dma_arrives_whole_by_the_iommus_dirty_bits() {
    storms_arrive_whole("iommu", &setup("iommu"));
}

#[test]
fn a_storm_of_dma_arrives_whole_by_content() {
    storms_arrive_whole("content", &setup("content"));
}

#[test]
fn a_storm_of_dma_arrives_whole_when_all_is_sent_at_the_end() {
    storms_arrive_whole("all", &setup("all"));
}

#[test]
fn a_storm_of_dma_arrives_whole_when_memory_is_compared_after_the_stop() {
    let mut setup = setup("content");
    setup.vmm = vec!["--gpu-pause", "0"];
    let mut rig = Rig::new(&setup);
    storm(&rig.source_host, &STORM);
    std::thread::sleep(RAGING);
    let answer = moves(&mut rig, "destination");
    assert!(answer["phases"].get("settle").is_none(), "{answer}");
    assert!(answer["dirty"]["fallback"].is_string(), "{answer}");
    assert!(answer["dirty"]["scan_bytes"].as_u64() > Some(0), "{answer}");
}

#[test]
fn a_limit_that_is_too_short_for_the_comparison_leaves_the_rest_to_the_stop() {
    let mut setup = setup("content");
    setup.vmm = vec!["--gpu-pause", "0.002"];
    let mut rig = Rig::new(&setup);
    storm(&rig.source_host, &STORM);
    std::thread::sleep(RAGING);
    moves(&mut rig, "destination");
}

#[test]
fn the_guests_downtime_has_no_comparison_of_memory_in_it() {
    let mut setup = setup("content");
    setup.vmm = vec!["--gpu-pause", "60"];
    let mut rig = Rig::new(&setup);
    storm(&rig.source_host, &STORM);
    std::thread::sleep(RAGING);
    let answer = moves(&mut rig, "destination");
    assert!(answer["dirty"]["fallback"].is_null(), "{answer}");
    let dirty = answer["dirty"]["dirty_bytes"].as_u64().expect("bytes");
    let last = answer["last_pass_bytes"].as_u64().expect("bytes");
    assert!(dirty > 8 << 20 && last <= 4 << 20, "{answer}");
}

#[track_caller]
fn chosen(setup: &Setup) -> (String, String) {
    let mut rig = Rig::new(setup);
    storm(&rig.source_host, &STORM);
    let source = rig.source.log();
    assert!(!source.contains("dirty strategy"), "{source}");
    let url = rig.unix_url();
    let destination = rig.destination(&url);
    let answer = rig
        .source
        .remote(&["send-migration", &url])
        .expect("it moves");
    let log = rig.source.log();
    settle_in(&mut rig, destination);
    let kind = answer["dirty"]["strategies"]["vf1"].as_str();
    (kind.expect("a strategy").to_owned(), log)
}

#[test]
fn a_device_that_logs_goes_before_an_iommu_that_does() {
    let mut setup = setup("iommu");
    setup.both_hosts.push("--dma-logging");
    assert_eq!(chosen(&setup).0, "device");
}

#[test]
fn an_iommu_goes_before_content_and_the_reason_is_logged() {
    let (kind, log) = chosen(&setup("iommu"));
    assert_eq!(kind, "iommu");
    assert!(
        log.contains("no device: ") && log.contains("ENOTTY"),
        "{log}"
    );
}

#[test]
fn a_strategy_that_is_named_goes_before_all_that_there_are() {
    let mut setup = setup("iommu");
    setup.both_hosts.push("--dma-logging");
    setup.vmm.extend(["--dirty", "content"]);
    assert_eq!(chosen(&setup).0, "content");
}

#[test]
fn a_strategy_that_is_named_and_not_there_ends_the_migration_before_it_begins() {
    let mut setup = setup("content");
    setup.vmm = vec!["--dirty", "iommu"];
    let mut rig = Rig::new(&setup);
    let url = rig.unix_url();
    let _destination = rig.destination(&url);
    let error = rig.fails_to_migrate(&url);
    assert!(error.contains("without --iommufd"), "{error}");
    assert!(error.contains("never paused"), "{error}");
    rig.guest_still_works_at_the_source();
}

#[test]
fn a_log_that_cannot_be_read_gives_the_guest_back_to_the_source() {
    let mut rig = Rig::new(&setup("iommu"));
    storm(&rig.source_host, &STORM);
    let fault = ["--vf", "1", "--op", "get-dirty-bitmap", "--errno", "EIO"];
    rig.source_host.command("fault", &fault).expect("a fault");
    let url = rig.unix_url();
    let _destination = rig.destination(&url);
    let error = rig.fails_to_migrate(&url);
    assert!(
        error.contains("IOMMU_HWPT_GET_DIRTY_BITMAP failed with EIO"),
        "{error}"
    );
    rig.guest_still_works_at_the_source();
}

fn axis(variable: &str, default: &str) -> Vec<String> {
    let text = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    text.split(',').map(str::to_owned).collect()
}

fn mib(text: &str) -> u64 {
    let (digits, unit) = text.split_at(text.len() - 1);
    digits.parse::<u64>().expect("a size") * if unit == "G" { 1024 } else { 1 }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// The table of docs/dirty-tracking.md.
#[test]
#[ignore = "takes minutes and proves nothing"]
fn figures() {
    println!(
        "| memory | DMA, pages/s | strategy | sent, MiB | of these in the downtime | downtime, ms | GPU pause, ms | \
         comparison, ms | CPU, ms | fingerprints, KiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for memory in axis("XE_DIRTY_MEMORY", "256M") {
        for rate in axis("XE_DIRTY_RATES", "none,2000,full") {
            for strategy in axis("XE_DIRTY_STRATEGIES", "device,iommu,content,all") {
                println!("{}", row(&memory, &rate, &strategy));
            }
        }
    }
}

fn row(memory: &str, rate: &str, strategy: &str) -> String {
    let mut setup = setup(strategy);
    setup.memory = leak(memory.to_owned());
    let mut rig = Rig::new(&setup);
    // Memory that holds something: an earlier storm over nearly all of it.
    let host = rig
        .source_host
        .directory()
        .to_str()
        .expect("ASCII")
        .to_owned();
    let len = format!("{}M", mib(memory) - 32);
    storm(&rig.source_host, &["--iova", "32M", "--len", &len]);
    std::thread::sleep(Duration::from_millis(20 * mib(memory).max(100)));
    host_sim(&rig.source_host, &["stop", &host, "--vf", "1"]);
    let rate_of_storm = match rate {
        "none" => None,
        "full" => Some("0"),
        rate => Some(rate),
    };
    if let Some(rate) = rate_of_storm {
        let raging = [
            "--iova", "32M", "--len", "64M", "--rate", rate, "--seed", "9",
        ];
        storm(&rig.source_host, &raging);
    }
    let answer = moves(&mut rig, "destination");
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let dirty = &answer["dirty"];
    format!(
        "| {memory} | {rate} | {strategy} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
        number(&answer["memory_bytes"]) / f64::from(1 << 20),
        number(&answer["last_pass_bytes"]) / f64::from(1 << 20),
        number(&answer["downtime_ms"]),
        number(&answer["gpu_pause_ms"]),
        number(&dirty["scan_ms"]),
        number(&dirty["cpu_ms"]),
        number(&dirty["fingerprint_bytes"]) / 1024.0,
    )
}
