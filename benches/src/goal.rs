// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the figures ought to be.

use std::fmt;

use crate::host::Content;
use crate::row::{Row, Way};
use crate::sample::{Results, Sample};

/// Most memory beyond VRAM that a side may take, whatever the VRAM.
pub const MEMORY: u64 = 32 << 20;

/// What a row is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Median of the ratio to the floor.
    Ratio(f64),
    /// No slower than this row, by the medians of the wall time.
    NoSlowerThan(Row),
}

/// Whether a goal was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Pass,
    /// It was not.
    Miss,
    /// What it is held against was not run.
    Open,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Miss => "**miss**",
            Self::Open => "?",
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(most) => write!(f, "{most:.2}"),
            Self::NoSlowerThan(row) => write!(f, "as {} VF", row.vfs),
        }
    }
}

impl Goal {
    /// The goal of a row, if it has one.
    #[must_use]
    pub fn of(row: Row) -> Option<Self> {
        match (row.way, row.vfs, row.content) {
            (Way::Tcp, 1, Content::Random) => Some(Self::Ratio(1.10)),
            (Way::Tcp, 1, Content::Half) => Some(Self::Ratio(0.60)),
            (Way::Tcp, 1, Content::Zero) => Some(Self::Ratio(0.25)),
            (Way::Tcp, _, _) => Some(Self::NoSlowerThan(Row { vfs: 1, ..row })),
            (Way::Handover, 1, _) => Some(Self::Ratio(0.45)),
            (Way::Save | Way::Restore, _, Content::Random) => Some(Self::Ratio(1.15)),
            _ => None,
        }
    }

    /// Whether `row` meets it.
    #[must_use]
    pub fn verdict(self, row: Row, results: &Results) -> Verdict {
        let (value, most) = match self {
            Self::Ratio(most) => (results.figures(row, Sample::ratio).median(), most),
            Self::NoSlowerThan(other) => {
                let wall = |row| results.figures(row, |sample| sample.wall).median();
                (wall(row), wall(other))
            }
        };
        if value.is_nan() || most.is_nan() {
            Verdict::Open
        } else if value <= most {
            Verdict::Pass
        } else {
            Verdict::Miss
        }
    }
}

/// Whether a row's memory stays below [`MEMORY`] on both sides; none where the crate has no part in it.
#[must_use]
pub fn memory(row: Row, results: &Results) -> Option<Verdict> {
    let most = results
        .of(row)
        .map(|sample| sample.source_memory.max(sample.destination_memory))
        .max()?;
    (!row.way.is_foreign()).then_some(if most <= MEMORY {
        Verdict::Pass
    } else {
        Verdict::Miss
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(vfs: u16) -> Row {
        Row {
            way: Way::Tcp,
            size: 1 << 30,
            content: Content::Random,
            vfs,
        }
    }

    fn sample(row: Row, wall: f64, memory: u64) -> Sample {
        Sample {
            row,
            wall,
            floor: 1.0,
            cpu: None,
            floor_cpu: None,
            source_memory: memory,
            destination_memory: 0,
            state_bytes: 0,
            stream_bytes: 0,
            load: 0.0,
            program: None,
        }
    }

    #[test]
    fn a_ratio_is_held_against_its_number_and_four_vfs_against_one() {
        let mut results = Results::default();
        let (one, four) = (Goal::of(row(1)).unwrap(), Goal::of(row(4)).unwrap());
        results.add(sample(row(4), 1.05, 0)).unwrap();
        assert_eq!(four.verdict(row(4), &results), Verdict::Open);
        results.add(sample(row(1), 1.1, 0)).unwrap();
        assert_eq!(one.verdict(row(1), &results), Verdict::Pass);
        assert_eq!(four.verdict(row(4), &results), Verdict::Pass);
        results.add(sample(row(4), 1.2, 0)).unwrap();
        results.add(sample(row(4), 1.2, 0)).unwrap();
        assert_eq!(four.verdict(row(4), &results), Verdict::Miss);
    }

    #[test]
    fn memory_is_that_of_the_greediest_run() {
        let mut results = Results::default();
        assert_eq!(memory(row(1), &results), None);
        results.add(sample(row(1), 1.0, MEMORY)).unwrap();
        assert_eq!(memory(row(1), &results), Some(Verdict::Pass));
        results.add(sample(row(1), 1.0, MEMORY + 1)).unwrap();
        assert_eq!(memory(row(1), &results), Some(Verdict::Miss));
    }
}
