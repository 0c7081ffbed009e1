// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is particular to Intel Xe: the packets behind the migration data fd, and what two VFs must have in common.
//!
//! - [`Parser`] reads the packet stream in any segmentation and lets a byte through only after the header it belongs to
//!   was checked; [`Expectation`] says what it checks against and [`Account`] what went through.
//! - [`probe()`] reads an [`Identity`] from sysfs.
//! - [`compare`] says whether a VF's state can move to another VF, before anything moves.
//!
//! Nothing here performs an ioctl, and only `probe` touches files.

pub mod account;
mod advice;
pub mod compat;
pub mod expectation;
pub mod identity;
pub mod ids;
pub mod klv;
pub mod packet;
pub mod parser;
pub mod probe;
pub mod progress;
pub mod refusal;

pub use account::{Account, ByKind, Tally};
pub use compat::{Mismatch, Pair, Quota, Schedule, Severity, compare};
pub use expectation::Expectation;
pub use identity::{Identity, PciIds, Profile};
pub use packet::{Gt, Header, PacketType};
pub use parser::{Parser, PushError};
pub use probe::{ProbeError, XE_VFIO_DRIVER, driver, kernel_release, probe, probe_debugfs};
pub use refusal::{ParseError, Refusal};
