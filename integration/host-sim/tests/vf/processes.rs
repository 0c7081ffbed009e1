// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One VF in two processes, one of which dies at a bad moment: a forked child that opens the host for itself.

// A child is forked, waited for and killed.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use guest::abi::{self, reg};
use host_sim::host::Host;
use host_sim::vf::{Dma, Effect, Errno, FaultSpec, Op, State, Step, Vf};

use crate::common::*;

/// What another process does with VF 1.
#[derive(Clone, Copy)]
enum Role {
    Set,
    Save,
    Job,
    Write,
    Reset,
}

impl Role {
    fn play(self, vf: &Vf) {
        match self {
            Self::Set => drop(vf.set_state(State::Stop as u32)),
            Self::Save => {
                vf.data_read(begin_save(vf), &mut [0; 4096]).expect("read");
            }
            Self::Job => drop(vf.engine_step(&Hangs(vf), &|_| {})),
            Self::Write => write_vram(vf, 12_345, b"from the other process"),
            Self::Reset => vf.reset().expect("reset"),
        }
    }
}

/// Tells by a scratch register that a job is in progress, and never ends it.
struct Hangs<'a>(&'a Vf);

impl Dma for Hangs<'_> {
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        write32(self.0, reg::SCRATCH, 1);
        loop {
            std::thread::park();
        }
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
}

/// Another process, ended when it is dropped.
struct Other(Option<libc::pid_t>);

impl Other {
    #[track_caller]
    fn start(host: &TestHost, role: Role) -> Self {
        let dir = host.host.dir().to_owned();
        // SAFETY: the child does its part with the one thread it has and leaves without unwinding into the test harness.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let played = std::panic::catch_unwind(|| {
                let host = Host::open(&dir).expect("the host");
                role.play(&host.vf(1).expect("a VF"));
            });
            // SAFETY: ends this child only.
            unsafe { libc::_exit(i32::from(played.is_err())) }
        }
        assert!(pid > 0, "another process");
        Self(Some(pid))
    }

    /// Waits for its end and answers whether it was a good one.
    fn ended(&mut self) -> bool {
        let Some(pid) = self.0.take() else {
            return false;
        };
        let mut status = 0;
        // SAFETY: a child that nobody else waits for.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        waited == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }

    fn kill(&self) {
        if let Some(pid) = self.0 {
            // SAFETY: a child that has not been waited for, so the number is its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    #[track_caller]
    fn succeeds(mut self) {
        assert!(self.ended());
    }

    /// As SIGKILL does it, once `holds`.
    #[track_caller]
    fn killed_once(mut self, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the other process never came so far"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        self.kill();
        assert!(!self.ended(), "it ended by itself");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Only after a failed assertion is there anything left to end.
        self.kill();
        self.ended();
    }
}

#[track_caller]
fn only_a_reset_helps(vf: &Vf) {
    let here = state(vf);
    for target in State::ALL.into_iter().filter(|s| *s != here) {
        assert_eq!(
            vf.set_state(target as u32),
            Err(Errno::EPERM),
            "{here} to {target}"
        );
    }
    assert!(vf.status().needs_reset);
    vf.reset().expect("reset");
    assert_eq!(state(vf), State::Running);
    set(vf, State::Stop);
}

#[test]
fn two_processes_see_the_same_memory_and_state() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    Other::start(&host, Role::Write).succeeds();
    assert_eq!(vram(&vf, 12_345, 22), b"from the other process");
    Other::start(&host, Role::Set).succeeds();
    assert_eq!(state(&vf), State::Stop);
    Other::start(&host, Role::Reset).succeeds();
    assert_eq!(state(&vf), State::Running);
    assert_eq!(vram(&vf, 12_345, 22), [0; 22]);
}

#[test]
fn a_save_begun_in_one_process_goes_on_in_another() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    scribble(&vf, 8);
    let whole = save(&vf);
    set(&vf, State::Running);
    Other::start(&host, Role::Save).succeeds();
    assert_eq!(state(&vf), State::StopCopy);
    // The second session of this VF; its id travels with the fd.
    let rest = read_all(&vf, host_sim::vf::SessionId(2), 1 << 20);
    assert!(rest == whole[4096..]);
}

#[test]
fn a_process_that_dies_within_an_arc_leaves_a_vf_that_needs_a_reset() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let op = "arc:RUNNING_P2P->STOP".parse().expect("an operation");
    let spec = FaultSpec {
        op,
        nth: 1,
        count: 1,
        effect: Effect::DelayMs(600_000),
    };
    vf.faults().add(&spec).expect("room for a fault");
    Other::start(&host, Role::Set)
        .killed_once(|| vf.status().under_way.as_deref() == Some("RUNNING_P2P->STOP"));
    assert_eq!(state(&vf), State::RunningP2p, "the step reached");
    only_a_reset_helps(&vf);
}

#[test]
fn a_reader_that_dies_blocked_leaves_a_save_that_has_failed() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let spec = FaultSpec {
        op: Op::Producer,
        nth: 1,
        count: 1,
        effect: Effect::Stuck,
    };
    vf.faults().add(&spec).expect("room for a fault");
    Other::start(&host, Role::Save).killed_once(|| vf.faults().list().iter().any(|f| f.fired == 1));
    vf.faults().clear(None);
    assert_eq!(
        vf.data_read(host_sim::vf::SessionId(1), &mut [0; 8]),
        Err(Errno::EIO)
    );
    assert_eq!(vf.set_state(State::Stop as u32), Err(Errno::EIO));
    assert!(!vf.status().moving);
    vf.reset().expect("reset");
    save(&vf);
}

#[test]
fn a_process_that_dies_within_a_job_leaves_a_vf_that_needs_a_reset() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    write_pte(&vf, 0, 0x1000 | abi::PTE_VALID);
    write32(&vf, reg::RING_ENTRIES, 16);
    write32(&vf, reg::RING_ENABLE, 1);
    write32(&vf, reg::RING_TAIL, 1);
    let other = Other::start(&host, Role::Job);
    std::thread::scope(|scope| {
        let mut suspend = None;
        other.killed_once(|| match &suspend {
            None if read32(&vf, reg::SCRATCH) == 1 => {
                suspend = Some((
                    Instant::now(),
                    scope.spawn(|| vf.set_state(State::RunningP2p as u32)),
                ));
                false
            }
            None => false,
            Some((begun, suspend)) => {
                assert!(
                    !suspend.is_finished(),
                    "a job in progress holds a suspend up"
                );
                begun.elapsed() > Duration::from_millis(100)
            }
        });
        let (_, suspend) = suspend.expect("begun before the kill");
        suspend
            .join()
            .expect("no panic")
            .expect("the suspend itself");
    });
    only_a_reset_helps(&vf);
    assert_eq!(vf.engine_step(&Hangs(&vf), &|_| {}), Step::Halted);
}

#[test]
fn a_process_that_dies_within_a_reset_leaves_a_vf_that_a_reset_helps() {
    let host = TestHost::new(&small());
    let vf = host.opened(1);
    let spec = FaultSpec {
        op: Op::Flr,
        nth: 1,
        count: 1,
        effect: Effect::Stuck,
    };
    vf.faults().add(&spec).expect("room for a fault");
    Other::start(&host, Role::Reset)
        .killed_once(|| vf.status().under_way.as_deref() == Some("reset"));
    vf.faults().clear(None);
    vf.reset().expect("reset");
    assert_eq!(vf.status().under_way, None);
    set(&vf, State::Stop);
}
