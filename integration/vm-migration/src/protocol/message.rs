// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests, responses and the roles of connections.

use std::io::{Read, Write};
use std::ops::RangeInclusive;

use anyhow::anyhow;

use super::MemoryRange;
use crate::MigratableError;

/// Bytes of a request and of a response.
const MESSAGE_SIZE: usize = 16;

/// The version of the protocol that a source announces.
pub const CURRENT_PROTOCOL_VERSION: u16 = 0;

/// The versions that a destination takes: the current one and the one before it.
pub fn supported_protocol_versions() -> RangeInclusive<u16> {
    CURRENT_PROTOCOL_VERSION.saturating_sub(1)..=CURRENT_PROTOCOL_VERSION
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Never sent.
    #[default]
    Invalid = 0,
    /// Begins a migration; the headers carry the source's protocol version.
    Start = 1,
    /// The VM's configuration.
    Config = 2,
    /// The state of the paused VM.
    State = 3,
    /// A table of ranges, then the memory in them.
    Memory = 4,
    /// The source lets go: run the VM.
    Complete = 5,
    /// The source keeps the VM.
    Abandon = 6,
    /// A file descriptor with guest memory.
    MemoryFd = 7,
    /// The source lets go: keep the VM paused.
    CompletePaused = 8,
    /// One range is wanted now.
    PageFault = 9,
}

impl Command {
    fn from_wire(value: u16) -> Result<Self, MigratableError> {
        Ok(match value {
            0 => Self::Invalid,
            1 => Self::Start,
            2 => Self::Config,
            3 => Self::State,
            4 => Self::Memory,
            5 => Self::Complete,
            6 => Self::Abandon,
            7 => Self::MemoryFd,
            8 => Self::CompletePaused,
            9 => Self::PageFault,
            _ => {
                return Err(MigratableError::MigrateReceive(anyhow!(
                    "The peer sent command {value}, which is unknown"
                )));
            }
        })
    }
}

/// What a further connection is for; its first two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u16)]
pub enum ConnectionRole {
    /// Never sent.
    #[default]
    Invalid = 0,
    /// Guest memory while the VM runs.
    PrecopyMemory = 1,
    /// Page faults.
    Fault = 2,
}

impl ConnectionRole {
    /// Writes the role.
    ///
    /// # Errors
    /// `MigrateSocket`.
    pub fn write_to(self, fd: &mut dyn Write) -> Result<(), MigratableError> {
        fd.write_all(&(self as u16).to_le_bytes())
            .map_err(MigratableError::MigrateSocket)
    }

    /// Reads a role.
    ///
    /// # Errors
    /// `MigrateSocket`; `MigrateReceive` for an unknown role.
    pub fn read_from(fd: &mut dyn Read) -> Result<ConnectionRole, MigratableError> {
        let mut bytes = [0; 2];
        fd.read_exact(&mut bytes)
            .map_err(MigratableError::MigrateSocket)?;
        Self::try_from(u16::from_le_bytes(bytes))
    }
}

impl TryFrom<u16> for ConnectionRole {
    type Error = MigratableError;

    fn try_from(value: u16) -> Result<Self, MigratableError> {
        [Self::Invalid, Self::PrecopyMemory, Self::Fault]
            .into_iter()
            .find(|role| *role as u16 == value)
            .ok_or_else(|| {
                MigratableError::MigrateReceive(anyhow!(
                    "The peer's connection has role {value}, which is unknown"
                ))
            })
    }
}

/// A request: u16 command, six bytes that belong to the command, u64 bytes of payload that follow.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Request {
    command: Command,
    command_headers: [u8; 6],
    length: u64,
}

const _: () = assert!(size_of::<Request>() == MESSAGE_SIZE);

impl Request {
    /// A request with `length` bytes of payload to follow.
    pub fn new(command: Command, length: u64) -> Self {
        Self {
            command,
            command_headers: [0; 6],
            length,
        }
    }

    /// `Start` of the current protocol version.
    pub fn start() -> Self {
        let [low, high] = CURRENT_PROTOCOL_VERSION.to_le_bytes();
        Self {
            command: Command::Start,
            command_headers: [low, high, 0, 0, 0, 0],
            length: 0,
        }
    }

    /// `State` with its payload's length.
    pub fn state(length: u64) -> Self {
        Self::new(Command::State, length)
    }

    /// `Config` with its payload's length.
    pub fn config(length: u64) -> Self {
        Self::new(Command::Config, length)
    }

    /// `Memory` with its table's length in bytes.
    pub fn memory(length: u64) -> Self {
        Self::new(Command::Memory, length)
    }

    /// `MemoryFd` with its payload's length.
    pub fn memory_fd(length: u64) -> Self {
        Self::new(Command::MemoryFd, length)
    }

    /// `Complete`: the destination runs the VM.
    pub fn complete() -> Self {
        Self::new(Command::Complete, 0)
    }

    /// `CompletePaused`: the destination keeps the VM paused.
    pub fn complete_paused() -> Self {
        Self::new(Command::CompletePaused, 0)
    }

    /// `Abandon`: the source keeps the VM.
    pub fn abandon() -> Self {
        Self::new(Command::Abandon, 0)
    }

    /// `PageFault`; one [`MemoryRange`] follows.
    pub fn page_fault() -> Self {
        Self::new(Command::PageFault, size_of::<MemoryRange>() as u64)
    }

    /// What is asked for.
    pub fn command(&self) -> Command {
        self.command
    }

    /// Bytes of payload that follow.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The six bytes that belong to the command.
    pub fn command_headers(&self) -> &[u8; 6] {
        &self.command_headers
    }

    /// The version that a `Start` announces.
    ///
    /// # Errors
    /// `MigrateReceive` for a version that is not supported.
    ///
    /// # Panics
    /// When the request is not a `Start`.
    pub fn sender_protocol_version(&self) -> Result<u16, MigratableError> {
        assert_eq!(
            self.command,
            Command::Start,
            "only Start carries a protocol version"
        );
        let version = u16::from_le_bytes([self.command_headers[0], self.command_headers[1]]);
        let supported = supported_protocol_versions();
        if supported.contains(&version) {
            Ok(version)
        } else {
            Err(MigratableError::MigrateReceive(anyhow!(
                "The source speaks protocol version {version}; this side knows {} to {}",
                supported.start(),
                supported.end()
            )))
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// `MigrateSocket`; `MigrateReceive` for an unknown command.
    pub fn read_from(fd: &mut dyn Read) -> Result<Request, MigratableError> {
        let (command, command_headers, length) = read_message(fd)?;
        Ok(Self {
            command: Command::from_wire(command)?,
            command_headers,
            length,
        })
    }

    /// Writes the request; its payload is the caller's to send.
    ///
    /// # Errors
    /// `MigrateSocket`.
    pub fn write_to(&self, fd: &mut dyn Write) -> Result<(), MigratableError> {
        write_message(fd, self.command as u16, self.command_headers, self.length)
    }
}

/// How a request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Never sent.
    #[default]
    Invalid = 0,
    /// Done.
    Ok = 1,
    /// Not done; the migration is over.
    Error = 2,
}

/// A response: u16 status, six unused bytes, u64 bytes of payload that follow.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Response {
    status: Status,
    padding: [u8; 6],
    length: u64,
}

const _: () = assert!(size_of::<Response>() == MESSAGE_SIZE);

impl Response {
    /// A response with `length` bytes of payload to follow.
    pub fn new(status: Status, length: u64) -> Self {
        Self {
            status,
            padding: [0; 6],
            length,
        }
    }

    /// `Ok` without payload.
    pub fn ok() -> Self {
        Self::new(Status::Ok, 0)
    }

    /// `Error` without payload.
    pub fn error() -> Self {
        Self::new(Status::Error, 0)
    }

    /// How the request went.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Bytes of payload that follow.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads a response.
    ///
    /// # Errors
    /// `MigrateSocket`; `MigrateReceive` for an unknown status.
    pub fn read_from(fd: &mut dyn Read) -> Result<Response, MigratableError> {
        let (status, padding, length) = read_message(fd)?;
        let status = match status {
            0 => Status::Invalid,
            1 => Status::Ok,
            2 => Status::Error,
            _ => {
                return Err(MigratableError::MigrateReceive(anyhow!(
                    "The peer sent status {status}, which is unknown"
                )));
            }
        };
        Ok(Self {
            status,
            padding,
            length,
        })
    }

    /// The response itself when its status is `Ok`, else `sender_error`: what this side was doing.
    ///
    /// # Errors
    /// `sender_error`.
    pub fn ok_or_fatal_error(
        self,
        sender_error: MigratableError,
    ) -> Result<Response, MigratableError> {
        match self.status {
            Status::Ok => Ok(self),
            Status::Invalid | Status::Error => Err(sender_error),
        }
    }

    /// Writes the response; its payload is the caller's to send.
    ///
    /// # Errors
    /// `MigrateSocket`.
    pub fn write_to(&self, fd: &mut dyn Write) -> Result<(), MigratableError> {
        write_message(fd, self.status as u16, self.padding, self.length)
    }
}

fn read_message(fd: &mut dyn Read) -> Result<(u16, [u8; 6], u64), MigratableError> {
    let mut bytes = [0; MESSAGE_SIZE];
    fd.read_exact(&mut bytes)
        .map_err(MigratableError::MigrateSocket)?;
    let [k0, k1, h0, h1, h2, h3, h4, h5, length @ ..] = bytes;
    Ok((
        u16::from_le_bytes([k0, k1]),
        [h0, h1, h2, h3, h4, h5],
        u64::from_le_bytes(length),
    ))
}

fn write_message(
    fd: &mut dyn Write,
    kind: u16,
    headers: [u8; 6],
    length: u64,
) -> Result<(), MigratableError> {
    let mut bytes = [0; MESSAGE_SIZE];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[2..8].copy_from_slice(&headers);
    bytes[8..].copy_from_slice(&length.to_le_bytes());
    fd.write_all(&bytes).map_err(MigratableError::MigrateSocket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn bytes_of(write: impl FnOnce(&mut Vec<u8>) -> Result<(), MigratableError>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_request_is_sixteen_bytes_command_headers_length() {
        let bytes = bytes_of(|out| Request::memory(0x0102_0304_0506_0708).write_to(out));
        assert_eq!(bytes, [4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn a_response_is_sixteen_bytes_status_padding_length() {
        assert_eq!(
            bytes_of(|out| Response::new(Status::Error, 3).write_to(out)),
            [2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn every_command_comes_back_as_it_was_sent() {
        for value in 0..=9 {
            let sent = Request::new(Command::from_wire(value).unwrap(), 7);
            let got =
                Request::read_from(&mut bytes_of(|out| sent.write_to(out)).as_slice()).unwrap();
            assert_eq!((got.command() as u16, got.length()), (value, 7));
        }
    }

    #[test]
    fn unknown_commands_statuses_and_roles_are_refused() {
        let mut bytes = [0; MESSAGE_SIZE];
        bytes[0] = 10;
        assert!(matches!(
            Request::read_from(&mut bytes.as_slice()),
            Err(MigratableError::MigrateReceive(_))
        ));
        bytes[0] = 3;
        assert!(matches!(
            Response::read_from(&mut bytes.as_slice()),
            Err(MigratableError::MigrateReceive(_))
        ));
        assert!(matches!(
            ConnectionRole::read_from(&mut [3, 0].as_slice()),
            Err(MigratableError::MigrateReceive(_))
        ));
    }

    #[test]
    fn a_message_that_ends_early_is_a_socket_error() {
        assert!(matches!(
            Request::read_from(&mut [1, 0, 0].as_slice()),
            Err(MigratableError::MigrateSocket(_))
        ));
    }

    #[test]
    fn start_carries_a_version_and_another_one_is_refused() {
        assert_eq!(
            Request::start().sender_protocol_version().unwrap(),
            CURRENT_PROTOCOL_VERSION
        );
        let mut bytes = bytes_of(|out| Request::start().write_to(out));
        bytes[2] = 0xff;
        let request = Request::read_from(&mut bytes.as_slice()).unwrap();
        assert!(matches!(
            request.sender_protocol_version(),
            Err(MigratableError::MigrateReceive(_))
        ));
    }

    #[test]
    fn a_refusal_turns_into_the_callers_error() {
        assert!(
            Response::ok()
                .ok_or_fatal_error(MigratableError::MigrateSend(anyhow!("sending")))
                .is_ok()
        );
        let refused =
            Response::error().ok_or_fatal_error(MigratableError::MigrateSend(anyhow!("sending")));
        assert!(matches!(refused, Err(MigratableError::MigrateSend(_))));
    }
}
