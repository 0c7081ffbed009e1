// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which guest memory the VF has written.
//!
//! The Xe driver logs nothing, so what is known depends on the host: that is a [`Strategy`]. A VMM asks through `Migratable`'s
//! dirty log and never sees which one answers.

mod all;

pub use all::All;
use thiserror::Error;

/// A range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestRange {
    /// First guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub length: u64,
}

/// Whether the VF can still write when the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The VF is in RUNNING: whatever is answered may be written again at once.
    Running,
    /// The VF is in RUNNING_P2P or beyond and makes no DMA.
    Still,
}

/// A log that cannot be kept.
#[derive(Debug, Error)]
pub enum DirtyError {
    /// It was read without having been started.
    #[error("The dirty log of the VF's DMA was not started")]
    NotStarted,
    /// The VMM cannot say what is mapped.
    #[error("The memory that is mapped for the VF's DMA is not known")]
    Mapped(#[source] anyhow::Error),
}

/// A way to know what the VF has written.
pub trait Strategy: Send {
    /// What it is called on the command line and in logs.
    fn name(&self) -> &'static str;

    /// Begins a log: everything written from now on is answered at least once.
    ///
    /// # Errors
    /// [`DirtyError`].
    fn start(&mut self) -> Result<(), DirtyError>;

    /// What was written since the last call, or more; `mapped` is what the VF can reach.
    ///
    /// # Errors
    /// [`DirtyError`].
    fn dirty(
        &mut self,
        moment: Moment,
        mapped: &mut dyn FnMut() -> anyhow::Result<Vec<GuestRange>>,
    ) -> Result<Vec<GuestRange>, DirtyError>;

    /// Whether all that is mapped is answered once the VF stands still, however often memory was sent before. Counts in a
    /// downtime that is predicted.
    fn leaves_all_to_the_end(&self) -> bool;

    /// The VF runs again, so it writes again; said before it can.
    fn resumed(&mut self);

    /// Ends the log.
    fn stop(&mut self);
}
