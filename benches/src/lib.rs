// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What it costs to move a VF's state.
//!
//! The binary `compare` runs whole saves and loads between simulated VFs, the two sides in processes of their own, and whole VMMs, ours and those
//! whose programs it is given, with the floor run beside each; `floor` runs the floor alone; the benches measure what every byte passes.
//! `docs/performance.md` has the tables, and says what they mean.
//!
//! [`row`] is what is compared, [`plan`] runs it, [`sample`] keeps what came out, [`goal`] judges it and [`report`] writes it down.

pub mod chart;
pub mod disk;
pub mod figures;
pub mod floor;
pub mod goal;
pub mod host;
pub mod link;
pub mod ours;
pub mod peers;
pub mod plain;
pub mod plan;
pub mod report;
pub mod row;
pub mod sample;
pub mod side;
pub mod table;
pub mod usage;
pub mod vf;
