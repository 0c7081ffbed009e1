// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What runs gave, one line of JSON each in a file that grows: a comparison that was ended goes on where it was.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::figures::Figures;
use crate::row::Row;

/// One run and the floor just before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was run.
    pub row: Row,
    /// Seconds: from "begin" to "loaded", or of a VM's downtime.
    pub wall: f64,
    /// Seconds that the floor took.
    pub floor: f64,
    /// Seconds of processor time of both sides, where they can be told from the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// And of the floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_cpu: Option<f64>,
    /// Most bytes of memory that the source had beyond what it had before, VRAM and guest memory apart.
    #[serde(default)]
    pub source_memory: u64,
    /// And the destination.
    #[serde(default)]
    pub destination_memory: u64,
    /// Bytes of device state, where they are known.
    #[serde(default)]
    pub state_bytes: u64,
    /// Bytes that travelled.
    #[serde(default)]
    pub stream_bytes: u64,
    /// Load of the machine over the last minute, before.
    #[serde(default)]
    pub load: f64,
    /// What a peer's program says of its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

impl Sample {
    /// Time in units of the floor's.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.wall / self.floor
    }

    /// Processor time in units of the floor's.
    #[must_use]
    pub fn cpu_ratio(&self) -> Option<f64> {
        Some(self.cpu? / self.floor_cpu?)
    }

    /// Bytes that travelled to bytes of state.
    #[must_use]
    pub fn stream_part(&self) -> Option<f64> {
        (self.state_bytes > 0).then(|| self.stream_bytes as f64 / self.state_bytes as f64)
    }
}

/// The runs of a comparison so far.
#[derive(Debug, Default)]
pub struct Results {
    file: Option<PathBuf>,
    samples: Vec<Sample>,
}

impl Results {
    /// Those of `file`, which may not be there yet; without a file they are kept in memory.
    ///
    /// # Errors
    /// When the file cannot be read or has something else in it.
    pub fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let mut results = Self {
            file: file.map(Path::to_owned),
            samples: Vec::new(),
        };
        let Some(path) = file else {
            return Ok(results);
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(results),
            Err(error) => return Err(error).context(format!("Cannot read {}", path.display())),
        };
        for (line, number) in text.lines().zip(1..) {
            let sample = serde_json::from_str(line);
            let place = || format!("{}:{number} is no run", path.display());
            results.samples.push(sample.with_context(place)?);
        }
        Ok(results)
    }

    /// Takes one more.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, sample: Sample) -> anyhow::Result<()> {
        if let Some(path) = &self.file {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            // One write, so that a run that is ended leaves whole lines.
            file.write_all(format!("{}\n", serde_json::to_string(&sample)?).as_bytes())?;
        }
        self.samples.push(sample);
        Ok(())
    }

    /// Everything.
    #[must_use]
    pub fn all(&self) -> &[Sample] {
        &self.samples
    }

    /// The runs of a row.
    pub fn of(&self, row: Row) -> impl Iterator<Item = &Sample> + Clone {
        self.samples.iter().filter(move |sample| sample.row == row)
    }

    /// Figures of a row's runs.
    pub fn figures(&self, row: Row, of: impl Fn(&Sample) -> f64) -> Figures {
        self.of(row).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Content;
    use crate::row::Way;

    #[test]
    fn what_was_run_before_is_there_again_and_a_broken_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs");
        let row = Row {
            way: Way::CloudHypervisorUnpatched,
            size: 1 << 30,
            content: Content::Half,
            vfs: 1,
        };
        let sample = Sample {
            row,
            wall: 2.0,
            floor: 1.0,
            cpu: None,
            floor_cpu: Some(0.5),
            source_memory: 1,
            destination_memory: 2,
            state_bytes: 3,
            stream_bytes: 4,
            load: 0.25,
            program: None,
        };
        let mut results = Results::open(Some(&path)).unwrap();
        results.add(sample.clone()).unwrap();
        results.add(sample.clone()).unwrap();
        let again = Results::open(Some(&path)).unwrap();
        assert_eq!(again.all(), [sample.clone(), sample]);
        assert_eq!(again.figures(row, Sample::ratio).median(), 2.0);
        fs::write(&path, "{}\n").unwrap();
        let error = Results::open(Some(&path)).unwrap_err().to_string();
        assert!(error.ends_with("runs:1 is no run"), "{error}");
    }
}
