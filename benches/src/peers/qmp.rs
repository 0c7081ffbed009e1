// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's machine protocol, as much of it as a migration takes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// A connection to a QEMU.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects, and gives up waiting for an answer or event after `patience`.
    ///
    /// # Errors
    /// When nobody listens at `path`, or it is no QEMU.
    pub fn connect(path: &Path, patience: Duration) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
            events: VecDeque::new(),
        };
        let greeting = qmp.line()?;
        ensure!(!greeting["QMP"].is_null(), "no greeting: {greeting}");
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).context("QEMU is silent")?;
        ensure!(count > 0, "QEMU has ended");
        Ok(serde_json::from_str(&line)?)
    }

    /// Executes a command and answers what it returns.
    ///
    /// # Errors
    /// What QEMU has against it.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if !answer["event"].is_null() {
                self.events.push_back(answer);
            } else if !answer["error"].is_null() {
                bail!(
                    "{command}: {}",
                    answer["error"]["desc"].as_str().unwrap_or("?")
                );
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// The next event that `wanted` takes; others on the way are dropped.
    ///
    /// # Errors
    /// When none comes.
    pub fn event(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.line()?,
            };
            if wanted(&event) {
                return Ok(event);
            }
        }
    }
}

/// When an event happened, by the machine's clock.
#[must_use]
pub fn time(event: &Value) -> Option<Duration> {
    let time = &event["timestamp"];
    let micros = time["microseconds"].as_u64()?;
    Some(Duration::from_secs(time["seconds"].as_u64()?) + Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_event_before_an_answer_is_kept_and_an_error_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qemu = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let answers = [
                "{\"return\":{}}\n",
                "{\"event\":\"STOP\",\"timestamp\":{\"seconds\":2,\"microseconds\":500000}}\n{\"return\":1}\n",
                "{\"error\":{\"desc\":\"no\"}}\n",
            ];
            stream.get_mut().write_all(b"{\"QMP\":{}}\n").unwrap();
            for answer in answers {
                stream.read_line(&mut String::new()).unwrap();
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut qmp = Qmp::connect(&path, Duration::from_secs(10)).unwrap();
        assert_eq!(qmp.execute("cont", &json!({})).unwrap(), 1);
        let error = qmp.execute("cont", &json!({})).unwrap_err();
        assert_eq!(error.to_string(), "cont: no");
        let stop = qmp.event(|event| event["event"] == "STOP").unwrap();
        assert_eq!(time(&stop), Some(Duration::from_millis(2500)));
        qemu.join().unwrap();
        assert!(qmp.event(|_| true).is_err());
    }
}
