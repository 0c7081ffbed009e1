// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a user drives a running VMM: one line of JSON asks, one line of JSON answers, over a unix socket.
//!
//! ```text
//! {"command":"send-migration","url":"tcp:127.0.0.1:4444"}
//! {"ok":{...}}   or   {"error":"...","state":"running"}
//! ```

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Whether the VMM is there.
    Ping {},
    /// What the VM is and does.
    Info {},
    /// VFs and vCPU stop.
    Pause {},
    /// They run again.
    Resume {
        /// Although the guest may run at a destination.
        #[serde(default)]
        force: bool,
    },
    /// The VM is kept on disk and stays paused.
    Snapshot {
        /// `file:///DIRECTORY`.
        url: String,
    },
    /// The VM moves to another host.
    SendMigration {
        /// Where a VMM waits: `tcp:HOST:PORT` or `unix:PATH`.
        url: String,
        /// Seconds until the source gives up.
        #[serde(default)]
        timeout: Option<f64>,
        /// How memory that VFs write is found, instead of what the VMM was started with.
        #[serde(default)]
        dirty: Option<String>,
        /// To a VMM on this host, which gets the VFs' data fds; the URL is a unix socket's.
        #[serde(default)]
        local: bool,
    },
    /// A migration under way is given up.
    CancelMigration {},
    /// Waits for a VM.
    ReceiveMigration {
        /// Where to listen.
        url: String,
    },
    /// The VFs do not reach this memory any more; at any time, also during a migration.
    DmaUnmap {
        /// First guest physical address.
        gpa: u64,
        /// Bytes.
        length: u64,
        /// It goes back to the host too and reads as zeros.
        #[serde(default)]
        discard: bool,
    },
    /// The VFs reach it; at any time.
    DmaMap {
        /// First guest physical address.
        gpa: u64,
        /// Bytes.
        length: u64,
    },
    /// The VMM ends.
    Shutdown {},
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Response {
    /// It was done.
    Done {
        /// What there is to tell.
        ok: Value,
    },
    /// It was not.
    Failed {
        /// Why, for people.
        error: String,
        /// The VM's state now.
        state: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_documented() {
        let read = |text| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"command":"ping"}"#).unwrap(), Request::Ping {});
        let resume = read(r#"{"command":"resume"}"#).unwrap();
        assert_eq!(resume, Request::Resume { force: false });
        let url = "tcp:127.0.0.1:4444".to_owned();
        let send = read(r#"{"command":"send-migration","url":"tcp:127.0.0.1:4444"}"#).unwrap();
        let (timeout, dirty, local) = (None, None, false);
        let expected = Request::SendMigration {
            url,
            timeout,
            dirty,
            local,
        };
        assert_eq!(send, expected);
        assert!(read(r#"{"command":"ping","more":1}"#).is_err());
        assert!(read(r#"{"command":"explode"}"#).is_err());
    }

    #[test]
    fn an_error_and_a_result_are_told_apart() {
        let failed = Response::Failed {
            error: "No".into(),
            state: "running".into(),
        };
        let text = serde_json::to_string(&failed).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&text).unwrap(), failed);
        let done: Response = serde_json::from_str(r#"{"ok":null}"#).unwrap();
        assert_eq!(done, Response::Done { ok: Value::Null });
    }
}
