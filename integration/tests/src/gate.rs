// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A TCP connection in the middle that holds a migration where a test wants it.
//!
//! The source connects to [`Gate::endpoint`] and reaches the destination behind it. After so many bytes of its first connection, which
//! is the main one, the gate lets nothing more through until it is opened, so that the source is in the middle of what it was sending:
//! no sleep decides when.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often threads look whether they are still wanted.
const SLICE: Duration = Duration::from_millis(20);
/// How long a gate may be held or waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The gate; its threads end when it is dropped.
pub struct Gate {
    at: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    held: Mutex<bool>,
    open: Mutex<bool>,
    changed: Condvar,
    over: AtomicBool,
}

impl Gate {
    /// A gate in front of the address `to`, such as `127.0.0.1:4444`, that closes after `bytes`.
    ///
    /// # Errors
    /// When no port or thread can be had.
    pub fn new(to: &str, bytes: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let at = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let (to, theirs) = (to.to_owned(), shared.clone());
        let acceptor = std::thread::Builder::new()
            .name("gate".into())
            .spawn(move || accept(&listener, &to, bytes, &theirs))?;
        let acceptor = Some(acceptor);
        Ok(Self {
            at,
            shared,
            acceptor,
        })
    }

    /// Where the source is to connect to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("tcp:{}", self.at)
    }

    /// Waits until the bytes have gone through and no more do.
    ///
    /// # Panics
    /// When that takes longer than 30 s.
    #[track_caller]
    pub fn wait_until_held(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !*self
            .shared
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
        {
            assert!(Instant::now() < deadline, "nothing came to the gate");
            std::thread::sleep(SLICE);
        }
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        *self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.open();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Takes connections until the gate is over; only the first is held.
fn accept(listener: &TcpListener, to: &str, bytes: u64, shared: &Arc<Shared>) {
    let mut copies = Vec::new();
    let mut left = Some(bytes);
    while !shared.over.load(Ordering::Acquire) {
        let Ok((source, _)) = listener.accept() else {
            std::thread::sleep(SLICE);
            continue;
        };
        let both = || -> io::Result<[TcpStream; 4]> {
            source.set_nonblocking(false)?;
            let destination = TcpStream::connect(to)?;
            for stream in [&source, &destination] {
                stream.set_read_timeout(Some(SLICE))?;
                stream.set_nodelay(true)?;
            }
            let again = (source.try_clone()?, destination.try_clone()?);
            Ok([source, destination, again.1, again.0])
        };
        let Ok([from, there, back, here]) = both() else {
            continue;
        };
        let (held, free) = (shared.clone(), shared.clone());
        let budget = left.take();
        copies.push(std::thread::spawn(move || copy(from, there, budget, &held)));
        copies.push(std::thread::spawn(move || copy(back, here, None, &free)));
    }
    for copy in copies {
        let _ = copy.join();
    }
}

/// Copies one direction to its end, or until the gate is over.
fn copy(mut from: TcpStream, mut to: TcpStream, mut budget: Option<u64>, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    while !shared.over.load(Ordering::Acquire) {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        };
        if let Some(left) = &mut budget {
            *left = left.saturating_sub(read as u64);
            if *left == 0 {
                budget = None;
                shared.hold();
            }
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

impl Shared {
    fn hold(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = self
            .changed
            .wait_timeout_while(open, PATIENCE, |open| !*open);
        drop(closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stop_at_the_gate_and_all_of_them_arrive_after_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let gate = Gate::new(&to, 100_000).unwrap();
        let at = gate.endpoint();
        let sender = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(at.trim_start_matches("tcp:")).unwrap();
            stream.write_all(&[7; 300_000]).unwrap();
        });
        let (mut received, _) = listener.accept().unwrap();
        gate.wait_until_held();
        received.set_read_timeout(Some(5 * SLICE)).unwrap();
        let mut before = Vec::new();
        assert!(received.read_to_end(&mut before).is_err(), "it is held");
        assert!(before.len() < 200_000);
        gate.open();
        received.set_read_timeout(Some(PATIENCE)).unwrap();
        received.read_to_end(&mut before).unwrap();
        assert_eq!(before.len(), 300_000);
        sender.join().unwrap();
    }
}
