// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which guest memory the VF has written.
//!
//! The Xe driver logs nothing, so what is known depends on the host: that is a [`Strategy`], chosen by [`choose`] in the order
//! device, iommu, content, all. A VMM asks [`XeVfioDevice::dma_written`](crate::device::XeVfioDevice::dma_written) and, once it
//! has given the device its strategy, never sees which one answers; but for one duty. Whoever has a [`Fingerprints`] tells it the bytes
//! of every page that is sent ([`Fingerprints::sent`]), before or after they leave, but those very bytes and not the memory
//! that they came from; [`Fingerprints::send`] copies, tells and hands the copy on. docs/dirty-tracking.md has the argument.
//!
//! Strategies are logic only: [`DmaLog`] and [`PageTableLog`] are the kernel's calls behind them ([`crate::uapi`] has both),
//! [`GuestPages`] is the VMM's memory.

mod all;
mod bitmap;
mod choice;
mod content;
mod device;
mod iommu;
mod page_tables;
mod ranges;

pub use all::All;
pub use choice::{Choice, Kind, Offer, UnknownKind, Wish, choose};
pub use content::{Content, Fingerprints, GuestPages, Key, Pause, Prediction, Scanned};
pub use device::{Device, DmaLog};
pub use iommu::{Iommu, PageTable, PageTableLog};
pub use page_tables::PageTables;
pub use ranges::disjoint;
use thiserror::Error;

use crate::uapi::UapiError;

/// Bytes of a page: the granularity of everything here.
pub const PAGE_SIZE: u64 = 4096;

/// A range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// A log that cannot be kept. The guest's memory is not known to be whole then, so the migration has to end.
#[derive(Debug, Error)]
pub enum DirtyError {
    /// It was read without having been started.
    #[error("The dirty log of the VF's DMA was not started")]
    NotStarted,
    /// The VMM cannot say what is mapped.
    #[error("The memory that is mapped for the VF's DMA is not known")]
    Mapped(#[source] anyhow::Error),
    /// Memory that came or moved after the log was started.
    #[error(
        "Memory at {gpa:#x} was mapped for the VF's DMA after its log was started: keep memory as it is while a migration is under way"
    )]
    Moved {
        /// First byte that the log does not cover.
        gpa: u64,
    },
    /// Memory that is not made of pages.
    #[error("Memory at {gpa:#x} of {length:#x} bytes is not made of whole pages of 4 KiB")]
    Unaligned {
        /// First byte.
        gpa: u64,
        /// Bytes.
        length: u64,
    },
    /// The log covers so many pieces that the device takes none of them.
    #[error("The device logs DMA to none of {ranges} ranges")]
    Ranges {
        /// Ranges of memory.
        ranges: usize,
        /// Its answer to a single range around all of them.
        #[source]
        source: UapiError,
    },
    /// An ioctl of the log.
    #[error("The dirty log of the VF's DMA could not be {doing}")]
    Kernel {
        /// "started" or "read".
        doing: &'static str,
        /// The call.
        #[source]
        source: UapiError,
    },
    /// The memory cannot be read for its fingerprints.
    #[error("Guest memory at {gpa:#x} could not be read for its fingerprint")]
    Read {
        /// First byte.
        gpa: u64,
        /// The VMM's reason.
        #[source]
        source: anyhow::Error,
    },
    /// A copy of memory that did not leave.
    #[error("Guest memory at {gpa:#x} could not be sent")]
    Send {
        /// First byte.
        gpa: u64,
        /// The connection's reason.
        #[source]
        source: std::io::Error,
    },
    /// The strategy that was named.
    #[error("{0}")]
    Unavailable(String),
    /// No random numbers for a key.
    #[error("No key for fingerprints could be had from the kernel's random numbers")]
    Key(#[source] std::io::Error),
}

/// A way to know what the VF has written.
pub trait Strategy: Send {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// Begins a log: everything written to `mapped` memory from now on is answered at least once.
    ///
    /// # Errors
    /// [`DirtyError`]; nothing is logged then.
    fn start(&mut self, mapped: &[GuestRange]) -> Result<(), DirtyError>;

    /// What was written since the last call, or more; `mapped` is what the VF can reach now.
    ///
    /// # Errors
    /// [`DirtyError`]; what was not answered is answered by a later call that succeeds.
    fn dirty(
        &mut self,
        moment: Moment,
        mapped: &[GuestRange],
    ) -> Result<Vec<GuestRange>, DirtyError>;

    /// Whether all that is mapped is answered once the VF stands still, however often memory was sent before. Counts in a
    /// downtime that is predicted.
    fn leaves_all_to_the_end(&self) -> bool {
        false
    }

    /// The VF runs again, so it writes again; said before it can.
    fn resumed(&mut self);

    /// Ends the log.
    fn stop(&mut self);
}
