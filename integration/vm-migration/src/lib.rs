// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stand-in for Cloud Hypervisor's `vm-migration` crate, which is not on the registry.
//!
//! It has the public names and signatures that a crate which implements the traits, or a small VMM that speaks the
//! protocol, can use, as of Cloud Hypervisor's commit ae44c2971 and written anew. A workspace chooses one of the two with
//! `[patch.crates-io] vm-migration = { path = ... }`, so nothing may be added here that the original lacks.
//!
//! Left out: `tls` (a placeholder type keeps [`MigratableError::Tls`] nameable), the migration contexts that Cloud
//! Hypervisor reports progress with, and the zerocopy traits on the wire structs.

pub mod error;
pub mod protocol;
pub mod snapshot;
pub mod tls;
mod traits;

pub use error::{MigratableError, UffdError};
pub use snapshot::{Snapshot, SnapshotData, snapshot_from_id, state_from_id};
pub use traits::{Migratable, Pausable, Snapshottable, Transportable};
