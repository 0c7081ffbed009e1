// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest says on its serial port, as typed events.
//!
//! [`Parser`] takes the bytes as they come, in any pieces, and answers an event for each complete line. It never fails
//! and never holds more than [`LINE_MAX`] bytes: what is not the guest's own is [`Event::Other`].

use std::fmt;
use std::str::FromStr;

/// Longest line kept; of a longer one, the rest is dropped.
pub const LINE_MAX: usize = 256;

/// Which check found the discrepancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// BAR0 does not begin with the VF's ID.
    Id,
    /// No MSI-X capability.
    Msix,
    /// The MSI-X table is not in BAR0.
    MsixBar,
    /// Fewer GGTT entries than the guest needs.
    GgttQuota,
    /// The VF stopped its ring and gives this status.
    Status,
    /// `RING_HEAD` is behind a completed job or ahead of the last one submitted.
    Head,
    /// The scratch register differs from what was written.
    Scratch,
    /// The completion record is another job's.
    Sequence,
    /// The completion record's end does not belong to its beginning.
    NotSequence,
    /// The accumulator is not the one the jobs so far lead to.
    Accumulator,
    /// VRAM read through BAR0 is not what the job wrote.
    Vram,
    /// The block that the VF copied from VRAM is not what the old job wrote.
    Destination,
    /// The sum in the record is not that of the block.
    Sum,
    /// A record that had been verified has changed since.
    OldSequence,
    /// A block that had been verified has changed since.
    OldSum,
    /// The processor's number of the round is not the one in memory.
    Counter,
    /// A page is not as its last round left it.
    Page,
    /// Configuration space has changed.
    Configuration,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::Id,
        Self::Msix,
        Self::MsixBar,
        Self::GgttQuota,
        Self::Status,
        Self::Head,
        Self::Scratch,
        Self::Sequence,
        Self::NotSequence,
        Self::Accumulator,
        Self::Vram,
        Self::Destination,
        Self::Sum,
        Self::OldSequence,
        Self::OldSum,
        Self::Counter,
        Self::Page,
        Self::Configuration,
    ];

    /// The name in the guest's report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Id => "ID",
            Self::Msix => "MSIX",
            Self::MsixBar => "MSIX_BAR",
            Self::GgttQuota => "GGTT",
            Self::Status => "STATUS",
            Self::Head => "HEAD",
            Self::Scratch => "SCRATCH",
            Self::Sequence => "SEQ",
            Self::NotSequence => "NOT_SEQ",
            Self::Accumulator => "ACC",
            Self::Vram => "VRAM",
            Self::Destination => "DST",
            Self::Sum => "SUM",
            Self::OldSequence => "OLD_SEQ",
            Self::OldSum => "OLD_SUM",
            Self::Counter => "COUNTER",
            Self::Page => "PAGE",
            Self::Configuration => "CONFIG",
        }
    }

    /// Found while the VF was set up: there is no job to name.
    pub(crate) const fn is_before_the_first_job(self) -> bool {
        matches!(
            self,
            Self::Id | Self::Msix | Self::MsixBar | Self::GgttQuota
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A discrepancy, after which the guest has halted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Position of the VF among those found.
    pub vf: u32,
    /// The job being submitted or verified; 0 before the first.
    pub job: u32,
    /// Which check.
    pub kind: Kind,
    /// The value that the check wants.
    pub expected: u32,
    /// The value it found.
    pub got: u32,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vf,
            job,
            kind,
            expected,
            got,
        } = self;
        write!(
            f,
            "vf{vf} job {job} {kind} expected {expected:#010x} got {got:#010x}"
        )
    }
}

/// One line of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All VFs are set up.
    Started {
        /// How many there are.
        vfs: u32,
    },
    /// Progress of one VF.
    Jobs {
        /// Position of the VF among those found.
        vf: u32,
        /// Number of the last job verified.
        jobs: u32,
    },
    /// A discrepancy; the guest has halted.
    Failed(Failure),
    /// There is no VF; the guest has halted.
    NoVf,
    /// The processor raised an exception; the guest has halted.
    Exception {
        /// Its vector.
        vector: u32,
    },
    /// A line that is not the guest's, without its end.
    Other(String),
}

impl Event {
    /// Whether the guest has halted for good.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::NoVf | Self::Exception { .. })
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        Some(match words[..] {
            ["xe-guest:", vfs, "VFs"] => Self::Started { vfs: decimal(vfs)? },
            [vf, "jobs", jobs] => Self::Jobs {
                vf: position(vf)?,
                jobs: decimal(jobs)?,
            },
            ["FAIL", "no", "VF"] => Self::NoVf,
            ["FAIL", "exception", vector] => Self::Exception {
                vector: decimal(vector)?,
            },
            [
                "FAIL",
                vf,
                "job",
                job,
                kind,
                "expected",
                expected,
                "got",
                got,
            ] => Self::Failed(Failure {
                vf: position(vf)?,
                job: decimal(job)?,
                kind: Kind::ALL.into_iter().find(|known| known.name() == kind)?,
                expected: hexadecimal(expected)?,
                got: hexadecimal(got)?,
            }),
            _ => return None,
        })
    }
}

/// Digits only: `from_str` would take a sign.
fn decimal(word: &str) -> Option<u32> {
    (word.bytes().all(|byte| byte.is_ascii_digit())).then(|| u32::from_str(word).ok())?
}

fn hexadecimal(word: &str) -> Option<u32> {
    let digits = word.strip_prefix("0x")?;
    (digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| u32::from_str_radix(digits, 16).ok())?
}

fn position(word: &str) -> Option<u32> {
    decimal(word.strip_prefix("vf")?)
}

/// Gathers lines and turns them into events.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
}

impl Parser {
    /// At the beginning of a line.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and answers the lines that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' => events.extend(self.end_of_line()),
                b'\r' => {}
                _ if self.line.len() < LINE_MAX => self.line.push(byte),
                _ => {}
            }
        }
        events
    }

    fn end_of_line(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        if bytes.is_empty() {
            return None;
        }
        let line = String::from_utf8_lossy(&bytes);
        Some(Event::parse(&line).unwrap_or_else(|| Event::Other(line.into_owned())))
    }
}
