// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The floor: memcpy out, a socket, memcpy in, and nothing else.
//!
//! No state can move between two processes of one machine for less work over a socket, whoever moves it: each side copies
//! once between its memory and a buffer and once between the buffer and the kernel. The memory is a window that is gone through again and
//! again, far larger than any cache, so that a floor of 8 GiB does not need 16 GiB.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use xe_vfio_device::transfer::Connection;

use crate::usage;

const WINDOW: usize = 256 << 20;
const BUFFER: usize = 1 << 20;

/// The memory of both sides, touched once so that no run pays for its pages.
pub struct Floor {
    from: Vec<u8>,
    to: Vec<u8>,
}

/// What a floor took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// First byte copied to last byte arrived and told.
    pub wall: Duration,
    /// User and system time of both sides.
    pub cpu: Duration,
}

/// What the bytes go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// TCP over loopback.
    Tcp,
    /// A pair of unix sockets.
    Unix,
}

impl Floor {
    /// Takes the memory.
    pub fn new() -> Self {
        let from = (0..WINDOW as u64)
            .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8)
            .collect();
        Self {
            from,
            to: vec![1; WINDOW],
        }
    }

    /// Moves `bytes` in each of `streams` pairs of threads.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn run(&mut self, socket: Socket, bytes: u64, streams: usize) -> io::Result<Taken> {
        let mut pairs = Vec::new();
        for _ in 0..streams {
            pairs.push(connected(socket)?);
        }
        let share = WINDOW / streams / BUFFER * BUFFER;
        let Self { from, to } = self;
        let (from, to) = (from.chunks(share), to.chunks_mut(share));
        let (cpu, started) = (usage::cpu(), Instant::now());
        thread::scope(|scope| {
            let mut sides = Vec::new();
            for ((mut pair, from), to) in pairs.into_iter().zip(from).zip(to) {
                let named = || thread::Builder::new().name("floor".to_owned());
                let sending = move || send(&mut *pair.0, from, bytes);
                sides.push(named().spawn_scoped(scope, sending)?);
                let receiving = move || receive(&mut *pair.1, to, bytes);
                sides.push(named().spawn_scoped(scope, receiving)?);
            }
            for side in sides {
                side.join().expect("a side of the floor panicked")?;
            }
            Ok::<_, io::Error>(())
        })?;
        Ok(Taken {
            wall: started.elapsed(),
            cpu: usage::cpu().saturating_sub(cpu),
        })
    }
}

impl Default for Floor {
    fn default() -> Self {
        Self::new()
    }
}

trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}
type Pair = (Box<dyn Both>, Box<dyn Both>);

fn connected(socket: Socket) -> io::Result<Pair> {
    match socket {
        Socket::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let here = TcpStream::connect(listener.local_addr()?)?;
            let there = listener.accept()?.0;
            here.set_nodelay(true)?;
            there.set_nodelay(true)?;
            Ok((Box::new(here), Box::new(there)))
        }
        Socket::Unix => {
            let (here, there) = UnixStream::pair()?;
            here.widen();
            Ok((Box::new(here), Box::new(there)))
        }
    }
}

/// The lengths of the pieces of `bytes`, each with its place in a window.
fn pieces(bytes: u64, window: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = bytes.div_ceil(BUFFER as u64);
    (0..count).map(move |piece| {
        let left = bytes - piece * BUFFER as u64;
        let length = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
        ((piece as usize * BUFFER) % window, length)
    })
}

fn send(socket: &mut dyn Both, from: &[u8], bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    for (at, length) in pieces(bytes, from.len()) {
        let buffer = &mut buffer[..length];
        buffer.copy_from_slice(&from[at..at + length]);
        socket.write_all(buffer)?;
    }
    socket.read_exact(&mut [0])
}

fn receive(socket: &mut dyn Both, to: &mut [u8], bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    for (at, length) in pieces(bytes, to.len()) {
        let buffer = &mut buffer[..length];
        socket.read_exact(buffer)?;
        to[at..at + length].copy_from_slice(buffer);
    }
    socket.write_all(&[1])
}
