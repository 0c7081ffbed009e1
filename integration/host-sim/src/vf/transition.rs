// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GET and SET of the device state: the driver's arcs, one by one.
//!
//! An arc that fails leaves the VF where it was and nothing is rolled back, so that a SET over several arcs ends in between.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::control::{STOPPED, TORN, TransitionState};
use super::op::Op;
use super::save::SaveState;
use super::state::{ARCS, Arc, State, next_arc};
use super::{Errno, Transition, Vf, session, wait};
use crate::shm::Guard;

/// STOP_COPY and P2P of `VFIO_DEVICE_FEATURE_MIGRATION`.
const FLAGS: u64 = 1 | 2;

impl Vf {
    /// GET of FEATURE_MIGRATION: STOP_COPY and P2P.
    ///
    /// # Errors
    /// `ENOTTY` when the host does not offer migration.
    pub fn migration_flags(&self) -> Result<u64, Errno> {
        self.offered()?;
        self.faults.check(Op::GetFlags)?;
        Ok(FLAGS)
    }

    /// GET of the device state, as the uAPI's number. Blocks behind a SET in progress.
    ///
    /// # Errors
    /// `ENOTTY` when the host does not offer migration.
    pub fn state(&self) -> Result<u32, Errno> {
        self.offered()?;
        let _transition = self.lock_transition();
        self.faults.check(Op::GetState)?;
        Ok(self.now() as u32)
    }

    /// GET of MIG_DATA_SIZE in bytes, in any state: less than the stream has. A failure of the PF comes as a negative errno in
    /// it, that is at least 2^63.
    ///
    /// # Errors
    /// `ENOTTY` when the host does not offer migration.
    pub fn stop_copy_length(&self) -> Result<u64, Errno> {
        self.offered()?;
        let _transition = self.lock_transition();
        Ok(match self.faults.check(Op::DataSize) {
            Ok(_) => self.plan.estimate(),
            Err(errno) => i64::from(-errno.0).cast_unsigned(),
        })
    }

    /// SET of the device state: walks there arc by arc. To the current state: nothing, no fd.
    ///
    /// # Errors
    /// `ENOTTY` without migration; `EINVAL` for a state that the device does not have, after which the VF is stopped until a
    /// reset: what the PF has a part in is `EPERM`, leaving STOP_COPY and RESUMING `EIO`; `EIO` too on leaving STOP_COPY
    /// before the producers are done, or RESUMING after a restore that failed; `ETIMEDOUT` on leaving RESUMING without a trailer. The VF is in the last state reached, and a
    /// data fd whose state was to be left is dead in any case.
    pub fn set_state(&self, target: u32) -> Result<Transition, Errno> {
        self.offered()?;
        let mut transition = self.lock_transition();
        self.faults.check(Op::SetState)?;
        let Some(target) = State::from_raw(target) else {
            self.wedge(STOPPED);
            return Err(Errno::EINVAL);
        };
        let mut answer = Transition::None;
        while let Some(arc) = next_arc(self.now(), target) {
            answer = self.take_arc(arc, &mut transition)?;
        }
        Ok(answer)
    }

    fn offered(&self) -> Result<(), Errno> {
        if self.config.migration {
            Ok(())
        } else {
            Err(Errno::ENOTTY)
        }
    }

    pub(super) fn now(&self) -> State {
        State::from_raw(self.control.live.state.load(Ordering::Acquire)).unwrap_or(State::Stop)
    }

    fn take_arc(
        &self,
        arc: Arc,
        transition: &mut Guard<'_, TransitionState>,
    ) -> Result<Transition, Errno> {
        if self.control.live.wedged.load(Ordering::Acquire) == TORN {
            return Err(Errno::EPERM);
        }
        let number = ARCS
            .iter()
            .zip(1..)
            .find_map(|(a, n)| (*a == arc).then_some(n))
            .unwrap_or(0);
        self.control.live.arc.store(number, Ordering::Relaxed);
        transition.in_flight = 1;
        if matches!(arc.from, State::StopCopy | State::Resuming) {
            // The driver ends the fd's life before it asks the PF.
            self.end_session(&mut self.lock_data());
        }
        let result = self
            .faults
            .check(Op::Arc(arc))
            .and_then(|_| self.do_arc(arc));
        transition.in_flight = 0;
        self.control.live.arc.store(0, Ordering::Relaxed);
        result
    }

    fn do_arc(&self, arc: Arc) -> Result<Transition, Errno> {
        use State::{Resuming, Running, RunningP2p, Stop, StopCopy};
        let mut answer = Transition::None;
        let stopped = self.control.live.wedged.load(Ordering::Acquire) != 0;
        match (arc.from, arc.to) {
            // The PF has no part in these two.
            (RunningP2p, Stop) | (Stop, RunningP2p) => {}
            (StopCopy | Resuming, Stop) if stopped => return Err(Errno::EIO),
            (_, StopCopy) if stopped => {
                Self::forget_half_packets(&mut self.lock_data());
                return Err(Errno::EPERM);
            }
            _ if stopped => return Err(Errno::EPERM),
            (Running, RunningP2p) => {
                wait::sleep(Duration::from_millis(self.config.suspend_ms.into()));
                // Waits for the job in progress.
                let _engine = self.quiesce_engine();
                self.set_gate(false);
            }
            (RunningP2p, Running) => {
                wait::sleep(Duration::from_millis(self.config.resume_ms.into()));
                let _engine = self.quiesce_engine();
                if self.lost_interrupt() {
                    self.control.live.irq_pending.store(1, Ordering::Release);
                }
                self.set_gate(true);
            }
            (Stop, StopCopy) => {
                let mut session = self.lock_data();
                let (head, scratch) = self.snapshot();
                Self::forget_half_packets(&mut session);
                session.save = SaveState::begin(head, scratch);
                answer = Transition::Save(self.start_session(&mut session, session::SAVES));
            }
            (StopCopy, Stop) => self.leave_stop_copy()?,
            (Stop, Resuming) => {
                let mut session = self.lock_data();
                self.begin_load(&mut session);
                answer = Transition::Load(self.start_session(&mut session, session::LOADS));
            }
            (Resuming, Stop) => self.leave_resuming()?,
            _ => {}
        }
        self.control
            .live
            .state
            .store(arc.to as u32, Ordering::Release);
        Ok(answer)
    }

    fn leave_stop_copy(&self) -> Result<(), Errno> {
        let session = self.lock_data();
        let done =
            self.plan.producers_done(session.save.consumed) && !self.faults.producer_is_stuck();
        if session.save.failed == 0 && done {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    }

    fn leave_resuming(&self) -> Result<(), Errno> {
        let (failed, trailer) = {
            let session = self.lock_data();
            (session.load.failed != 0, session.load.trailer != 0)
        };
        match (failed, trailer) {
            (true, _) => Err(Errno::EIO),
            (false, true) => Ok(()),
            (false, false) => {
                wait::sleep(Duration::from_millis(self.config.restore_timeout_ms.into()));
                Err(Errno::ETIMEDOUT)
            }
        }
    }

    /// The driver's state mutex.
    pub(super) fn lock_transition(&self) -> Guard<'_, TransitionState> {
        let mut transition = self.control.transition.lock();
        if transition.holder_died() && transition.in_flight != 0 {
            transition.in_flight = 0;
            self.control.live.arc.store(0, Ordering::Relaxed);
            self.wedge(TORN);
        }
        transition
    }

    /// Stops the VF until it is reset.
    fn wedge(&self, why: u32) {
        let _engine = self.quiesce_engine();
        self.set_gate(false);
        self.control.live.wedged.store(why, Ordering::Release);
    }
}
