// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of a data fd, and the speed of what goes through it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::control::Session;
use super::{Errno, SessionId, Vf, wait};
use crate::shm::Guard;

/// `Session::direction` of a data fd that is read.
pub(super) const SAVES: u64 = 1;
/// `Session::direction` of a data fd that is written.
pub(super) const LOADS: u64 = 2;

/// How far a limited data fd may fall behind its rate and make up for it, in nanoseconds.
const CATCH_UP: u64 = 5_000_000;

impl Session {
    /// Whether `id` is alive and goes in `direction`.
    pub fn check(&self, id: SessionId, direction: u64) -> Result<(), Errno> {
        match (id.0 != 0 && id.0 == self.alive, self.direction == direction) {
            (true, true) => Ok(()),
            (true, false) => Err(Errno::EBADF),
            (false, _) => Err(Errno::ENODEV),
        }
    }
}

impl Vf {
    /// The data fd's lock, for which everything that ends its life waits too.
    pub(super) fn lock_data(&self) -> Guard<'_, Session> {
        let mut session = self.control.data.lock();
        if session.holder_died() {
            // Whoever read or wrote was cut off somewhere: nobody knows where.
            session.save.failed = 1;
            session.load.failed = 1;
            self.control.live.moving.store(0, Ordering::Relaxed);
        }
        session
    }

    pub(super) fn start_session(&self, session: &mut Session, direction: u64) -> SessionId {
        session.last += 1;
        session.alive = session.last;
        session.direction = direction;
        self.control.live.moved.store(0, Ordering::Relaxed);
        self.control
            .live
            .session
            .store(session.alive, Ordering::Relaxed);
        SessionId(session.alive)
    }

    pub(super) fn end_session(&self, session: &mut Session) {
        session.alive = 0;
        self.control.live.session.store(0, Ordering::Relaxed);
    }

    /// To be called before bytes are moved.
    pub(super) fn transfer_begins(&self) -> u64 {
        self.config.device_rate.map_or(0, |_| wait::now_ns())
    }

    /// Counts `bytes` moved since `begun` and waits as long as the configured rate wants.
    pub(super) fn transfer_ends(&self, begun: u64, bytes: usize) {
        self.control
            .live
            .moved
            .fetch_add(bytes as u64, Ordering::Relaxed);
        let Some(rate) = self.config.device_rate else {
            return;
        };
        let takes =
            u64::try_from(bytes as u128 * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
        let busy_until = &self.control.live.busy_until;
        let from = busy_until
            .load(Ordering::Relaxed)
            .max(begun.saturating_sub(CATCH_UP));
        let until = from.saturating_add(takes);
        busy_until.store(until, Ordering::Relaxed);
        let ahead = until.saturating_sub(wait::now_ns());
        if ahead > 50_000 {
            wait::sleep(Duration::from_nanos(ahead));
        }
    }
}
