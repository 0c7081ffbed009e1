// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that VFs write arrives whole, however it is found: VFs that write at full rate through migrations, page by page
//! compared at the destination with what was written last.
//!
//! `storms` has them under each strategy (`XE_DIRTY_MIGRATIONS=100` has each move the VM so many times), `choice` which strategy is
//! taken and why, `reach` memory that is taken from the VFs and given to them while it is sent. The table of docs/dirty-tracking.md is
//! made by `cargo test --release -p e2e --test dirty -- --ignored --nocapture figures`.

mod choice;
mod figures;
mod reach;
mod storms;

use std::time::Duration;

use demo::host::SimulatedHost;
use demo::vmm::Vmm;
use e2e::{AT_WORK, Rig, Setup};
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
