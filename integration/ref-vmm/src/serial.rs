// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A serial port at 0x3f8 that can only print: transmit register and line status, no receiver, no interrupts.
//!
//! Its only state is where the bytes go, which is the host's business, so nothing of it migrates.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

/// First I/O port.
pub const BASE: u16 = 0x3f8;
/// Number of ports.
pub const PORTS: u16 = 8;
const TRANSMIT: u16 = 0;
const LINE_STATUS: u16 = 5;
/// Transmitter and its holding register are empty: the guest never has to wait.
const LSR_IDLE: u8 = 0x60;

/// Where the guest's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Appended to a file.
    File(PathBuf),
    /// The VMM's standard output.
    Tty,
    /// Dropped.
    Null,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("file=")) {
            ("tty", _) => Ok(Self::Tty),
            ("null", _) => Ok(Self::Null),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(format!("{text:?} is none of file=PATH, tty, null")),
        }
    }
}

/// The device model.
pub struct Serial {
    output: Mutex<Output>,
}

enum Output {
    File(File),
    Tty,
    Null,
}

impl Serial {
    /// Opens the target.
    ///
    /// # Errors
    /// The system's reason when the file cannot be opened for appending.
    pub fn new(target: &Target) -> io::Result<Self> {
        let output = match target {
            Target::File(path) => {
                Output::File(OpenOptions::new().create(true).append(true).open(path)?)
            }
            Target::Tty => Output::Tty,
            Target::Null => Output::Null,
        };
        Ok(Self {
            output: Mutex::new(output),
        })
    }

    fn transmit(&self, byte: u8) {
        let mut output = self
            .output
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // A guest's log must not stop the guest: a full disk loses output, as a cut cable would.
        let _ = match &mut *output {
            Output::File(file) => file.write_all(&[byte]),
            Output::Tty => io::stdout().write_all(&[byte]).and_then(|()| {
                if byte == b'\n' {
                    io::stdout().flush()
                } else {
                    Ok(())
                }
            }),
            Output::Null => Ok(()),
        };
    }
}

impl DevicePio for Serial {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
        if offset == LINE_STATUS
            && let Some(first) = data.first_mut()
        {
            *first = LSR_IDLE;
        }
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if offset == TRANSMIT
            && let [byte] = data
        {
            self.transmit(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_written_to_the_transmit_register_reach_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let serial = Serial::new(&Target::File(file.path().into())).unwrap();
        for byte in b"ok\n" {
            serial.pio_write(PioAddress(BASE), TRANSMIT, &[*byte]);
        }
        serial.pio_write(PioAddress(BASE), 3, b"x");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"ok\n");
    }

    #[test]
    fn the_guest_always_finds_the_transmitter_idle() {
        let serial = Serial::new(&Target::Null).unwrap();
        let mut status = [0];
        serial.pio_read(PioAddress(BASE), LINE_STATUS, &mut status);
        assert_eq!(status, [LSR_IDLE]);
    }

    #[test]
    fn an_unknown_target_is_named_in_the_error() {
        assert!("file=".parse::<Target>().unwrap_err().contains("file="));
        assert_eq!("tty".parse::<Target>(), Ok(Target::Tty));
    }
}
