// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF in memory that behaves as the driver does, for unit tests, with faults and tripwires.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{DataStream, DeviceState, MigrationDevice, StateError, arcs};
use crate::uapi::{Errno, MigrationFlags, UapiError};
use crate::xe::{Gt, Header, PacketType};

/// A call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    Arc(DeviceState, DeviceState),
    Read,
    Write,
    Size,
    Reset,
}

/// The `nth` (from 0) such call fails; with `done`, what was asked for has happened all the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub call: Call,
    pub nth: usize,
    pub errno: i32,
    pub done: bool,
}

/// What the GPU holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gpu {
    Guest(Vec<u8>),
    Partial(Vec<u8>),
    Clean,
}

#[derive(Debug)]
pub(crate) struct Kernel {
    pub state: DeviceState,
    pub gpu: Gpu,
    /// Bytes that may be left unread when STOP_COPY is left.
    pub ring: usize,
    pub faults: Vec<Fault>,
    pub flags: u64,
    pub log: Vec<DeviceState>,
    pub resets: usize,
    pub tripwire: Vec<String>,
    /// Reads give at most this.
    pub read_most: usize,
    /// Reads and writes wait this long.
    pub delay: std::time::Duration,
    /// From this byte on a read waits until it is interrupted.
    pub stuck_at: Option<usize>,
    calls: Vec<Call>,
    read_at: usize,
    dead: bool,
    open: usize,
    epoch: usize,
}

/// A handle on the VF; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FakeVf(Arc<Mutex<Kernel>>);

#[derive(Debug)]
pub(crate) struct FakeStream {
    vf: FakeVf,
    epoch: usize,
}

/// A packet stream that a parser accepts: descriptor, one GT, `vram` bytes, trailer.
pub(crate) fn packets(vram: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut packet = |packet_type, payload: &[u8]| {
        let header = Header {
            packet_type,
            gt: Gt { tile: 0, id: 0 },
            offset: 0,
            size: payload.len() as u64,
        };
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(payload);
    };
    let mut klvs = Vec::new();
    for (key, value) in [(0xf001u32, 0xe211u32), (0xf002, 0)] {
        klvs.extend_from_slice(&(key << 16 | 1).to_le_bytes());
        klvs.extend_from_slice(&value.to_le_bytes());
    }
    packet(PacketType::Descriptor, &klvs);
    packet(PacketType::Guc, &[7; 64]);
    packet(PacketType::Ggtt, &[1; 64]);
    packet(PacketType::Mmio, &[2; 16]);
    let content: Vec<u8> = (0..vram)
        .map(|i| (i as u32).wrapping_mul(0x9e37_79b9).to_le_bytes()[3])
        .collect();
    packet(PacketType::Vram, &content);
    packet(PacketType::Trailer, &[]);
    bytes
}

impl FakeVf {
    pub(crate) fn new(content: Vec<u8>, ring: usize) -> Self {
        Self(Arc::new(Mutex::new(Kernel {
            state: DeviceState::Running,
            gpu: Gpu::Guest(content),
            ring,
            faults: Vec::new(),
            flags: 3,
            log: Vec::new(),
            resets: 0,
            tripwire: Vec::new(),
            read_most: usize::MAX,
            delay: std::time::Duration::ZERO,
            stuck_at: None,
            calls: Vec::new(),
            read_at: 0,
            dead: false,
            open: 0,
            epoch: 0,
        })))
    }

    pub(crate) fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    pub(crate) fn with_fault(self, call: Call, nth: usize, errno: i32) -> Self {
        self.kernel().faults.push(Fault {
            call,
            nth,
            errno,
            done: false,
        });
        self
    }

    #[track_caller]
    pub(crate) fn assert_clean_use(&self) {
        let kernel = self.kernel();
        assert!(kernel.tripwire.is_empty(), "{:?}", kernel.tripwire);
    }
}

impl Kernel {
    /// What the guest had on the GPU.
    #[track_caller]
    pub(crate) fn gpu_bytes(&self) -> Vec<u8> {
        match &self.gpu {
            Gpu::Guest(content) => content.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn fault(&mut self, call: Call) -> Option<Fault> {
        let nth = self
            .calls
            .iter()
            .filter(|earlier| **earlier == call)
            .count();
        self.calls.push(call);
        self.faults
            .iter()
            .copied()
            .find(|fault| fault.call == call && fault.nth == nth)
    }

    fn arc(&mut self, to: DeviceState) -> Result<bool, i32> {
        let from = self.state;
        if !arcs::is_arc(from, to) {
            self.tripwire
                .push(format!("SET from {from} to {to} is no arc"));
        }
        if matches!(from, DeviceState::StopCopy | DeviceState::Resuming) && self.open > 0 {
            self.tripwire
                .push(format!("a data fd is open while {from} is left"));
        }
        let fault = self.fault(Call::Arc(from, to));
        if let Some(fault) = fault.filter(|fault| !fault.done) {
            // A failed entry that got as far as the state itself is EMFILE's.
            if fault.errno == libc::EMFILE
                && matches!(to, DeviceState::StopCopy | DeviceState::Resuming)
            {
                self.enter(to);
            }
            self.dead |= matches!(from, DeviceState::StopCopy | DeviceState::Resuming);
            return Err(fault.errno);
        }
        match (from, &self.gpu) {
            (DeviceState::StopCopy, Gpu::Guest(content))
                if content.len() - self.read_at > self.ring =>
            {
                self.dead = true;
                return Err(libc::EIO);
            }
            (DeviceState::Resuming, Gpu::Partial(content)) => {
                self.dead = true;
                let trailer = Header {
                    packet_type: PacketType::Trailer,
                    gt: Gt { tile: 0, id: 0 },
                    offset: 0,
                    size: 0,
                };
                if !content.ends_with(&trailer.encode()) {
                    return Err(libc::ETIMEDOUT);
                }
                self.gpu = Gpu::Guest(content.clone());
            }
            _ => {}
        }
        self.enter(to);
        match fault {
            Some(fault) => Err(fault.errno),
            None => Ok(matches!(to, DeviceState::StopCopy | DeviceState::Resuming)),
        }
    }

    fn enter(&mut self, to: DeviceState) {
        match to {
            DeviceState::StopCopy => (self.read_at, self.dead) = (0, false),
            DeviceState::Resuming => (self.gpu, self.dead) = (Gpu::Partial(Vec::new()), false),
            DeviceState::Running if matches!(self.gpu, Gpu::Partial(_)) => {
                self.tripwire.push("a half-loaded VF runs".to_owned());
            }
            _ => {}
        }
        self.epoch += 1;
        self.log.push(to);
        self.state = to;
    }
}

impl MigrationDevice for FakeVf {
    type Stream = FakeStream;

    fn flags(&self) -> Result<MigrationFlags, UapiError> {
        match self.kernel().flags {
            0 => Err(UapiError::new("FEATURE MIGRATION", Errno(libc::ENOTTY))),
            flags => Ok(MigrationFlags(flags)),
        }
    }

    fn state(&self) -> Result<DeviceState, StateError> {
        let mut kernel = self.kernel();
        match kernel.fault(Call::Get) {
            Some(Fault { errno: 0, .. }) => DeviceState::try_from(0).map_err(StateError::from),
            Some(fault) => Err(UapiError::new("GET", Errno(fault.errno)).into()),
            None => Ok(kernel.state),
        }
    }

    fn set_state(&self, asked: DeviceState) -> Result<Option<FakeStream>, UapiError> {
        let mut kernel = self.kernel();
        let stream = kernel
            .arc(asked)
            .map_err(|errno| UapiError::new("SET", Errno(errno)).asked(asked))?;
        if !stream {
            return Ok(None);
        }
        kernel.open += 1;
        Ok(Some(FakeStream {
            vf: self.clone(),
            epoch: kernel.epoch,
        }))
    }

    fn stop_copy_length(&self) -> Result<u64, UapiError> {
        let mut kernel = self.kernel();
        if let Some(fault) = kernel.fault(Call::Size) {
            return Err(UapiError::new("SIZE", Errno(fault.errno)));
        }
        Ok(match &kernel.gpu {
            Gpu::Guest(content) | Gpu::Partial(content) => content.len() as u64 - 64,
            Gpu::Clean => 0,
        })
    }

    fn reset(&self) -> Result<(), UapiError> {
        let mut kernel = self.kernel();
        if let Some(fault) = kernel.fault(Call::Reset) {
            return Err(UapiError::new("RESET", Errno(fault.errno)));
        }
        if kernel.open > 0 {
            kernel
                .tripwire
                .push("a data fd is open while the VF is reset".to_owned());
        }
        kernel.gpu = Gpu::Clean;
        kernel.resets += 1;
        kernel.enter(DeviceState::Running);
        Ok(())
    }

    fn region_size(&self, index: u32) -> Result<u64, UapiError> {
        Ok(if index == 0 { 8 << 20 } else { 0 })
    }
}

impl DataStream for FakeStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UapiError> {
        let fail = |errno| Err(UapiError::new("read", Errno(errno)));
        let mut kernel = self.vf.kernel();
        if kernel.dead || kernel.epoch != self.epoch {
            return fail(libc::ENODEV);
        }
        if let Some(fault) = kernel.fault(Call::Read) {
            return fail(fault.errno);
        }
        let delay = kernel.delay;
        let stuck = kernel.stuck_at.is_some_and(|at| kernel.read_at >= at);
        let at = kernel.read_at;
        let Gpu::Guest(content) = &kernel.gpu else {
            return Ok(0);
        };
        let most = buffer.len().min(content.len() - at).min(kernel.read_most);
        buffer[..most].copy_from_slice(&content[at..at + most]);
        kernel.read_at += most;
        drop(kernel);
        if stuck {
            // As a reader stalled in the PF: nothing but a signal gets it out.
            let (mut silent, _peer) =
                std::os::unix::net::UnixStream::pair().expect("a socket pair");
            silent
                .set_read_timeout(Some(std::time::Duration::from_secs(20)))
                .expect("a timeout");
            let error = std::io::Read::read(&mut silent, &mut [0]).expect_err("nobody writes");
            return fail(error.raw_os_error().unwrap_or(libc::EIO));
        }
        std::thread::sleep(delay);
        Ok(most)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, UapiError> {
        let fail = |errno| Err(UapiError::new("write", Errno(errno)));
        let mut kernel = self.vf.kernel();
        if kernel.dead || kernel.epoch != self.epoch {
            return fail(libc::ENODEV);
        }
        if let Some(fault) = kernel.fault(Call::Write) {
            return fail(fault.errno);
        }
        let most = bytes.len().min(1000);
        let Gpu::Partial(content) = &mut kernel.gpu else {
            return fail(libc::EBADF);
        };
        content.extend_from_slice(&bytes[..most]);
        let delay = kernel.delay;
        drop(kernel);
        std::thread::sleep(delay);
        Ok(most)
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        self.vf.kernel().open -= 1;
    }
}
