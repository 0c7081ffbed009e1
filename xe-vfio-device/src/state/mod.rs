// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The migration states of a VF, and the only way to move between them.
//!
//! A session [`Vf<D, S>`] is a VF whose state `S` is known. Each transition consumes it and answers the session in the next
//! state, or a [`Stuck`] with the error and the session in the state that the kernel says it is in. Only the driver's own arcs
//! have a method, so a SET that the driver punishes cannot be written down. A data fd is a part of `Saving` and `Loading` and
//! is closed before the SET that leaves them.
//!
//! [`settle`] and [`recover_to_running`] are the ways out of any of it: they keep the guest's GPU state wherever the kernel
//! lets them, and say so in their [`Outcome`] when it was lost to a reset.
//!
//! ```
//! use xe_vfio_device::state::{MigrationDevice, Running, Stopped, Stuck, Vf};
//!
//! fn pause<D: MigrationDevice>(vf: Vf<D, Running>) -> Result<Vf<D, Stopped>, Stuck<D>> {
//!     vf.quiesce()?.stop()
//! }
//! ```

mod any;
pub mod arcs;
mod backend;
mod device_state;
mod error;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod model_tests;
mod recovery;
mod session;
mod streaming;

pub use any::AnyVf;
pub use backend::{DataStream, MigrationDevice};
pub use device_state::{DeviceState, StateError, UnknownState};
pub use error::{Stuck, TransitionError};
pub use recovery::{
    Outcome, Recovered, ResetReason, Settled, clean_for_load, recover_to_running, reset_to_running,
    settle,
};
pub use session::{Lost, Running, RunningP2p, Stopped, Vf};
pub use streaming::{Loading, Saving, StreamDead};
