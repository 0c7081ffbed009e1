// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! State with its runs of zeros left out: the payload of a sparse frame.
//!
//! The bytes that stay come first, so that they begin where a receiver's buffer does and keep their alignment; behind them the
//! table of [`Run`]s, its length, and the bytes of state that all of it stands for. [`Table`] is the sender's, [`Pieces`] what a
//! receiver gets once the frame's checksum held.

use super::frame::array;

/// Bytes of a run in the table.
pub const RUN_SIZE: usize = 8;
/// Bytes behind the table: its length and the state's.
pub const TAIL_SIZE: usize = 8;
/// Most runs in a frame.
pub const RUNS_MAX: usize = 256;

/// Zeros that were left out, and the bytes after them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Run {
    /// Bytes of zeros; 0 in the first run only.
    pub zeros: u32,
    /// Bytes that stand in the payload; 0 in the last run only.
    pub bytes: u32,
}

/// The runs of a piece of state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    runs: Vec<Run>,
}

impl Table {
    /// No runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// The runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }

    pub(super) fn push(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Bytes of zeros left out.
    pub fn zeros(&self) -> usize {
        self.runs.iter().map(|run| run.zeros as usize).sum()
    }

    /// Bytes of the table and what is behind it.
    pub fn encoded_size(&self) -> usize {
        self.runs.len() * RUN_SIZE + TAIL_SIZE
    }

    /// Appends the table's bytes to `out`.
    pub(super) fn encode(&self, state: usize, out: &mut Vec<u8>) {
        encode(&self.runs, state, out);
    }
}

/// Appends a table of these runs to `out`.
pub(super) fn encode(runs: &[Run], state: usize, out: &mut Vec<u8>) {
    for run in runs {
        out.extend_from_slice(&run.zeros.to_le_bytes());
        out.extend_from_slice(&run.bytes.to_le_bytes());
    }
    out.extend_from_slice(&(runs.len() as u32).to_le_bytes());
    out.extend_from_slice(&(state as u32).to_le_bytes());
}

/// A table that no writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SparseError {
    /// It has no runs, or more than there may be, or is longer than the payload.
    #[error(
        "The table of zero runs has {0} runs, 1 to {RUNS_MAX} are possible and must fit in the frame"
    )]
    Runs(u32),
    /// A run is empty or in the wrong place.
    #[error(
        "Run {at} of the table of zero runs has {zeros} zeros and {bytes} bytes, which no sender writes there"
    )]
    Run {
        /// Number of the run, from 0.
        at: usize,
        /// Its zeros.
        zeros: u32,
        /// Its bytes.
        bytes: u32,
    },
    /// The runs' bytes are not those of the payload, or not those that the table tells of.
    #[error("The table of zero runs tells of {told} bytes, its runs have {found}")]
    Sum {
        /// As told, or as there are in the payload.
        told: u64,
        /// As the runs say.
        found: u64,
    },
    /// It stands for more state than a frame may have.
    #[error("The frame stands for {found} bytes of state, at most {most} are accepted here")]
    State {
        /// Bytes that it stands for.
        found: u32,
        /// Most bytes.
        most: u32,
    },
}

/// What has to stand before a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// The bytes of all its runs.
    All,
    /// Something else that comes to them.
    Compressed,
}

/// A table that was read and is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Runs<'a> {
    table: &'a [[u8; RUN_SIZE]],
    /// Bytes of state.
    pub(super) state: usize,
    /// Zeros among them.
    pub(super) zeros: usize,
}

impl<'a> Runs<'a> {
    /// Reads the table at the end of `payload`; answers what stands before it too.
    pub(super) fn read(
        payload: &'a [u8],
        most: u32,
        stays: Stay,
    ) -> Result<(&'a [u8], Self), SparseError> {
        let (rest, tail) = payload
            .split_last_chunk::<TAIL_SIZE>()
            .ok_or(SparseError::Runs(0))?;
        let count = u32::from_le_bytes(array(tail, 0));
        let state = u32::from_le_bytes(array(tail, 4));
        let size = (count as usize).saturating_mul(RUN_SIZE);
        if count == 0 || count as usize > RUNS_MAX || size > rest.len() {
            return Err(SparseError::Runs(count));
        }
        if state > most {
            return Err(SparseError::State { found: state, most });
        }
        let (bytes, table) = rest.split_at(rest.len() - size);
        let table = table.as_chunks::<RUN_SIZE>().0;
        let (mut zeros, mut stay) = (0u64, 0u64);
        for (at, run) in table.iter().enumerate() {
            let Run { zeros: z, bytes: b } = decode(run);
            let (first, last) = (at == 0, at + 1 == table.len());
            if z == 0 && !first || b == 0 && !last || z == 0 && b == 0 {
                return Err(SparseError::Run {
                    at,
                    zeros: z,
                    bytes: b,
                });
            }
            zeros += u64::from(z);
            stay += u64::from(b);
        }
        let sum = |told, found| SparseError::Sum { told, found };
        if stays == Stay::All && stay != bytes.len() as u64 {
            return Err(sum(bytes.len() as u64, stay));
        }
        if zeros + stay != u64::from(state) {
            return Err(sum(state.into(), zeros + stay));
        }
        let (state, zeros) = (state as usize, zeros as usize);
        let runs = Self {
            table,
            state,
            zeros,
        };
        Ok((bytes, runs))
    }

    /// The state, of which `bytes` are what stays.
    pub(super) fn pieces(self, bytes: &'a [u8]) -> Pieces<'a> {
        Pieces {
            bytes,
            table: self.table,
            state: self.state,
            zeros: self.zeros,
            begun: false,
        }
    }
}

/// A part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// So many zeros.
    Zeros(usize),
    /// These bytes.
    Bytes(&'a [u8]),
}

/// The state that a frame carries, in order. An iterator, and copied at no cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces<'a> {
    bytes: &'a [u8],
    table: &'a [[u8; RUN_SIZE]],
    state: usize,
    zeros: usize,
    /// The first run's zeros were answered already.
    begun: bool,
}

impl<'a> Pieces<'a> {
    /// All of `bytes`.
    pub(super) fn plain(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            table: &[],
            state: bytes.len(),
            zeros: 0,
            begun: false,
        }
    }

    /// Reads the payload of a sparse frame.
    pub(super) fn sparse(payload: &'a [u8], most: u32) -> Result<Self, SparseError> {
        let (bytes, runs) = Runs::read(payload, most, Stay::All)?;
        Ok(runs.pieces(bytes))
    }

    /// Bytes of state from here on.
    pub fn len(&self) -> usize {
        self.state
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.state == 0
    }

    /// Bytes of zeros among them that did not travel.
    pub fn zeros(&self) -> usize {
        self.zeros
    }

    /// Appends the state to `out`, zeros and all.
    pub fn append_to(self, out: &mut Vec<u8>) {
        for piece in self {
            match piece {
                Piece::Zeros(count) => out.resize(out.len() + count, 0),
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
            }
        }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        while let Some((run, rest)) = self.table.split_first() {
            let Run { zeros, bytes } = decode(run);
            if !std::mem::replace(&mut self.begun, true) && zeros > 0 {
                self.zeros -= zeros as usize;
                self.state -= zeros as usize;
                return Some(Piece::Zeros(zeros as usize));
            }
            (self.table, self.begun) = (rest, false);
            if bytes > 0 {
                let (piece, left) = self.bytes.split_at(bytes as usize);
                self.bytes = left;
                self.state -= bytes as usize;
                return Some(Piece::Bytes(piece));
            }
        }
        let left = std::mem::take(&mut self.bytes);
        self.state = 0;
        (!left.is_empty()).then_some(Piece::Bytes(left))
    }
}

fn decode(run: &[u8; RUN_SIZE]) -> Run {
    Run {
        zeros: u32::from_le_bytes(array(run, 0)),
        bytes: u32::from_le_bytes(array(run, 4)),
    }
}
