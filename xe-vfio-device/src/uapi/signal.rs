// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(unsafe_code)] // signal masks, dispositions and tgkill(2)
//! Signals around a data fd.
//!
//! A signal that interrupts a read of the data fd makes the kernel drop bytes it has already copied, and the save with them.
//! So the thread that reads blocks all signals but one, the [`InterruptSignal`], which nobody sends but the watchdog of a
//! transfer: a reader stalled in the kernel makes every SET and RESET wait behind it, and a signal is the only way to get it out.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Errno, UapiError};

/// A signal that has a handler and interrupts system calls (no SA_RESTART). Choose one that the process does not use otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterruptSignal(libc::c_int);

extern "C" fn on_signal(_: libc::c_int) {}

impl InterruptSignal {
    /// The last real-time signal but one.
    ///
    /// # Errors
    /// As [`InterruptSignal::new`].
    pub fn default_signal() -> Result<Self, UapiError> {
        Self::new(libc::SIGRTMAX() - 1)
    }

    /// Makes `number` an interrupt signal of this process. A handler that the VMM has installed stays, as long as it has no
    /// SA_RESTART; without one, a handler that does nothing is installed.
    ///
    /// # Errors
    /// EINVAL for no signal or one that takes no handler, EBUSY when its handler restarts system calls.
    pub fn new(number: libc::c_int) -> Result<Self, UapiError> {
        const CALL: &str = "sigaction() for the interrupt signal";
        let mut old = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: no new action is given and the old one is written to memory of its size.
        if unsafe { libc::sigaction(number, ptr::null(), old.as_mut_ptr()) } < 0 {
            return Err(UapiError::last(CALL));
        }
        // SAFETY: sigaction succeeded and has filled it.
        let old = unsafe { old.assume_init() };
        if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN {
            let restarts = old.sa_flags & libc::SA_RESTART != 0;
            return if restarts {
                Err(UapiError::new(CALL, Errno(libc::EBUSY)))
            } else {
                Ok(Self(number))
            };
        }
        // SAFETY: all-zero is a valid sigaction (SIG_DFL, no flags, empty mask).
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing, so it is async-signal-safe, and it lives as long as the program.
        if unsafe { libc::sigaction(number, &raw const action, ptr::null_mut()) } < 0 {
            return Err(UapiError::last(CALL));
        }
        Ok(Self(number))
    }

    /// The signal's number.
    pub fn number(self) -> libc::c_int {
        self.0
    }
}

/// Blocks signals on the thread that made it until it is dropped there.
#[derive(Debug)]
pub struct SignalMask {
    previous: libc::sigset_t,
    target: Option<Arc<Mutex<Option<libc::pid_t>>>>,
    signal: Option<InterruptSignal>,
    // A mask belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl SignalMask {
    /// Blocks all signals but `open` on this thread; SIGKILL, SIGSTOP and faults cannot be blocked.
    ///
    /// # Errors
    /// When pthread_sigmask(3) fails.
    pub fn block_all_but(open: Option<InterruptSignal>) -> Result<Self, UapiError> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut previous = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset and sigdelset initialize and change the set they are given; pthread_sigmask reads it and writes
        // the thread's mask to `previous`.
        let previous = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            for fault in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGTRAP,
                libc::SIGSYS,
            ] {
                libc::sigdelset(set.as_mut_ptr(), fault);
            }
            if let Some(InterruptSignal(number)) = open {
                libc::sigdelset(set.as_mut_ptr(), number);
            }
            let result =
                libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), previous.as_mut_ptr());
            if result != 0 {
                return Err(UapiError::new("pthread_sigmask()", Errno(result)));
            }
            previous.assume_init()
        };
        // SAFETY: gettid has no preconditions.
        let this = unsafe { libc::gettid() };
        let target = open.map(|_| Arc::new(Mutex::new(Some(this))));
        Ok(Self {
            previous,
            target,
            signal: open,
            _not_send: PhantomData,
        })
    }

    /// A handle that interrupts this thread with the open signal; `None` when none was left open.
    pub fn interrupt(&self) -> Option<ThreadInterrupt> {
        Some(ThreadInterrupt {
            target: self.target.clone()?,
            signal: self.signal?,
        })
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        if let Some(target) = &self.target {
            *target.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        // SAFETY: `previous` is the mask that pthread_sigmask gave, and no old mask is asked for.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.previous, ptr::null_mut())
        };
    }
}

/// Interrupts the thread of a [`SignalMask`] in whatever system call it is; does nothing once the mask is gone.
#[derive(Debug, Clone)]
pub struct ThreadInterrupt {
    target: Arc<Mutex<Option<libc::pid_t>>>,
    signal: InterruptSignal,
}

impl ThreadInterrupt {
    /// Sends the signal. A thread that is just about to enter its call misses it, so repeat until the thread answers.
    pub fn interrupt(&self) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = *target {
            // By thread id, not pthread_t: a mask that was forgotten may outlive its thread, and then the kernel answers ESRCH,
            // or another thread of this process runs a handler that does nothing.
            // SAFETY: tgkill takes numbers only, and the signal has a handler in this process.
            unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, self.signal.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    /// Reads once from a socket that stays silent, interrupted by `signal` if the mask lets it through.
    fn read_under(
        open: Option<InterruptSignal>,
        signal: libc::c_int,
        wait: Duration,
    ) -> std::io::Result<usize> {
        let (mut here, _there) = UnixStream::pair().unwrap();
        let (ready, started) = mpsc::channel();
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let _mask = SignalMask::block_all_but(open).unwrap();
                // SAFETY: pthread_self has no preconditions.
                ready.send(unsafe { libc::pthread_self() }).unwrap();
                here.set_read_timeout(Some(wait)).unwrap();
                here.read(&mut [0; 1])
            });
            let thread = started.recv().unwrap();
            let end = Instant::now() + wait / 2;
            while Instant::now() < end && !reader.is_finished() {
                // SAFETY: the thread is joined below, so it has not been reaped.
                unsafe { libc::pthread_kill(thread, signal) };
                std::thread::sleep(Duration::from_millis(5));
            }
            reader.join().unwrap()
        })
    }

    #[test]
    fn the_open_signal_interrupts_and_others_do_not() {
        let open = InterruptSignal::new(libc::SIGRTMAX() - 2).unwrap();
        let other = InterruptSignal::new(libc::SIGRTMAX() - 3).unwrap();
        let wait = Duration::from_millis(400);
        assert_eq!(
            read_under(Some(open), open.number(), 10 * wait)
                .unwrap_err()
                .kind(),
            ErrorKind::Interrupted
        );
        assert_eq!(
            read_under(Some(open), other.number(), wait)
                .unwrap_err()
                .kind(),
            ErrorKind::WouldBlock
        );
        assert_eq!(
            read_under(None, open.number(), wait).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    }

    #[test]
    fn an_interrupt_after_the_mask_is_gone_does_nothing() {
        let signal = InterruptSignal::new(libc::SIGRTMAX() - 2).unwrap();
        let mask = SignalMask::block_all_but(Some(signal)).unwrap();
        let interrupt = mask.interrupt().unwrap();
        drop(mask);
        interrupt.interrupt();
        assert!(interrupt.target.lock().unwrap().is_none());
    }

    #[test]
    fn an_interrupt_after_a_forgotten_mask_and_its_thread_does_no_harm() {
        let signal = InterruptSignal::new(libc::SIGRTMAX() - 2).unwrap();
        let ended = std::thread::spawn(move || {
            let mask = SignalMask::block_all_but(Some(signal)).unwrap();
            let interrupt = mask.interrupt().unwrap();
            std::mem::forget(mask);
            interrupt
        });
        ended.join().unwrap().interrupt();
    }

    #[test]
    fn no_handler_can_be_had_for_sigkill() {
        assert_eq!(
            InterruptSignal::new(libc::SIGKILL).unwrap_err().errno,
            Errno(libc::EINVAL)
        );
    }

    #[test]
    fn a_handler_that_restarts_calls_is_refused() {
        let number = libc::SIGRTMAX() - 4;
        // SAFETY: all-zero is a valid sigaction, and the handler does nothing.
        let result = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(number, &raw const action, ptr::null_mut())
        };
        assert_eq!(result, 0);
        assert_eq!(
            InterruptSignal::new(number).unwrap_err().errno,
            Errno(libc::EBUSY)
        );
    }
}
