// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device that a VMM owns: its own passthrough device with migration around it.
//!
//! [`XeVfioDevice`] takes the VMM's device behind the [`Passthrough`] trait. All methods take `&self` and may be called from any
//! thread; while one moves state the others answer [`DeviceError::Busy`] at once, except for those that tell
//! ([`XeVfioDevice::info`]) and end ([`XeVfioDevice::cancel_handle`]), which never wait.
//!
//! A source does, with the guest running: [`start`](XeVfioDevice::start), exchange [`manifest`](XeVfioDevice::manifest)s,
//! [`begin_attempt`](XeVfioDevice::begin_attempt) with the destination's id; then [`DeviceGroup::quiesce`], vCPUs paused,
//! [`DeviceGroup::stop`], [`send_over`](XeVfioDevice::send_over) or [`send_to`](XeVfioDevice::send_to) on a thread for each device
//! (to a process of the same host also [`send_fd_over`](XeVfioDevice::send_fd_over)); and in the end
//! [`handed_over`](XeVfioDevice::handed_over), or [`DeviceGroup::give_back`].
//!
//! A destination does: [`check`](XeVfioDevice::check), `begin_attempt`, [`prepare_load`](XeVfioDevice::prepare_load);
//! [`Incoming::accept`](crate::transfer::Incoming::accept) on each connection, [`load_from`](XeVfioDevice::load_from) on the device that it names;
//! [`restore`](XeVfioDevice::restore) for the PCI state, and [`DeviceGroup::start`].
//!
//! With the feature `cloud-hypervisor` the same goes through `Pausable`, `Snapshottable`, `Transportable` and `Migratable`.

mod dma_log;
mod error;
mod group;
mod handover;
mod lifecycle;
#[cfg(feature = "cloud-hypervisor")]
mod migratable;
mod passthrough;
mod slot;
mod snapshot;
mod streams;
#[cfg(test)]
mod tests;
mod tracking;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use error::DeviceError;
pub use group::{DeviceGroup, GroupError, GroupMember, GroupReport};
pub use passthrough::Passthrough;
pub use snapshot::{SnapshotError, VfSnapshot};
pub use tracking::{Tracking, When};

use self::slot::Slot;
use crate::dirty::{All, Strategy};
use crate::estimate::Moved;
use crate::state::{AnyVf, DeviceState, MigrationDevice, ResetReason};
use crate::stream::Manifest;
use crate::transfer::{
    AttemptId, Cancel, Compression, Context, Deadlines, Leave, Progress, ProgressView, Threads,
};
use crate::uapi::{InterruptSignal, MigrationFlags, UapiError};

/// What a VMM may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How long nothing may happen in a transfer.
    pub deadlines: Deadlines,
    /// The signal that gets a stuck transfer out of the kernel: one that the VMM uses for nothing else. Without one a device that
    /// is stuck can be neither stopped nor reset.
    pub interrupt: Option<InterruptSignal>,
}

/// Whether the VF can migrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It can.
    Migratable(MigrationFlags),
    /// The kernel offers no migration for it; ENOTTY when the platform or its firmware does not support it.
    Refused(UapiError),
    /// It lacks STOP_COPY or P2P.
    Incomplete(MigrationFlags),
}

/// What can be told about a device at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// State of the VF when it was last looked at; `None` when it is unknown or on its way.
    pub state: Option<DeviceState>,
    /// What is being done, `None` when nothing is.
    pub busy: Option<&'static str>,
    /// How far the transfer is.
    pub progress: ProgressView,
    /// Why the guest lost what it had on the GPU, if it did. Kept until the next load or [`XeVfioDevice::acknowledge_reset`].
    pub reset: Option<ResetReason>,
    /// Whether the VF belongs to another host now.
    pub handed_over: bool,
    /// The attempt under way.
    pub attempt: AttemptId,
}

/// A passed-through Xe VF that can migrate. See the module's header.
pub struct XeVfioDevice<P: Passthrough> {
    passthrough: P,
    id: String,
    options: Options,
    support: Support,
    slot: Slot<P::Device>,
    shared: Mutex<Shared>,
    progress: Progress,
    dirty: Mutex<Box<dyn Strategy>>,
}

/// What may be looked at while state moves.
struct Shared {
    attempt: AttemptId,
    cancel: Cancel,
    manifest: Option<Manifest>,
    reset: Option<ResetReason>,
    handed_over: bool,
    moved: Option<(Moved, Instant)>,
    leave: Leave,
    compression: Compression,
}

impl<P: Passthrough> XeVfioDevice<P> {
    /// Takes the VMM's device as it is; changes nothing. A VF that cannot migrate is taken too, see
    /// [`XeVfioDevice::support`].
    pub fn new(passthrough: P, options: Options) -> Self {
        let device = passthrough.device();
        let support = match device.flags() {
            Ok(flags)
                if flags.contains(MigrationFlags::STOP_COPY)
                    && flags.contains(MigrationFlags::P2P) =>
            {
                Support::Migratable(flags)
            }
            Ok(flags) => Support::Incomplete(flags),
            Err(error) => Support::Refused(error),
        };
        let id = passthrough.id();
        tracing::debug!(id, ?support, "migration support");
        Self {
            id,
            options,
            support,
            slot: Slot::new(AnyVf::open(device)),
            shared: Mutex::new(Shared {
                attempt: AttemptId::NONE,
                cancel: Cancel::new(),
                manifest: None,
                reset: None,
                handed_over: false,
                moved: None,
                leave: Leave::AtOnce,
                compression: Compression::Off,
            }),
            progress: Progress::default(),
            dirty: Mutex::new(Box::new(All::default())),
            passthrough,
        }
    }

    /// The VMM's own device.
    pub fn passthrough(&self) -> &P {
        &self.passthrough
    }

    /// The device's name in its VM.
    pub fn device_id(&self) -> &str {
        &self.id
    }

    /// Whether the VF can migrate, and if not why.
    pub fn support(&self) -> Support {
        self.support
    }

    /// Everything that can be told without waiting.
    pub fn info(&self) -> Info {
        let (state, busy) = self.slot.look();
        let shared = self.shared();
        Info {
            state,
            busy,
            progress: self.progress.view(),
            reset: shared.reset,
            handed_over: shared.handed_over,
            attempt: shared.attempt,
        }
    }

    /// Counters of the transfer, for another thread to watch.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Ends the transfer of the present attempt from any thread, before it begins too. The next attempt has a new handle.
    pub fn cancel_handle(&self) -> Cancel {
        self.shared().cancel.clone()
    }

    /// Forgets that the GPU state was lost, once the guest or the user was told.
    pub fn acknowledge_reset(&self) {
        self.shared().reset = None;
    }

    /// The last save or load that came to a good end, for estimates of the next, and when it did.
    pub fn last_moved(&self) -> Option<(Moved, Instant)> {
        self.shared().moved.clone()
    }

    /// How guest memory that the VF writes is found.
    pub fn dirty_strategy(&self) -> &'static str {
        self.dirty().kind().name()
    }

    /// Finds it so from now on; [`All`] until then. A log that is on ends.
    pub fn set_dirty_strategy(&self, strategy: Box<dyn Strategy>) {
        let mut before = std::mem::replace(&mut *self.dirty(), strategy);
        before.stop();
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dirty(&self) -> MutexGuard<'_, Box<dyn Strategy>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self) -> Context {
        let shared = self.shared();
        Context {
            attempt: shared.attempt,
            cancel: shared.cancel.clone(),
            deadlines: self.options.deadlines,
            progress: self.progress.clone(),
            interrupt: self.options.interrupt,
            threads: Threads::Auto,
            leave: shared.leave,
            compression: shared.compression,
        }
    }
}
