// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's role: the guest runs here until the destination has everything, and again if anything fails before go.
//!
//! [`send`] answers what became of the VM. `HandedOver` means that it runs at the destination; what is left
//! of it here has to be dropped, which closes its VFs from STOP. `StillHere` means that it is as alive as before.
//! `Undecided` means that go may have been written and no answer came: the VM stays paused, since it may run at the
//! destination, now or later. No time that passes here says otherwise.

mod attempt;
mod error;
mod picture;
mod predict;
mod settle;

use std::sync::Arc;

use vm_migration::Migratable;
use xe_vfio_device::transfer::Endpoint;

use self::attempt::{Attempt, Go};
pub use self::error::Error;
use super::Limits;
use super::forecast::Forecaster;
use super::report::Report;
use super::timer::Timer;
use super::watch::Watch;
use crate::events::Events;
use crate::vm::Vm;

/// What became of the VM.
pub enum Outcome {
    /// It runs at the destination; what is left of it here is to be dropped.
    HandedOver {
        /// What it took.
        report: Box<Report>,
    },
    /// It is here.
    StillHere {
        /// Why it did not move.
        error: Error,
        /// What holds now, a sentence.
        now: String,
    },
    /// It may be anywhere, and is paused here.
    Undecided {
        /// What happened to the answer.
        error: Error,
    },
}

/// Moves a running VM to whoever listens at `endpoint`; `forecaster` tells its downtime before, and learns from it.
pub fn send(
    vm: &mut Vm,
    endpoint: &Endpoint,
    limits: &Limits,
    watch: &Arc<Watch>,
    events: &Events,
    forecaster: &Forecaster,
) -> Outcome {
    let of_timer = watch.clone();
    let total = limits.total;
    let timer = Timer::arm(total, move || {
        of_timer.cancel(&format!("it took longer than {} s", total.as_secs_f64()));
    });
    let timer = match timer {
        Ok(timer) => timer,
        Err(source) => {
            let error = Error::Thread("the deadline", source);
            let now = attempt::NEVER_PAUSED.into();
            return Outcome::StillHere { error, now };
        }
    };
    let mut attempt = Attempt::new(vm, endpoint, limits, watch, events, forecaster);
    let mut channel = None;
    match attempt.until_loaded(&mut channel) {
        Ok(loaded) => {
            timer.disarm();
            let channel = channel.expect("a loaded destination is connected");
            match attempt.go(channel) {
                Go::Running => {
                    let report = Box::new(attempt.finish(loaded.stopped));
                    for device in vm.devices_mut() {
                        // The crate refuses to run the VF here from now on.
                        let _ = device.complete_migration();
                        // The guest runs elsewhere: whatever this takes, and whether it works, nobody waits for it.
                        if let Err(error) = device.leave_stop_copy() {
                            let error = crate::describe(&error);
                            tracing::warn!(id = device.device_id(), error, "left in STOP_COPY");
                        }
                    }
                    Outcome::HandedOver { report }
                }
                Go::NotTaken(error) => {
                    let now = attempt.come_back();
                    Outcome::StillHere { error, now }
                }
                Go::Unknown(error) => Outcome::Undecided { error },
            }
        }
        Err(error) => {
            let error = match (watch.cancelled(), error) {
                (Some(why), _) => Error::Cancelled(why),
                (None, error) => error,
            };
            tracing::warn!(
                phase = attempt.phase(),
                error = crate::describe(&error),
                "migration failed"
            );
            if let Some(channel) = channel {
                attempt::say_abandon(channel, &error);
            }
            let now = attempt.come_back();
            Outcome::StillHere { error, now }
        }
    }
}
