// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two hosts, and a VM at work on the first.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use demo::host::{SimulatedHost, scratch_directory};
use demo::memory::PeakSampler;
use demo::programs::Programs;
use demo::serial::SerialLog;
use serde_json::Value;
use tempfile::TempDir;

use super::serial_pipe::SerialPipe;
use super::{Binaries, CloudHypervisor, Destination, destination};
use crate::{ALL_CHECKED, AT_WORK, PATIENCE};

/// What differs from the ordinary.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Options of `host-sim up` for both hosts, beside `--vfs` and `--vram`.
    pub both_hosts: Vec<&'static str>,
    /// Options of `host-sim up` for the destination only.
    pub destination_host: Vec<&'static str>,
    /// Arguments of Cloud Hypervisor for the VM, beside kernel, processor, memory, serial port and devices.
    pub vm: Vec<&'static str>,
    /// Guest memory; empty means 64M.
    pub memory: &'static str,
    /// Added to each device, such as `,iommu=on`.
    pub device: &'static str,
    /// VFs of the VM; 0 means one. Each host has one more.
    pub vfs: u16,
    /// VRAM of each VF; empty means 16M.
    pub vram: &'static str,
    /// VRAM of each VF at the destination; empty means as at the source.
    pub destination_vram: &'static str,
    /// VFs of the destination host; 0 means one more than the VM has.
    pub destination_vfs: u16,
}

impl Setup {
    /// A VM that uses its VFs through iommufd.
    #[must_use]
    pub fn iommufd() -> Self {
        Self {
            vm: vec!["--platform", "iommufd=on"],
            ..Self::default()
        }
    }
}

/// Two hosts, and a VM at work on the first.
pub struct Rig {
    /// The VMM that the VM starts in; first, since it has to end before its host does.
    pub source: CloudHypervisor,
    /// Where the VM starts.
    pub source_host: SimulatedHost,
    /// Where it goes.
    pub destination_host: SimulatedHost,
    /// The guest's word.
    pub serial: SerialLog,
    /// Sockets, logs, the serial port's pipe, snapshots.
    pub files: TempDir,
    /// The programs of this workspace.
    pub programs: Programs,
    binaries: Binaries,
    /// Events and bytes of log of the source from before the migration under way.
    before: (usize, usize),
    // Last: the VMMs have ended when it goes.
    _pipe: SerialPipe,
}

/// A migration that has come to its end.
pub struct Moved {
    /// The VMM that has the VM now.
    pub destination: Destination,
    /// From the source's first word of the pause to the destination's of the resume.
    pub downtime: Duration,
    /// From the request to the destination's answer.
    pub whole: Duration,
    /// Most memory beside guest memory and VRAM that the source has had.
    pub source_peak: u64,
    /// And the destination.
    pub destination_peak: u64,
    /// What the source has logged.
    pub source_log: String,
}

/// A migration that failed.
#[derive(Debug)]
pub struct Failed {
    /// What the source's operator is told: ch-remote's answer, or the source's log.
    pub message: String,
    /// Warnings and errors of both sides.
    pub complaints: String,
}

/// Environment of a process on `host`, with what keeps host-sim's own work out of reach of a VMM's seccomp filters.
fn environment(host: &SimulatedHost) -> Vec<(String, String)> {
    let mut environment = host.environment();
    environment.push(("HOST_SIM_WORKER".to_owned(), "1".to_owned()));
    environment
}

/// The argument `--device` for VFs 1 to `vfs`.
fn devices(host: &SimulatedHost, vfs: u16, more: &str) -> Vec<String> {
    let device = |number: u16| format!("path={},id=vf{}{more}", host.vf_path(number), number - 1);
    let mut arguments = vec!["--device".to_owned()];
    arguments.extend((1..=vfs).map(device));
    arguments
}

impl Rig {
    /// Brings it all up and waits until the guest works.
    #[track_caller]
    #[must_use]
    pub fn new(binaries: Binaries, setup: &Setup) -> Self {
        let mut rig = Self::without_a_wait(binaries, setup);
        rig.guest_works(AT_WORK);
        rig
    }

    /// The same when the guest cannot work, or has not begun.
    #[track_caller]
    #[must_use]
    pub fn without_a_wait(binaries: Binaries, setup: &Setup) -> Self {
        let programs = Programs::build().expect("the programs build");
        let vfs = setup.vfs.max(1);
        let or = |text: &'static str, default| if text.is_empty() { default } else { text };
        let vram = or(setup.vram, "16M");
        let up = |count: u16, vram: &str, more: &[&str]| {
            let count = count.to_string();
            let mut options = vec!["--vfs", &count, "--vram", vram];
            options.extend_from_slice(&setup.both_hosts);
            options.extend_from_slice(more);
            SimulatedHost::up(&programs, &options).expect("a host comes up")
        };
        let destination_vfs = match setup.destination_vfs {
            0 => vfs + 1,
            count => count,
        };
        let source_host = up(vfs + 1, vram, &[]);
        let destination_vram = or(setup.destination_vram, vram);
        let destination_host = up(destination_vfs, destination_vram, &setup.destination_host);
        let files = scratch_directory("xe-ch-").expect("a directory for files");
        let kernel = files.path().join("guest.elf");
        std::fs::write(&kernel, guest::image()).expect("the guest's image");
        let pipe = SerialPipe::new(files.path()).expect("a pipe for the serial port");
        let memory = format!("size={},shared=on", or(setup.memory, "64M"));
        let mut arguments: Vec<String> = [
            "--kernel",
            kernel.to_str().expect("ASCII"),
            "--cpus",
            "boot=1,nested=off",
            "--memory",
            &memory,
            "--console",
            "off",
            "--serial",
            &format!("file={}", pipe.path().display()),
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(devices(&source_host, vfs, setup.device));
        arguments.extend(setup.vm.iter().map(|&option| option.to_owned()));
        let source = CloudHypervisor::start(
            &binaries,
            "source",
            files.path(),
            &environment(&source_host),
            &arguments,
        )
        .expect("the source VMM starts");
        let serial = SerialLog::new(pipe.copy());
        Self {
            source_host,
            destination_host,
            source,
            serial,
            files,
            programs,
            binaries,
            before: (0, 0),
            _pipe: pipe,
        }
    }

    /// URL on a free port of the loopback interface; not by name, since Cloud Hypervisor's filters end a thread in which glibc
    /// resolves one.
    #[track_caller]
    #[must_use]
    pub fn tcp_url(&self) -> String {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        format!("tcp:{address}")
    }

    /// URL on a Unix socket of this rig.
    #[must_use]
    pub fn unix_url(&self) -> String {
        format!("unix:{}", self.files.path().join("move.sock").display())
    }

    /// An empty VMM called `name` on `host`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn empty_vmm(&self, name: &str, host: &SimulatedHost) -> anyhow::Result<CloudHypervisor> {
        destination::empty_vmm(&self.binaries, name, self.files.path(), &environment(host))
    }

    /// A VMM on the destination host that waits for the VM with the options `receive`.
    #[track_caller]
    #[must_use]
    pub fn destination(&self, receive: &str) -> Destination {
        self.destination_on(&self.destination_host, receive)
    }

    /// The same on `host`.
    #[track_caller]
    #[must_use]
    pub fn destination_on(&self, host: &SimulatedHost, receive: &str) -> Destination {
        let vmm = self.empty_vmm("destination", host);
        Destination::new(vmm.expect("the destination VMM starts"), receive)
            .expect("the destination waits")
    }

    /// A VMM on the destination host that is restored with the options `restore`.
    ///
    /// # Errors
    /// When it does not come up, or the restore fails.
    pub fn restored(&self, name: &str, restore: &str) -> anyhow::Result<CloudHypervisor> {
        let arguments = ["--restore".to_owned(), restore.to_owned()];
        let mut vmm = CloudHypervisor::start(
            &self.binaries,
            name,
            self.files.path(),
            &environment(&self.destination_host),
            &arguments,
        )?;
        vmm.wait_for(&["restored"])?;
        Ok(vmm)
    }

    /// The guest does `more` jobs of each VF without a complaint.
    #[track_caller]
    pub fn guest_works(&mut self, more: u32) {
        let outcome = self.serial.wait_for_jobs(more, PATIENCE).cloned();
        let tally =
            outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", self.source.last_words()));
        assert_eq!(
            tally.out_of_order,
            Vec::<String>::new(),
            "the guest's reports have gaps"
        );
    }

    /// The guest works on in `vmm` and has everything it had.
    #[track_caller]
    pub fn guest_works_on_in(&mut self, vmm: &CloudHypervisor) {
        let outcome = self.serial.wait_for_jobs(ALL_CHECKED, PATIENCE).cloned();
        let tally = outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", vmm.last_words()));
        assert_eq!(
            tally.out_of_order,
            Vec::<String>::new(),
            "the guest's reports have gaps"
        );
    }

    /// Migrates over `url` to where the paths are the same, and checks with the guest that nothing is lost.
    #[track_caller]
    pub fn migrates(&mut self, url: &str, send: &str) -> Moved {
        let destination = self.destination(&format!("receiver_url={url}"));
        self.migrates_to(destination, url, send)
    }

    /// Migrates over `url` to `destination` with the further options `send`, and checks with the guest.
    #[track_caller]
    pub fn migrates_to(&mut self, mut destination: Destination, url: &str, send: &str) -> Moved {
        let peaks = [self.source.pid(), destination.pid()].map(PeakSampler::start);
        let begun = Instant::now();
        let outcome = self.send(url, send);
        let tell = |source: &CloudHypervisor, destination: &Destination| {
            format!(
                "source:\n{}\ndestination:\n{}",
                source.last_words(),
                destination.last_words()
            )
        };
        if let Err(message) = outcome {
            panic!("{message}\n{}", tell(&self.source, &destination));
        }
        if let Err(error) = destination.answer() {
            panic!("{error:#}\n{}", tell(&self.source, &destination));
        }
        let whole = begun.elapsed();
        let [source_peak, destination_peak] = peaks.map(|peak| peak.peak());
        let status = self.source.wait().expect("the source ends");
        assert!(
            status.success(),
            "{status}: {}",
            tell(&self.source, &destination)
        );
        let stopped = self.source.time_of("event = pausing").expect("a pause");
        let resumed = destination.time_of("event = resumed").expect("a resume");
        self.guest_works_on_in(&destination);
        Moved {
            downtime: resumed.saturating_sub(stopped),
            whole,
            source_peak,
            destination_peak,
            source_log: self.source.log(),
            destination,
        }
    }

    /// Asks the source to send the VM to `url`, waits for the end, and answers the source's message when it fails.
    ///
    /// # Errors
    /// With that message.
    #[track_caller]
    pub fn send(&mut self, url: &str, send: &str) -> Result<(), String> {
        self.begin_to_send(url, send)?;
        self.sent()
    }

    /// Asks the source to send the VM to `url`.
    ///
    /// # Errors
    /// When it refuses at once.
    pub fn begin_to_send(&mut self, url: &str, send: &str) -> Result<(), String> {
        self.before = (self.source.events().0.len(), self.source.log().len());
        let options = format!("destination_url={url}{send}");
        let asked = self.source.remote(&["send-migration", &options]);
        asked.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// Waits for the end of what [`Self::begin_to_send`] has begun.
    ///
    /// # Errors
    /// With the source's message when it has failed.
    #[track_caller]
    pub fn sent(&mut self) -> Result<(), String> {
        let (events, log) = self.before;
        let end = self
            .source
            .wait_for_new(events, &["migration-finished", "migration-failed"])
            .expect("the migration ends");
        if end == "migration-finished" {
            return Ok(());
        }
        // The event comes before the line.
        let mut reason = String::new();
        crate::eventually("the source says why", || {
            let log = self.source.log().split_off(log);
            let line = log.lines().find(|line| line.contains("Migration failed"));
            reason = line.unwrap_or_default().to_owned();
            !reason.is_empty()
        });
        Err(reason)
    }

    /// Tries to migrate over `url`; the guest then goes on at the source with everything it had.
    #[track_caller]
    pub fn fails_to_migrate(&mut self, url: &str, send: &str) -> Failed {
        let destination = self.destination(&format!("receiver_url={url}"));
        self.fails_to_migrate_to(destination, url, send).0
    }

    /// The same to `destination`.
    #[track_caller]
    pub fn fails_to_migrate_to(
        &mut self,
        mut waiting: Destination,
        url: &str,
        send: &str,
    ) -> (Failed, Destination) {
        let destination = &mut waiting;
        let Err(message) = self.send(url, send) else {
            panic!(
                "The migration should have failed: {}",
                self.source.last_words()
            );
        };
        self.guest_still_works_at_the_source();
        let answer = destination.answer().map_err(|error| format!("{error:#}"));
        assert!(
            answer.is_err(),
            "the destination says it has received: {message}"
        );
        let complaints = format!(
            "{}{}{answer:?}",
            self.source.complaints(),
            destination.complaints()
        );
        let failed = Failed {
            message,
            complaints,
        };
        (failed, waiting)
    }

    /// The guest goes on at the source with its GPU, everything it had included.
    #[track_caller]
    pub fn guest_still_works_at_the_source(&mut self) {
        self.guest_works(ALL_CHECKED);
    }

    /// Makes the next call of `op` of VF 1 on `host` do `effect`, such as `["--errno", "EIO"]`.
    #[track_caller]
    pub fn fault(&self, host: &SimulatedHost, op: &str, effect: &[&str]) {
        let arguments = [&["--vf", "1", "--op", op], effect].concat();
        host.command("fault", &arguments).expect("host-sim fault");
    }

    /// Gives the VRAM of the VM's first VF that the guest does not use random content: zeros do not travel.
    #[track_caller]
    pub fn fill_vram(&self) {
        self.source_host
            .command("fill", &["--vf", "1", "random", "--from", "4M"])
            .expect("host-sim fill");
    }

    /// An empty directory called `name` for a snapshot.
    #[track_caller]
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let directory = self.files.path().join(name);
        std::fs::create_dir(&directory).expect("a directory");
        directory
    }
}

/// State of VF `number` on `host` as `host-sim status` tells it.
#[track_caller]
#[must_use]
pub fn vf_status(host: &SimulatedHost, number: u16) -> Value {
    let text = host
        .command("status", &["--json"])
        .expect("host-sim status");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    status["vfs"][usize::from(number) - 1].clone()
}

/// Looks at a host while its rig is busy.
pub struct Watcher {
    program: PathBuf,
    directory: PathBuf,
}

impl Watcher {
    /// For `host`.
    #[must_use]
    pub fn new(programs: &Programs, host: &SimulatedHost) -> Self {
        Self {
            program: programs.host_sim.clone(),
            directory: host.directory().to_owned(),
        }
    }

    /// The states of the first `N` VFs, at one time.
    ///
    /// # Panics
    /// When host-sim does not tell them.
    #[must_use]
    pub fn states<const N: usize>(&self) -> [String; N] {
        let directory = self.directory.to_str().expect("ASCII");
        let text = demo::host::run(&self.program, &["status", directory, "--json"]);
        let status: Value = serde_json::from_str(&text.expect("host-sim status")).expect("JSON");
        std::array::from_fn(|i| status["vfs"][i]["state"].as_str().unwrap_or("?").to_owned())
    }
}
