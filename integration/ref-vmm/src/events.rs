// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens to the VM, as a line of JSON each: for whoever supervises the process.
//!
//! A line is `{"time_ms": ..., "event": "...", ...}`; the time is of this process' monotonic clock since its start.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use std::{fmt, io};

use serde_json::{Map, Value};

/// Where events go; clones write to the same place.
#[derive(Clone)]
pub struct Events {
    start: Instant,
    file: Option<Arc<Mutex<File>>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("to_file", &self.file.is_some())
            .finish()
    }
}

impl Events {
    /// Writes to a file, or to the log only.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn new(path: Option<&Path>) -> io::Result<Self> {
        let file = path
            .map(File::create)
            .transpose()?
            .map(|f| Arc::new(Mutex::new(f)));
        Ok(Self {
            start: Instant::now(),
            file,
        })
    }

    /// Reports an event with the fields of `detail`, an object.
    pub fn report(&self, event: &str, detail: &Value) {
        tracing::info!(event, detail = %detail, "event");
        let Some(file) = &self.file else { return };
        let mut line = Map::new();
        #[allow(clippy::cast_possible_truncation)] // of a process younger than that
        line.insert(
            "time_ms".into(),
            (self.start.elapsed().as_millis() as u64).into(),
        );
        line.insert("event".into(), event.into());
        if let Value::Object(fields) = detail {
            line.extend(fields.clone());
        }
        let text = format!("{}\n", Value::Object(line));
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = file.write_all(text.as_bytes()) {
            tracing::warn!(error = %e, "an event could not be written");
        }
    }
}
