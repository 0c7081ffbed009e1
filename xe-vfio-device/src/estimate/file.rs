// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The history in a file: JSON with a version, times in microseconds, sizes in bytes.
//!
//! The file is anybody's until each of its fields has been looked at. One that is broken in any way is no history at all: estimates
//! begin anew, and the next [`History::append`] replaces it. Several VMMs may have the same file: who reads or writes locks it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::history::MOST;
use super::{Cost, Finished, History, Hosts, Moved, Route, Side};

const FORMAT: &str = "xe-vfio-history";
const VERSION: u32 = 1;
/// Most bytes of a file: 64 records of 64 devices take less.
const SIZE_MAX: u64 = 4 << 20;
const DEVICES_MAX: usize = 64;
const NAME_MAX: usize = 255;
/// Most bytes of anything: a petabyte.
const BYTES_MAX: u64 = 1 << 50;
/// Longest time: a week.
const TIME_MAX: u64 = 7 * 24 * 3600 * 1_000_000;
const CORES_MAX: u32 = 1 << 16;
/// How long another VMM's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A history that cannot be read or written.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file.
    #[error("The history {path} cannot be {doing}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// More bytes than a history has.
    #[error("The history {0} has more than {SIZE_MAX} bytes: it is something else")]
    TooLarge(PathBuf),
    /// No JSON, or not this JSON.
    #[error("The history {path} cannot be understood and is not used")]
    Syntax {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A file of another kind or version.
    #[error(
        "The history {path} is of format {format:?} version {version}, this build reads {FORMAT:?} version {VERSION}"
    )]
    Format {
        /// Where.
        path: PathBuf,
        /// What it says it is.
        format: String,
        /// And of which version.
        version: u32,
    },
    /// A field that cannot be.
    #[error("The history {path} is not used: {field} of record {record} cannot be")]
    Field {
        /// Where.
        path: PathBuf,
        /// Which record, from 0.
        record: usize,
        /// Which field.
        field: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    route: String,
    hosts: String,
    cores: u32,
    memory_bytes: u64,
    memory_bytes_per_second: Option<u64>,
    streaming_us: u64,
    around_us: u64,
    devices: Vec<Device>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    device: String,
    side: String,
    state_bytes: u64,
    zero_bytes: u64,
    wire_bytes: u64,
    enter_us: u64,
    stream_us: u64,
    confirm_us: u64,
    in_device_us: u64,
    in_frames_us: u64,
    /// Only where something was compressed.
    #[serde(default, skip_serializing_if = "is_zero")]
    in_codec_us: u64,
    in_link_us: u64,
    far_device_us: Option<u64>,
}

impl History {
    /// Reads what is there: nothing known, and no error, where there is no file yet; nothing known, and why, where the file is of no use.
    pub fn open(path: &Path) -> (Self, Option<HistoryError>) {
        match read(path) {
            Ok(history) => (history, None),
            Err(error) => (Self::default(), Some(error)),
        }
    }

    /// Adds a transfer to what the file has, or begins it anew when it is of no use; answers what it has then. What was wrong with it is
    /// answered too.
    ///
    /// # Errors
    /// [`HistoryError::Io`], also when another process does not let go of the file for a second.
    pub fn append(
        path: &Path,
        finished: Finished,
    ) -> Result<(Self, Option<HistoryError>), HistoryError> {
        let failed = |source| io_error(path, "written", source);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        patiently(|| file.try_lock()).map_err(failed)?;
        let (mut history, broken) = match contents(path, &file) {
            Ok(history) => (history, None),
            Err(error) => (Self::default(), Some(error)),
        };
        history.push(finished);
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            records: history.oldest_first().map(Record::from).collect(),
        };
        let text = serde_json::to_vec_pretty(&document).map_err(|error| failed(error.into()))?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&text))
            .map_err(failed)?;
        Ok((history, broken))
    }
}

fn io_error(path: &Path, doing: &'static str, source: io::Error) -> HistoryError {
    HistoryError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

fn patiently(mut lock: impl FnMut() -> Result<(), TryLockError>) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn read(path: &Path) -> Result<History, HistoryError> {
    let failed = |source| io_error(path, "read", source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
        Err(error) => return Err(failed(error)),
    };
    patiently(|| file.try_lock_shared()).map_err(failed)?;
    contents(path, &file)
}

/// What a file has; nothing when it is new.
fn contents(path: &Path, file: &File) -> Result<History, HistoryError> {
    let mut text = Vec::new();
    file.take(SIZE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|source| io_error(path, "read", source))?;
    if text.is_empty() {
        return Ok(History::default());
    }
    if text.len() as u64 > SIZE_MAX {
        return Err(HistoryError::TooLarge(path.to_owned()));
    }
    parse(path, &text)
}

fn parse(path: &Path, text: &[u8]) -> Result<History, HistoryError> {
    let syntax = |source| HistoryError::Syntax {
        path: path.to_owned(),
        source,
    };
    // A later version may have other records.
    let Header { format, version } = serde_json::from_slice(text).map_err(syntax)?;
    if format != FORMAT || version != VERSION {
        return Err(HistoryError::Format {
            path: path.to_owned(),
            format,
            version,
        });
    }
    let document: Document = serde_json::from_slice(text).map_err(syntax)?;
    let field = |record, field| HistoryError::Field {
        path: path.to_owned(),
        record,
        field,
    };
    if document.records.len() > MOST {
        return Err(field(MOST, "the number"));
    }
    let mut history = History::default();
    for (index, record) in document.records.into_iter().enumerate() {
        history.push(record.checked().map_err(|name| field(index, name))?);
    }
    Ok(history)
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
fn is_zero(micros: &u64) -> bool {
    *micros == 0
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros())
        .unwrap_or(u64::MAX)
        .min(TIME_MAX)
}

fn time(micros: u64, field: &'static str) -> Result<Duration, &'static str> {
    (micros <= TIME_MAX)
        .then(|| Duration::from_micros(micros))
        .ok_or(field)
}

fn bytes(bytes: u64, field: &'static str) -> Result<u64, &'static str> {
    (bytes <= BYTES_MAX).then_some(bytes).ok_or(field)
}

impl From<&Finished> for Record {
    fn from(finished: &Finished) -> Self {
        let rate = finished.memory_cost.and_then(Cost::rate);
        Self {
            route: finished.route.name().to_owned(),
            hosts: finished.hosts.name().to_owned(),
            cores: finished.cores.clamp(1, CORES_MAX),
            memory_bytes: finished.memory_bytes.min(BYTES_MAX),
            memory_bytes_per_second: rate.map(|rate| (rate.round() as u64).clamp(1, BYTES_MAX)),
            streaming_us: micros(finished.streaming),
            around_us: micros(finished.around),
            devices: finished
                .devices
                .iter()
                .take(DEVICES_MAX)
                .map(Device::from)
                .collect(),
        }
    }
}

impl Record {
    fn checked(self) -> Result<Finished, &'static str> {
        let named = |name: &str| Route::ALL.into_iter().find(|route| route.name() == name);
        let hosts = [Hosts::Same, Hosts::Apart, Hosts::Unknown];
        if !(1..=CORES_MAX).contains(&self.cores) {
            return Err("cores");
        }
        if self.devices.is_empty() || self.devices.len() > DEVICES_MAX {
            return Err("devices");
        }
        let memory_cost = match self.memory_bytes_per_second {
            None => None,
            Some(rate) => Some(
                Cost::per_second(bytes(rate, "memory_bytes_per_second")? as f64)
                    .ok_or("memory_bytes_per_second")?,
            ),
        };
        Ok(Finished {
            route: named(&self.route).ok_or("route")?,
            hosts: hosts
                .into_iter()
                .find(|hosts| hosts.name() == self.hosts)
                .ok_or("hosts")?,
            cores: self.cores,
            devices: self
                .devices
                .into_iter()
                .map(Device::checked)
                .collect::<Result<_, _>>()?,
            memory_bytes: bytes(self.memory_bytes, "memory_bytes")?,
            memory_cost,
            streaming: time(self.streaming_us, "streaming_us")?,
            around: time(self.around_us, "around_us")?,
        })
    }
}

impl From<&Moved> for Device {
    fn from(moved: &Moved) -> Self {
        let state_bytes = moved.state_bytes.min(BYTES_MAX);
        Self {
            device: moved.device.clone(),
            side: match moved.side {
                Side::Save => "save".to_owned(),
                Side::Load => "load".to_owned(),
            },
            state_bytes,
            zero_bytes: moved.zero_bytes.min(state_bytes),
            wire_bytes: moved.wire_bytes.min(BYTES_MAX),
            enter_us: micros(moved.enter),
            stream_us: micros(moved.stream),
            confirm_us: micros(moved.confirm),
            in_device_us: micros(moved.in_device),
            in_frames_us: micros(moved.in_frames),
            in_codec_us: micros(moved.in_codec),
            in_link_us: micros(moved.in_link),
            far_device_us: moved.far_device.map(micros),
        }
    }
}

impl Device {
    fn checked(self) -> Result<Moved, &'static str> {
        let printable = |name: &str| !name.chars().any(char::is_control);
        if self.device.is_empty() || self.device.len() > NAME_MAX || !printable(&self.device) {
            return Err("device");
        }
        let state_bytes = bytes(self.state_bytes, "state_bytes")?;
        if self.zero_bytes > state_bytes {
            return Err("zero_bytes");
        }
        Ok(Moved {
            device: self.device,
            side: match self.side.as_str() {
                "save" => Side::Save,
                "load" => Side::Load,
                _ => return Err("side"),
            },
            state_bytes,
            zero_bytes: self.zero_bytes,
            wire_bytes: bytes(self.wire_bytes, "wire_bytes")?,
            enter: time(self.enter_us, "enter_us")?,
            stream: time(self.stream_us, "stream_us")?,
            confirm: time(self.confirm_us, "confirm_us")?,
            in_device: time(self.in_device_us, "in_device_us")?,
            in_frames: time(self.in_frames_us, "in_frames_us")?,
            in_codec: time(self.in_codec_us, "in_codec_us")?,
            in_link: time(self.in_link_us, "in_link_us")?,
            far_device: self
                .far_device_us
                .map(|micros| time(micros, "far_device_us"))
                .transpose()?,
        })
    }
}
