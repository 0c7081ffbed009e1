// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ways out of any state, with an honest word about the GPU state.
//!
//! What is tried is the failure table of docs/design.md: a save is drained to its end, each arc of the way back is tried twice,
//! and a reset is the last resort. A load that was not finished is always reset, since half of another VF's state must not run; and since
//! a packet that was cut short outlives the reset, a save is begun and reset behind it (see [`clean_for_load`]).

use thiserror::Error;

use super::{AnyVf, DeviceState, MigrationDevice, Running, Stopped, Stuck, TransitionError, Vf};
use crate::uapi::UapiError;

/// Why a VF was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResetReason {
    /// It held a part of another VF's state.
    #[error("a load was not finished")]
    LoadAborted,
    /// It was to be clean.
    #[error("a reset was asked for")]
    Asked,
    /// A save could be neither finished nor drained.
    #[error("its state could not be read to the end, and it would not leave STOP_COPY")]
    Undrained(#[source] UapiError),
    /// It did not come back to RUNNING by itself.
    #[error("it could not be brought back to RUNNING")]
    Stuck(#[source] TransitionError),
}

/// What holds after a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The VF has what the guest had in it.
    GpuStateKept,
    /// The VF was reset and what the guest had in it is lost.
    Reset {
        /// Why that was the only way.
        why: ResetReason,
    },
}

/// A VF that was brought back to RUNNING.
#[derive(Debug)]
pub struct Recovered<D> {
    /// The session.
    pub vf: Vf<D, Running>,
    /// What became of the GPU state.
    pub outcome: Outcome,
}

/// A VF without a data fd.
#[derive(Debug)]
pub enum Settled<D: MigrationDevice> {
    /// It stands still with the state it had.
    Stopped(Vf<D, Stopped>),
    /// It stands still in STOP_COPY and would not leave it; whether only a reset is left is for later, since all of its state
    /// was read.
    Unsettled(AnyVf<D>),
    /// It had to be reset, or had been running all the time.
    Running(Recovered<D>),
}

/// Resets the VF, trying twice; after an aborted load it is made clean as by [`clean_for_load`].
///
/// # Errors
/// [`Stuck`]: most likely the device is gone.
pub fn reset_to_running<D: MigrationDevice>(
    vf: AnyVf<D>,
    why: ResetReason,
) -> Result<Recovered<D>, Stuck<D>> {
    let outcome = Outcome::Reset { why };
    let mut vf = reset_twice(vf)?;
    if matches!(why, ResetReason::LoadAborted) {
        vf = forget_cut_packet(vf)?;
    }
    Ok(Recovered { vf, outcome })
}

/// Resets a VF of unknown history so that a load can begin: what was in it is lost, and with it the packet that an earlier load
/// or save, maybe another process's, may have left cut short.
///
/// # Errors
/// [`Stuck`] as for [`reset_to_running`].
pub fn clean_for_load<D: MigrationDevice>(vf: AnyVf<D>) -> Result<Vf<D, Running>, Stuck<D>> {
    match vf {
        AnyVf::Running(vf) => forget_cut_packet(vf),
        other => forget_cut_packet(reset_twice(other)?),
    }
}

/// The PF keeps a packet that was cut short and would take the next load's first bytes for its rest: neither reset nor close
/// drops it, only entering STOP_COPY does (`migration.pending` of the Xe PF; the conformance suite has it as
/// restore/half_a_packet_outlives_a_reset). So STOP_COPY is entered, and left by a reset. A VF that does not get there is
/// clean but for that packet; then the next load may fail, and leads here again.
fn forget_cut_packet<D: MigrationDevice>(vf: Vf<D, Running>) -> Result<Vf<D, Running>, Stuck<D>> {
    let saving = vf
        .quiesce()
        .and_then(|vf| vf.stop())
        .and_then(|vf| vf.save());
    reset_twice(saving.map_or_else(|stuck| stuck.vf, AnyVf::from))
}

fn reset_twice<D: MigrationDevice>(vf: AnyVf<D>) -> Result<Vf<D, Running>, Stuck<D>> {
    reset(vf).or_else(|stuck| reset(stuck.vf))
}

fn reset<D: MigrationDevice>(vf: AnyVf<D>) -> Result<Vf<D, Running>, Stuck<D>> {
    match vf {
        AnyVf::Running(vf) => vf.reset(),
        AnyVf::RunningP2p(vf) => vf.reset(),
        AnyVf::Stopped(vf) => vf.reset(),
        AnyVf::Saving(vf) => vf.reset(),
        AnyVf::Loading(vf) => vf.reset(),
        AnyVf::StreamDead(vf) => vf.reset(),
        AnyVf::Lost(vf) => vf.reset(),
    }
}

/// Ends a save or a load that goes no further: a save is drained (`on_bytes` is told each count that was read into `scratch`)
/// and stopped, a load is reset. A VF that is in STOP already is left there, one in RUNNING_P2P is stopped.
///
/// # Errors
/// [`Stuck`] when the reset that was the last resort failed.
pub fn settle<D: MigrationDevice>(
    vf: AnyVf<D>,
    scratch: &mut [u8],
    on_bytes: &mut dyn FnMut(usize),
) -> Result<Settled<D>, Stuck<D>> {
    let mut failures = 0;
    let mut vf = vf;
    loop {
        let (result, last_chance) = match vf {
            AnyVf::Stopped(vf) => return Ok(Settled::Stopped(vf)),
            AnyVf::Running(vf) => {
                return Ok(Settled::Running(Recovered {
                    vf,
                    outcome: Outcome::GpuStateKept,
                }));
            }
            AnyVf::RunningP2p(vf) => (vf.stop(), None),
            AnyVf::Saving(mut vf) => {
                let unread = vf
                    .drain(scratch, on_bytes)
                    .err()
                    .map(ResetReason::Undrained);
                (vf.finish(), unread)
            }
            AnyVf::StreamDead(vf) if vf.dead_state() == DeviceState::StopCopy => (vf.stop(), None),
            vf @ (AnyVf::Loading(_) | AnyVf::StreamDead(_)) => {
                return reset_to_running(vf, ResetReason::LoadAborted).map(Settled::Running);
            }
            AnyVf::Lost(vf) => {
                let why = ResetReason::Stuck(TransitionError::Unknown(vf.why()));
                return reset_to_running(vf.into(), why).map(Settled::Running);
            }
        };
        match result {
            Ok(vf) => return Ok(Settled::Stopped(vf)),
            Err(stuck) => {
                failures += 1;
                if last_chance.is_some() || failures > 1 {
                    let why = last_chance.unwrap_or(ResetReason::Stuck(stuck.error));
                    return reset_to_running(stuck.vf, why).map(Settled::Running);
                }
                vf = stuck.vf;
            }
        }
    }
}

/// Brings the VF back to RUNNING from wherever it is. See [`settle`] for `scratch` and `on_bytes`.
///
/// # Errors
/// [`Stuck`] when the reset that was the last resort failed.
pub fn recover_to_running<D: MigrationDevice>(
    vf: AnyVf<D>,
    scratch: &mut [u8],
    on_bytes: &mut dyn FnMut(usize),
) -> Result<Recovered<D>, Stuck<D>> {
    let mut failures = 0;
    let mut vf = vf;
    loop {
        let result = match vf {
            AnyVf::Running(vf) => {
                return Ok(Recovered {
                    vf,
                    outcome: Outcome::GpuStateKept,
                });
            }
            AnyVf::RunningP2p(vf) => vf.run().map(AnyVf::from),
            AnyVf::Stopped(vf) => vf.unstop().map(AnyVf::from),
            other => match settle(other, scratch, on_bytes)? {
                Settled::Stopped(vf) => Ok(vf.into()),
                Settled::Unsettled(vf) => Ok(vf),
                Settled::Running(recovered) => return Ok(recovered),
            },
        };
        vf = match result {
            Ok(next) => next,
            // The kernel may fail with the arc done.
            Err(Stuck {
                vf: AnyVf::Running(vf),
                ..
            }) => vf.into(),
            Err(stuck) if failures == 0 => {
                failures += 1;
                stuck.vf
            }
            Err(stuck) => return reset_to_running(stuck.vf, ResetReason::Stuck(stuck.error)),
        };
    }
}
