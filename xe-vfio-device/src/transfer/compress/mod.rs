// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which frames of a save are compressed, and how.
//!
//! [`Compression`] is what a VMM asks for. [`Compressor`] asks for each frame, at the data fd's stage, what its policy says, has it compressed, and tells
//! the policy what came of that and how long frames were under way. [`auto`] is the policy that measures: it has no clock and no threads.

mod auto;
mod forced;
mod meter;
#[cfg(test)]
mod simulation;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use self::auto::Auto;
use self::forced::Forced;
use crate::stream::{Codec, Encoder, Flags, Frame, Packer, codec};

pub(super) use self::meter::Sent;

/// Whether frames of state are compressed on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Never.
    #[default]
    Off,
    /// With whatever makes the transfer faster by what is measured, if anything does. A link that is faster than the codecs is left alone.
    Auto,
    /// With LZ4, where that makes a frame shorter.
    Lz4,
    /// With zstd, where that makes a frame shorter.
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Auto, Self::Lz4, Self::Zstd];

    /// Whether this build can compress and decompress.
    pub const BUILT: bool = codec::BUILT;

    /// Its name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Lz4 => Codec::Lz4.name(),
            Self::Zstd => Codec::Zstd.name(),
        }
    }

    /// What it comes to in this build.
    pub(super) fn possible(self) -> Self {
        if self != Self::Off && !Self::BUILT {
            tracing::warn!(compression = self.name(), "this build has no codecs");
            return Self::Off;
        }
        self
    }

    /// What the stream's reader has to know.
    pub(super) fn flags(self) -> Flags {
        match self {
            Self::Off => Flags::NONE,
            _ => Flags::COMPRESSED,
        }
    }

    /// Whether frames are compressed whatever the link.
    pub(super) fn is_forced(self) -> bool {
        matches!(self, Self::Lz4 | Self::Zstd)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|one| one.name() == text);
        named.ok_or_else(|| format!("{text:?} is none of off, auto, lz4 and zstd"))
    }
}

enum Policy {
    Off,
    Forced(Forced),
    Auto(Box<Auto>),
}

/// Compresses the frames of one save.
pub(super) struct Compressor {
    policy: Policy,
    packer: Packer,
    begun: Instant,
}

impl Compressor {
    /// For a stream over so many connections.
    pub(super) fn new(compression: Compression, connections: usize) -> Self {
        let policy = match compression {
            Compression::Off => Policy::Off,
            Compression::Auto => Policy::Auto(Box::new(Auto::new(connections))),
            Compression::Lz4 => Policy::Forced(Forced::new(Codec::Lz4)),
            Compression::Zstd => Policy::Forced(Forced::new(Codec::Zstd)),
        };
        Self {
            policy,
            packer: Packer::new(),
            begun: Instant::now(),
        }
    }

    /// How a frame was sent.
    pub(super) fn sent(&mut self, wire: usize, plain: usize, began: Instant, ended: Instant) {
        if let Policy::Auto(auto) = &mut self.policy {
            let at = |instant: Instant| instant.saturating_duration_since(self.begun);
            auto.sent(&Sent {
                wire: wire as u64,
                plain: plain as u64,
                began: at(began),
                ended: at(ended),
            });
        }
    }

    /// Whether frames are compressed for a link that is slower: who sends them and who compresses should not wait for each other.
    pub(super) fn wants_thread(&self) -> bool {
        matches!(&self.policy, Policy::Auto(auto) if auto.compresses())
    }

    /// Makes the frame of `payload`, whose reading has taken `work`; answers what a codec took.
    pub(super) fn frame(
        &mut self,
        encoder: &mut Encoder,
        payload: &[u8],
        frame: &mut Frame,
        work: Duration,
    ) -> Duration {
        let codec = match &mut self.policy {
            Policy::Off => None,
            Policy::Forced(forced) => forced.next(),
            Policy::Auto(auto) => auto.next(),
        };
        let Some(codec) = codec else {
            encoder.frame(payload, frame);
            self.worked(payload, frame, work);
            return Duration::ZERO;
        };
        let started = Instant::now();
        let tried = encoder.compressed(payload, frame, &mut self.packer, codec);
        let took = started.elapsed();
        match &mut self.policy {
            Policy::Off => {}
            Policy::Forced(forced) => forced.tried(&tried),
            Policy::Auto(auto) => auto.tried(codec, &tried, took),
        }
        self.worked(payload, frame, work);
        took
    }

    fn worked(&mut self, payload: &[u8], frame: &Frame, work: Duration) {
        if let Policy::Auto(auto) = &mut self.policy {
            auto.worked((payload.len() - frame.zeros()) as u64, work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for compression in Compression::ALL {
            assert_eq!(compression.to_string().parse(), Ok(compression));
        }
        assert!("gzip".parse::<Compression>().is_err());
    }
}
