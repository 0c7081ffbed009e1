// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulated hosts, the command on them, and streams with content to restore.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use host_sim::host::{Host, HostConfig};
use host_sim::vf::{Effect, FaultSpec, Op};
use serde_json::Value;
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
/// Bytes of VRAM: with chunks of 1 MiB, more packets than a ring holds.
pub const VRAM: u64 = 12 * MIB;
/// Where VRAM begins in a VF's memory file.
const VRAM_OFFSET: u64 = 4 * MIB;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn config() -> HostConfig {
    HostConfig {
        vram: VRAM,
        vram_chunk: MIB,
        ggtt: MIB,
        guc: 4096,
        flr_ms: 2,
        suspend_ms: 0,
        resume_ms: 0,
        restore_timeout_ms: 20,
        pin_us_per_gib: 0,
        domain: 0x2000,
        ..HostConfig::default()
    }
}

/// The shared object that Cargo builds beside this test, since host-sim is a dev-dependency; built when it is not there.
fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let test = std::env::current_exe().expect("a path");
        let deps = test.parent().expect("a directory").to_owned();
        let beside = [deps.join("libhost_sim.so"), deps.join("../libhost_sim.so")];
        beside.into_iter().find(|path| path.exists())
    };
    BUILT
        .get_or_init(|| {
            find().expect("libhost_sim.so beside the test: cargo builds it for the dev-dependency")
        })
        .clone()
}

/// A host with two VFs that no process has attached.
pub struct TestHost {
    pub host: Host,
    dir: TempDir,
}

impl TestHost {
    #[track_caller]
    pub fn new() -> Self {
        Self::with(&config())
    }

    #[track_caller]
    pub fn with(config: &HostConfig) -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a directory");
        let host = Host::create(&dir.path().join("host"), config).expect("a host");
        Self { host, dir }
    }

    /// Sysfs directory of function `n`, 0 being the PF.
    pub fn path(&self, n: u16) -> String {
        format!("/sys/bus/pci/devices/{}", self.host.config().bdf(n))
    }

    /// A file's name that nobody else uses.
    pub fn file(&self, name: &str) -> String {
        self.dir
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    pub fn fault(&self, index: u16, op: &str, nth: u32, effect: Effect) {
        let op: Op = op.parse().expect("an operation");
        let spec = FaultSpec {
            op,
            nth,
            count: 1,
            effect,
        };
        self.host
            .vf(index)
            .expect("a VF")
            .faults()
            .add(&spec)
            .expect("room");
    }

    pub fn fail(&self, index: u16, op: &str, errno: i32) {
        self.fault(index, op, 1, Effect::Errno(host_sim::vf::Errno(errno)));
    }

    pub fn resets(&self, index: u16) -> u64 {
        self.host.vf(index).expect("a VF").status().resets
    }

    /// Writes what a guest might have left in VRAM.
    pub fn fill(&self, index: u16, seed: u8) {
        let vf = self.host.vf(index).expect("a VF");
        vf.memory_file()
            .write_all_at(&content(seed), VRAM_OFFSET)
            .expect("written");
    }

    pub fn holds(&self, index: u16, seed: u8) -> bool {
        let vf = self.host.vf(index).expect("a VF");
        let mut bytes = vec![0; VRAM as usize];
        vf.memory_file()
            .read_exact_at(&mut bytes, VRAM_OFFSET)
            .expect("read");
        bytes == content(seed)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xe-vfio"));
        command
            .args(arguments)
            .env("LD_PRELOAD", library())
            .env("HOST_SIM", self.host.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.start(arguments).wait()
    }

    /// Starts the command.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).spawn().expect("the command starts");
        let mut stdout = child.stdout.take().expect("piped");
        let out = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("UTF-8");
            text
        });
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (lines, said) = std::sync::mpsc::channel();
        let err = std::thread::spawn(move || {
            let mut text = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                text.push_str(&line);
                text.push('\n');
                _ = lines.send(line);
            }
            text
        });
        Running {
            child,
            out: Some(out),
            err: Some(err),
            said,
        }
    }

    /// Waits until a fault of VF `index` has fired.
    #[track_caller]
    pub fn fault_fires(&self, index: u16) {
        let vf = self.host.vf(index).expect("a VF");
        let end = Instant::now() + PATIENCE;
        while !vf.status().faults.iter().any(|fault| fault.fired > 0) {
            assert!(Instant::now() < end, "the fault never fires");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A file with the state of VF 1, whose VRAM was filled after the command had opened it and before it was stopped.
    #[track_caller]
    pub fn filled_state(&self, seed: u8) -> String {
        let file = self.file("full");
        self.fault(1, "arc:RUNNING->RUNNING_P2P", 1, Effect::Stuck);
        let saving = self.start(&["save", &self.path(1), "--to", &file]);
        self.fault_fires(1);
        self.fill(1, seed);
        self.host.vf(1).expect("a VF").faults().clear(None);
        saving.wait().succeeds();
        file
    }
}

/// Bytes of VRAM that differ from each other.
fn content(seed: u8) -> Vec<u8> {
    let mut value = u64::from(seed) << 32 | 1;
    (0..VRAM)
        .map(|_| {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            value as u8
        })
        .collect()
}

/// A command under way.
pub struct Running {
    child: Child,
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
    said: std::sync::mpsc::Receiver<String>,
}

impl Running {
    /// Waits for a line on stderr that contains `text`.
    #[track_caller]
    pub fn hears(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self
                .said
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("never said: {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn signal(&self, number: i32) {
        let id = self.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{number}"), &id])
            .status();
        assert!(sent.expect("kill").success());
    }

    #[track_caller]
    pub fn wait(mut self) -> Run {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < end, "the command does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = |thread: Option<JoinHandle<String>>| thread.expect("once").join().expect("text");
        let (stdout, stderr) = (text(self.out.take()), text(self.err.take()));
        Run(Output {
            status,
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended unless the test fails.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A command that has ended.
pub struct Run(Output);

impl Run {
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn status(&self) -> Option<i32> {
        self.0.status.code()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.0.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout(), self.stderr()))
    }

    #[track_caller]
    pub fn succeeds(&self) {
        assert_eq!(
            self.status(),
            Some(0),
            "{}\n{}",
            self.stdout(),
            self.stderr()
        );
    }

    /// Ended with `status`; answers what was said on stderr.
    #[track_caller]
    pub fn fails(&self, status: i32) -> String {
        assert_eq!(
            self.status(),
            Some(status),
            "{}\n{}",
            self.stdout(),
            self.stderr()
        );
        self.stderr()
    }
}

/// The device state in a stream's file, without what is around it.
#[track_caller]
pub fn payload(path: &str) -> Vec<u8> {
    use xe_vfio_device::stream::{Limits, Opening};
    let file = std::fs::File::open(path).expect("a file");
    let (_, mut reader) = Opening::read(file, &Limits::default()).expect("a stream");
    let (mut all, mut buffer) = (Vec::new(), Vec::new());
    while let Some(part) = reader.next(&mut buffer).expect("a frame") {
        all.extend_from_slice(part);
    }
    all
}
