// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread of a vCPU: it runs, or it is parked and its state may be read and written.
//!
//! Parking is a handshake: the wish is noted, the vCPU is kicked out of the guest, and the thread says that it has let
//! go of the vCPU. Only then does [`Runner::parked`] give access to it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Error;

/// How long a vCPU may take to leave the guest.
const PARK_DEADLINE: Duration = Duration::from_secs(10);
/// Kicks are repeated this often, should one be consumed by a system call on the way.
const KICK_INTERVAL: Duration = Duration::from_millis(20);

/// A vCPU that a [`Runner`] drives.
pub trait Vcpu: Send + 'static {
    /// What it takes to kick it from another thread.
    type Kick: Send + Sync + 'static;

    /// Called once on the thread that will run it.
    fn enter_thread(&mut self);

    /// Runs guest code until a kick or the guest's end.
    fn run(&mut self) -> Exit;

    /// Makes `run` return soon, now or at its next call.
    fn kick(kick: &Self::Kick, thread: &JoinHandle<()>);
}

/// Why `run` returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Somebody wants it to.
    Kicked,
    /// The guest cannot go on: shutdown, triple fault, an instruction nobody can run.
    Ended(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Park,
    Run,
    Quit,
}

struct Control {
    wish: Wish,
    parked: bool,
    ended: Option<String>,
}

struct Shared<V> {
    control: Mutex<Control>,
    changed: Condvar,
    vcpu: Mutex<V>,
}

/// A vCPU and its thread; dropping it ends the thread, or leaves it behind when it does not park.
pub struct Runner<V: Vcpu> {
    shared: Arc<Shared<V>>,
    kick: V::Kick,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V: Vcpu> Runner<V> {
    /// Starts the thread with the vCPU parked.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn new(vcpu: V, kick: V::Kick) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            control: Mutex::new(Control {
                wish: Wish::Park,
                parked: false,
                ended: None,
            }),
            changed: Condvar::new(),
            vcpu: Mutex::new(vcpu),
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("vcpu0".into())
            .spawn(move || vcpu_loop(&of_thread))
            .map_err(|e| Error::Io("Starting the vCPU thread", e))?;
        Ok(Self {
            shared,
            kick,
            thread: Some(thread),
        })
    }

    /// Lets the guest run, unless it has ended.
    pub fn run(&self) {
        let mut control = lock(&self.shared.control);
        if control.ended.is_none() {
            control.wish = Wish::Run;
            self.shared.changed.notify_all();
        }
    }

    /// Parks the vCPU; when it already is, nothing happens.
    ///
    /// # Errors
    /// [`Error::Stuck`] when it does not leave the guest; it runs on.
    pub fn park(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PARK_DEADLINE;
        let mut control = lock(&self.shared.control);
        let before = control.wish;
        control.wish = Wish::Park;
        while !control.parked {
            if Instant::now() > deadline {
                control.wish = before;
                self.shared.changed.notify_all();
                return Err(Error::Stuck(PARK_DEADLINE.as_secs()));
            }
            self.kick();
            control = self
                .shared
                .changed
                .wait_timeout(control, KICK_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// Parks the vCPU for as long as `work` takes; it runs on afterwards if it ran before.
    ///
    /// # Errors
    /// [`Error::Stuck`], and what `work` answers.
    pub fn while_parked<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let ran = lock(&self.shared.control).wish == Wish::Run;
        self.park()?;
        let result = work();
        if ran {
            self.run();
        }
        result
    }

    /// The vCPU, parked by the caller before.
    pub fn parked(&self) -> MutexGuard<'_, V> {
        lock(&self.shared.vcpu)
    }

    /// Why the guest ended.
    pub fn ended(&self) -> Option<String> {
        lock(&self.shared.control).ended.clone()
    }

    fn kick(&self) {
        if let Some(thread) = &self.thread {
            V::kick(&self.kick, thread);
        }
    }
}

impl<V: Vcpu> Drop for Runner<V> {
    fn drop(&mut self) {
        // A thread that does not park would not quit either: better leaked than a VMM that hangs. Whoever parked it in vain
        // before has kept the guest's RAM for it.
        if self.park().is_ok() {
            lock(&self.shared.control).wish = Wish::Quit;
            self.shared.changed.notify_all();
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn vcpu_loop<V: Vcpu>(shared: &Shared<V>) {
    lock(&shared.vcpu).enter_thread();
    let mut control = lock(&shared.control);
    loop {
        match control.wish {
            Wish::Quit => return,
            Wish::Park => {
                control.parked = true;
                shared.changed.notify_all();
                control = shared
                    .changed
                    .wait(control)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            Wish::Run => {
                control.parked = false;
                drop(control);
                let exit = lock(&shared.vcpu).run();
                control = lock(&shared.control);
                if let Exit::Ended(reason) = exit {
                    tracing::error!(reason, "the guest has ended");
                    control.ended = Some(reason);
                    control.wish = Wish::Park;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    struct Counter {
        stop: Arc<AtomicBool>,
        count: Arc<AtomicU64>,
        end_at: u64,
    }

    impl Vcpu for Counter {
        type Kick = Arc<AtomicBool>;

        fn enter_thread(&mut self) {}

        fn run(&mut self) -> Exit {
            while !self.stop.swap(false, Ordering::SeqCst) {
                if self.count.fetch_add(1, Ordering::SeqCst) == self.end_at {
                    return Exit::Ended("counted".into());
                }
                std::thread::yield_now();
            }
            Exit::Kicked
        }

        fn kick(kick: &Self::Kick, _thread: &JoinHandle<()>) {
            kick.store(true, Ordering::SeqCst);
        }
    }

    fn counter(end_at: u64) -> (Runner<Counter>, Arc<AtomicU64>) {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let vcpu = Counter {
            stop: stop.clone(),
            count: count.clone(),
            end_at,
        };
        (Runner::new(vcpu, stop).unwrap(), count)
    }

    #[test]
    fn a_parked_vcpu_stands_still_and_goes_on_when_told() {
        let (runner, count) = counter(u64::MAX);
        runner.run();
        while count.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        runner.park().unwrap();
        let at_park = count.load(Ordering::SeqCst);
        drop(runner.parked());
        assert_eq!(count.load(Ordering::SeqCst), at_park);
        runner.run();
        while count.load(Ordering::SeqCst) == at_park {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_guest_that_ended_is_parked_and_says_why() {
        let (runner, count) = counter(3);
        runner.run();
        while runner.ended().is_none() {
            std::thread::yield_now();
        }
        runner.park().unwrap();
        runner.run();
        runner.park().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 4);
        assert_eq!(runner.ended().as_deref(), Some("counted"));
    }
}
