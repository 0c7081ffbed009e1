// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a guest will stand still, told before it does.
//!
//! [`Work`] is what will move: each VF's bytes by the kernel's own estimate (MIG_DATA_SIZE), the guest memory that is left, the way there.
//! An [`Estimator`] answers an [`Estimate`] for it, from what the last transfers took ([`History`]), from the rate that this
//! migration's passes over memory have had, and from what the machine copies and sums in a moment ([`Machine::measure`]); where it knows
//! nothing it guesses, and says so ([`Basis`]). [`converge`] decides with it whether another pass over memory brings the downtime to a [`Goal`].
//! Afterwards [`Estimator::learn`] takes what happened ([`Finished`]).
//!
//! No time is looked at and nothing is read here except by [`Machine::measure`] and by `History`'s file, whose place the VMM
//! chooses. What a file says is checked before it is believed.
//!
//! ```no_run
//! # use xe_vfio_device::device::{DeviceGroup, GroupMember};
//! # use xe_vfio_device::estimate::*;
//! # use std::{path::Path, time::Duration};
//! # fn migrate(members: &[&dyn GroupMember], dirty_bytes: u64, rate: f64) {
//! let (history, broken) = History::open(Path::new("/var/lib/vmm/migrations.json"));
//! # _ = broken; // to be logged
//! let mut estimator = Estimator::new(Machine::measure(), history);
//!
//! let group = DeviceGroup::new(members);
//! let work = Work {
//!     memory_bytes: dirty_bytes,
//!     memory_cost: Cost::per_second(rate),
//!     ..group.work(Route::Tcp, Hosts::Apart)
//! };
//! println!("The guest will stand still for {}", estimator.estimate(&work));
//! // ... the migration ...
//! # let (streaming, downtime) = (Duration::ZERO, Duration::ZERO);
//! estimator.learn(Finished { streaming, around: downtime - streaming, ..group.finished(&work) });
//! # }
//! ```

mod convergence;
mod cost;
mod estimator;
mod file;
mod finished;
mod history;
mod learn;
mod machine;
mod model;
mod robust;
#[cfg(test)]
mod tests;
mod work;

pub use convergence::{Goal, Verdict, converge};
pub use cost::Cost;
pub use estimator::{Estimate, Estimator, Parts};
pub use file::HistoryError;
pub use finished::{Finished, Moved, Side};
pub use history::History;
pub use learn::{Basis, Costs, Known, Packing};
pub use machine::Machine;
pub use model::Bound;
pub use work::{Hosts, Lane, Route, Work};
