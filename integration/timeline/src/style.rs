// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Colours: one fill for each kind of work, dark enough for white letters on light and dark paper alike.

/// The sheet of a picture. Whoever shows it decides between light and dark; no font is fetched.
pub const SHEET: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1f2328}\
.paper{fill:#ffffff}.row{fill:#f3f5f8}.grid{stroke:#d0d7de;stroke-width:1}\
.dim{fill:#57606a}.down{fill:#d1242f;fill-opacity:.10}.edge{stroke:#d1242f;stroke-width:1.5;stroke-dasharray:4 3}\
.loud{fill:#b3202a;font-weight:600}.guess{stroke:#57606a;stroke-width:1.5}.tip{fill:#57606a}\
.on{fill:#ffffff}.head{font-weight:600}\
.state{fill:#1f5fbf}.memory{fill:#0b7a5b}.arc{fill:#8a4baf}.wait{fill:#6b7280}.still{fill:#b3202a}.run{fill:#2c7a2c}.other{fill:#8a5a00}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.row{fill:#161b22}.grid{stroke:#30363d}\
.dim{fill:#9198a1}.down{fill:#f85149;fill-opacity:.16}.edge{stroke:#f85149}.loud{fill:#ff7b72}.guess{stroke:#9198a1}.tip{fill:#9198a1}.on{fill:#ffffff}}";

/// The fill of something by its name.
pub fn class(name: &str) -> &'static str {
    match name {
        "stream" => "state",
        "precopy" | "settle" | "memory" => "memory",
        name if name.starts_with("pass ") => "memory",
        "quiesce" | "stop" | "enter" | "resume" | "start" => "arc",
        "connect" | "confirm" | "load" | "prepare" | "go" => "wait",
        "stands still" => "still",
        name if name.starts_with("runs") => "run",
        _ => "other",
    }
}
