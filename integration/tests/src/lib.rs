// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! End-to-end tests: real processes, a simulated host, a guest that notices.
//!
//! [`Rig`] is two hosts with a VMM on the first whose guest is at work. Tests migrate it, break things on the way with
//! `host-sim fault`, and ask the guest. [`cloud_hypervisor`] does the same with Cloud Hypervisor in the place of the reference VMM.

pub mod cloud_hypervisor;
pub mod gate;
pub mod guest_memory;
pub mod prediction;

use std::time::{Duration, Instant};

use demo::host::{SimulatedHost, scratch_directory};
use demo::programs::Programs;
use demo::serial::SerialLog;
use demo::vmm::Vmm;
use serde_json::Value;
use tempfile::TempDir;

/// Time for the guest to do some hundred jobs on the slowest processor.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Jobs that show a guest to be at work.
pub const AT_WORK: u32 = 256;
/// Jobs after which everything that was written before has been checked again.
pub const ALL_CHECKED: u32 = 2304;

/// Two hosts, and a VM at work on the first.
pub struct Rig {
    /// The programs.
    pub programs: Programs,
    /// Where the VM starts.
    pub source_host: SimulatedHost,
    /// Where it goes.
    pub destination_host: SimulatedHost,
    /// The VMM it starts in.
    pub source: Vmm,
    /// The guest's word.
    pub serial: SerialLog,
    /// Sockets, logs, serial files, snapshots.
    pub files: TempDir,
    vfs: u16,
    local: bool,
    vmm_options: Vec<String>,
}

/// What differs from the ordinary in a rig.
#[derive(Default, Clone)]
pub struct Setup {
    /// Options of `host-sim up` for both hosts, beside `--vfs` and `--vram 64M`.
    pub both_hosts: Vec<&'static str>,
    /// Options of `host-sim up` for the destination only.
    pub destination_host: Vec<&'static str>,
    /// Options of both VMMs, beside the memory and the devices.
    pub vmm: Vec<&'static str>,
    /// RAM of the VM; empty means 64M.
    pub memory: &'static str,
    /// VFs of the VM; 0 means one.
    pub vfs: u16,
    /// VRAM of each VF; empty means 64M.
    pub vram: &'static str,
    /// VRAM of each VF at the destination; empty means as at the source.
    pub destination_vram: &'static str,
    /// Both hosts are cards of one machine, so that data fds can be handed over.
    pub local: bool,
}

impl Rig {
    /// Brings it all up and waits until the guest works.
    #[track_caller]
    pub fn new(setup: &Setup) -> Self {
        let programs = Programs::build().expect("the programs build");
        let vfs = setup.vfs.max(1);
        let or = |text: &'static str, default| if text.is_empty() { default } else { text };
        let vram = or(setup.vram, "64M");
        let up = |vram, more: &[&str], beside: bool| {
            let count = vfs.to_string();
            let mut options = vec!["--vfs", &count, "--vram", vram];
            options.extend_from_slice(&setup.both_hosts);
            options.extend_from_slice(more);
            let up = if beside {
                SimulatedHost::up_beside
            } else {
                SimulatedHost::up
            };
            up(&programs, &options).expect("a host comes up")
        };
        let source_host = up(vram, &[], false);
        let destination_vram = or(setup.destination_vram, vram);
        let destination_host = up(destination_vram, &setup.destination_host, setup.local);
        let files = scratch_directory("xe-e2e-").expect("a directory for files");
        let memory = format!("size={}", or(setup.memory, "64M"));
        let mut vmm_options = vec!["--memory".to_owned(), memory];
        vmm_options.extend(setup.vmm.iter().map(|option| (*option).to_owned()));
        let environment = if setup.local {
            source_host.environment_with(&destination_host)
        } else {
            source_host.environment()
        };
        let devices = devices(&source_host, vfs);
        let arguments = [vmm_options.clone(), devices].concat();
        let source = Vmm::start(&programs, "source", files.path(), &environment, &arguments)
            .expect("the source VMM starts");
        let serial = SerialLog::new(source.serial_path());
        let mut rig = Self {
            programs,
            source_host,
            destination_host,
            source,
            serial,
            files,
            vfs,
            local: setup.local,
            vmm_options,
        };
        rig.guest_works(AT_WORK);
        rig
    }

    /// URL on a unix socket of this rig.
    pub fn unix_url(&self) -> String {
        format!(
            "unix:{}",
            self.files.path().join("migration.sock").display()
        )
    }

    /// URL on a free port of the loopback interface.
    #[track_caller]
    pub fn tcp_url(&self) -> String {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        format!(
            "tcp:127.0.0.1:{}",
            listener.local_addr().expect("its number").port()
        )
    }

    /// Starts a VMM on the destination host that waits for the VM at `url`.
    #[track_caller]
    pub fn destination(&self, url: &str) -> Vmm {
        self.try_destination(url)
            .expect("the destination VMM starts")
    }

    /// The same, when it may not come up.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn try_destination(&self, url: &str) -> anyhow::Result<Vmm> {
        self.receiver("destination", url, self.vfs)
    }

    /// Starts a VMM on the destination host that waits for the VM at `url` but has only `vfs` VFs.
    #[track_caller]
    pub fn destination_with(&self, url: &str, vfs: u16) -> Vmm {
        self.receiver("destination", url, vfs)
            .expect("the destination VMM starts")
    }

    fn receiver(&self, name: &str, url: &str, vfs: u16) -> anyhow::Result<Vmm> {
        let mut options = self.vmm_options.clone();
        options.extend(["--receive-migration".to_owned(), url.to_owned()]);
        self.vmm_there(name, vfs, options)
    }

    /// Starts a VMM on the destination host with `options` beside the usual ones.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn other_vmm(&self, name: &str, options: &[String]) -> anyhow::Result<Vmm> {
        let mut all = self.vmm_options.clone();
        all.extend_from_slice(options);
        self.vmm_there(name, self.vfs, all)
    }

    fn vmm_there(&self, name: &str, vfs: u16, mut options: Vec<String>) -> anyhow::Result<Vmm> {
        options.extend(devices(&self.destination_host, vfs));
        let environment = if self.local {
            self.source_host.environment_with(&self.destination_host)
        } else {
            self.destination_host.environment()
        };
        Vmm::start(
            &self.programs,
            name,
            self.files.path(),
            &environment,
            &options,
        )
    }

    /// The guest does `more` jobs of each VF without a complaint.
    #[track_caller]
    pub fn guest_works(&mut self, more: u32) {
        let outcome = self.serial.wait_for_jobs(more, PATIENCE).cloned();
        let tally = outcome
            .unwrap_or_else(|error| panic!("{error:#}\nsource log:\n{}", self.source.log_tail()));
        assert_eq!(
            tally.out_of_order,
            Vec::<String>::new(),
            "the guest's reports have gaps"
        );
    }

    /// How the source is asked to migrate.
    pub fn send_migration<'a>(&self, url: &'a str) -> Vec<&'a str> {
        let mut request = vec!["send-migration", url];
        if self.local {
            request.push("--local");
        }
        request
    }

    /// Migrates over `url` and checks with the guest that nothing is lost.
    #[track_caller]
    pub fn migrates(&mut self, url: &str) -> (Vmm, Value) {
        self.migrates_to("destination", url)
    }

    /// The same, to a VMM called `name`.
    #[track_caller]
    pub fn migrates_to(&mut self, name: &str, url: &str) -> (Vmm, Value) {
        let destination = self
            .receiver(name, url, self.vfs)
            .expect("the destination VMM starts");
        let answer = self.source.remote(&self.send_migration(url));
        let answer = answer.unwrap_or_else(|error| {
            panic!(
                "{error:#}\nsource:\n{}\ndestination:\n{}",
                self.source.log_tail(),
                destination.log_tail()
            )
        });
        self.serial
            .moved_to(destination.serial_path())
            .expect("serial files");
        self.guest_works(ALL_CHECKED);
        assert!(
            self.source.wait().expect("the source ends").success(),
            "{}",
            self.source.log_tail()
        );
        (destination, answer)
    }

    /// Tries to migrate over `url`, and answers what the source says of the failure.
    #[track_caller]
    pub fn fails_to_migrate(&mut self, url: &str) -> String {
        match self.source.remote(&self.send_migration(url)) {
            Ok(answer) => panic!("The migration should have failed: {answer}"),
            Err(error) => format!("{error:#}"),
        }
    }

    /// The guest goes on at the source with its GPU, everything it had included.
    #[track_caller]
    pub fn guest_still_works_at_the_source(&mut self) {
        self.guest_works(ALL_CHECKED);
    }

    /// State of VF 1 on `host` as `host-sim status` tells it.
    #[track_caller]
    pub fn vf_status(&self, host: &SimulatedHost) -> Value {
        let text = host
            .command("status", &["--json"])
            .expect("host-sim status");
        let status: Value = serde_json::from_str(&text).expect("JSON");
        status["vfs"][0].clone()
    }
}

/// Options that give a VMM the first `vfs` VFs of `host`.
fn devices(host: &SimulatedHost, vfs: u16) -> Vec<String> {
    (1..=vfs)
        .flat_map(|number| {
            let device = format!("path={},id=vf{number}", host.vf_path(number));
            ["--device".to_owned(), device]
        })
        .collect()
}

/// Waits for `condition`.
///
/// # Panics
/// When it does not come true within ten seconds, with `what`.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
