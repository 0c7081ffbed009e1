// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where results go: text or one JSON object on stdout, notes on stderr.

use std::io::{self, Write};

use serde_json::Value;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// As JSON.
    pub json: bool,
}

impl Output {
    /// Prints a result. A reader that has gone does not make a command fail that has done its work.
    pub fn result(self, json: &Value, text: &str) {
        let mut out = io::stdout().lock();
        _ = if self.json {
            writeln!(out, "{json}")
        } else {
            writeln!(out, "{text}")
        };
        _ = out.flush();
    }

    /// Says something beside the result.
    pub fn note(self, text: &str) {
        _ = writeln!(io::stderr(), "{text}");
    }
}
