// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What it costs to move a VF's state.
//!
//! The binary `compare` runs whole saves and loads between simulated VFs, the two sides in processes of their own, with the floor run
//! beside each; `floor` runs the floor alone; the bench `parts` measures what every byte passes. `docs/performance.md` has
//! the tables, and says what they mean.

pub mod disk;
pub mod floor;
pub mod host;
pub mod ours;
pub mod plain;
pub mod plan;
pub mod side;
pub mod table;
pub mod usage;
pub mod vf;
