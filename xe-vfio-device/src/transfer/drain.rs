// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is left of a save is read and dropped: only then does the kernel let STOP_COPY be left with the GPU state kept.

use std::time::Instant;

use super::Context;
use super::buffer::Buffer;
use super::progress::Phase;
use super::watchdog::Watch;
use crate::state::{MigrationDevice, Saving, Vf};

/// Reads and drops what is left, under the watchdog.
pub(super) fn drain<D: MigrationDevice>(
    saving: &mut Vf<D, Saving<D::Stream>>,
    context: &Context,
    watch: &Watch,
) {
    let mut buffer = Buffer::zeroed();
    context.progress.enter(Phase::Drain);
    let started = Instant::now();
    let mut bytes = 0;
    let error = loop {
        match watch.during(|| saving.read(buffer.bytes())) {
            Ok(0) => break None,
            Ok(count) => {
                bytes += count;
                context.progress.add(count);
            }
            Err(error) => break Some(error),
        }
    };
    let ms = started.elapsed().as_millis() as u64;
    match error {
        None => tracing::info!(
            phase = "drain",
            bytes,
            ms,
            "the rest of the state was dropped"
        ),
        Some(error) => {
            tracing::warn!(phase = "drain", bytes, ms, %error, "the rest of the state cannot be read");
        }
    }
}
