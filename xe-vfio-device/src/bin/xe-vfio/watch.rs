// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes on beside the work: a progress bar, and the user's wish to end it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use xe_vfio_device::transfer::{Cancel, Progress};

use crate::interrupt;

const TICK: Duration = Duration::from_millis(50);

/// A bar on stderr; none when that is no terminal.
pub fn bar(what: &str) -> ProgressBar {
    let template =
        "{prefix} {msg:8} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0)
        .with_style(style)
        .with_prefix(what.to_owned())
}

/// Does `work` with a bar that follows `progress`; a signal cancels it.
pub fn watched<T>(what: &str, progress: &Progress, cancel: &Cancel, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        // Dropped with this closure, and the bar ends with it.
        let (_over, end) = mpsc::channel::<()>();
        scope.spawn(move || {
            let bar = bar(what);
            while end.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if interrupt::received() {
                    cancel.cancel();
                }
                let view = progress.view();
                bar.set_length(view.expected.max(view.bytes));
                bar.set_position(view.bytes);
                bar.set_message(view.phase.to_string());
            }
            bar.finish_and_clear();
        });
        work()
    })
}
