// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the command `host-sim` has for dirty pages.

use std::path::Path;
use std::process::{Command, Output};

use crate::storm::{IOVA, LEN, Target};

fn host_sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_host-sim"))
        .args(args)
        .env_remove("HOST_SIM")
        .env_remove("LD_PRELOAD")
        .output()
        .expect("the command runs")
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let output = host_sim(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn fails(args: &[&str]) -> String {
    let output = host_sim(args);
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8(output.stderr).expect("text")
}

fn status(dir: &Path) -> serde_json::Value {
    let text = succeeds(&["status", &dir.to_string_lossy(), "--json"]);
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn hosts_have_logs_and_dirty_bits_on_the_vfs_named() {
    let parent = tempfile::tempdir().expect("a directory");
    let make = |name: &str, options: &[&str]| {
        let dir = parent.path().join(name);
        let mut args = vec!["up", dir.to_str().expect("text"), "--vram", "4M"];
        args.extend_from_slice(options);
        succeeds(&args);
        status(&dir)["config"].clone()
    };
    let config = make("none", &[]);
    assert_eq!(config["dma_logging"], "none");
    assert_eq!(config["iommu_dirty_tracking"], "none");
    let config = make("all", &["--dma-logging", "--iommu-dirty-tracking"]);
    assert_eq!(config["dma_logging"], "all");
    assert_eq!(config["iommu_dirty_tracking"], "all");
    let config = make(
        "some",
        &[
            "--dma-logging=2",
            "--dma-log-min-page=64K",
            "--dma-log-ranges=4",
            "--dma-log-refuse-ranges",
            "--dma-log-bytes=8G",
            "--iommu-dirty-tracking=1,2",
            "--iommu-leaf=2M",
        ],
    );
    assert_eq!(config["dma_logging"]["only"], serde_json::json!([2]));
    assert_eq!(config["dma_log"]["min_page"], 64 << 10);
    assert_eq!(config["dma_log"]["bytes"], 8u64 << 30);
    assert_eq!(config["iommu_leaf"], 2 << 20);
    let bad = parent.path().join("bad");
    let error = fails(&["up", bad.to_str().expect("text"), "--dma-logging=0"]);
    assert!(error.contains("no choice of VFs"), "{error}");
}

#[test]
fn a_storm_is_raised_ended_and_checked_by_command() {
    let target = Target::new();
    let path = target.host.host.dir().to_path_buf();
    let dir = path.to_str().expect("text");
    let (iova, len) = (IOVA.to_string(), LEN.to_string());
    let range = ["--iova", iova.as_str(), "--len", len.as_str()];
    let storm = |verb: &'static str, rest: &[&'static str]| {
        [&["storm", verb, dir, "--vf", "1"], rest].concat()
    };
    let none = fails(&storm("check", &[]));
    assert!(none.contains("There was no storm"), "{none}");
    let raise = [&storm("start", &[])[..], &range].concat();
    succeeds(&raise);
    target.wait_for(1000);
    let twice = fails(&raise);
    assert!(twice.contains("EBUSY"), "{twice}");
    assert!(fails(&storm("check", &[])).contains("is on"));
    assert_eq!(status(&path)["vfs"][0]["storm"]["on"], true);
    assert!(succeeds(&["status", dir]).contains("storm of"));
    let ended = succeeds(&storm("stop", &[]));
    assert!(ended.contains("writes, 0 faults"), "{ended}");
    let right = succeeds(&storm("check", &[]));
    assert!(right.contains("0 lost, 0 torn"), "{right}");
    target.memory.put(0x2028, &[0; 8]);
    let output = host_sim(&storm("check", &[]));
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("1 torn") && text.contains("first at 0x1002000"),
        "{text}"
    );
}

#[test]
fn a_vf_of_another_host_checks_by_command() {
    let source = Target::new();
    source
        .vf
        .storm_start(&crate::storm::spec())
        .expect("a storm");
    source.wait_for(1000);
    source.vf.storm_stop();
    let destination = Target::new();
    destination.memory.put(0, &source.memory.all());
    let dirs = [&source, &destination].map(|t| t.host.host.dir().to_path_buf());
    let [from, to] = [&dirs[0], &dirs[1]].map(|d| d.to_str().expect("text"));
    let check = [
        "storm",
        "check",
        to,
        "--vf",
        "1",
        "--written-by",
        from,
        "--json",
    ];
    let found: serde_json::Value = serde_json::from_str(&succeeds(&check)).expect("JSON");
    assert_eq!(found["lost"], 0);
    assert_ne!(found["intact"], 0);
    destination.memory.put(0, &vec![0; LEN]);
    assert!(fails(&check).contains("not what the VF wrote"));
}
