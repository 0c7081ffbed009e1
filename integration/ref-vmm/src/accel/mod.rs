// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What runs the guest: KVM, or a software vCPU where there is no usable KVM.
//!
//! Everything a migration needs of a hypervisor is in [`Accelerator`]: memory slots with a dirty log, MSI by eventfd,
//! a vCPU that parks and continues, and its whole state as data. KVM's way of doing it is in [`kvm`], the other in [`soft`].

pub mod kvm;
pub mod runner;
pub mod soft;

use std::io;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vfio_ioctls::VfioDeviceFd;
use vm_migration::protocol::MemoryRangeTable;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::Entry;
use crate::bus::Bus;

/// First GSI for MSI vectors; those below are the interrupt controllers' pins.
pub const FIRST_MSI_GSI: u32 = 24;

/// Why the accelerator could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A KVM call.
    #[error("KVM: {call} failed")]
    Kvm {
        /// The ioctl.
        call: &'static str,
        /// Its errno.
        #[source]
        source: errno::Error,
    },
    /// A thread, eventfd or epoll.
    #[error("{0} failed")]
    Io(&'static str, #[source] io::Error),
    /// The vCPU did not park.
    #[error("The vCPU did not park within {0} s")]
    Stuck(u64),
    /// State of another accelerator, or a field that makes no sense.
    #[error("The saved vCPU state cannot be used: {0}")]
    State(String),
    /// No accelerator of the wanted kind on this host.
    #[error("Accelerator {0} cannot be used here: {1}")]
    Unusable(Kind, String),
}

/// An accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// /dev/kvm.
    Kvm,
    /// An interpreter in a thread.
    Soft,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Soft => "soft",
        })
    }
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// KVM if it works, else soft.
    Auto,
    /// This one or an error.
    Only(Kind),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Only(Kind::Kvm)),
            "soft" => Ok(Self::Only(Kind::Soft)),
            _ => Err(format!("{text:?} is none of kvm, soft, auto")),
        }
    }
}

/// Host memory that the guest sees at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Guest physical address, a multiple of 4 KiB.
    pub gpa: u64,
    /// Bytes, a multiple of 4 KiB.
    pub size: u64,
    /// Where it is mapped in this process; stays mapped until the slot is removed.
    pub host: *mut u8,
}

// The pointer is a plain address to whoever holds it.
#[allow(unsafe_code)]
// SAFETY: it is only handed to KVM or read and written as guest memory, which tolerates any concurrent access.
unsafe impl Send for Slot {}

/// Where a device's message goes: the pair that the guest wrote into its MSI-X table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// State of vCPU and interrupt controllers as it travels; checked by [`Accelerator::restore`].
#[derive(Serialize, Deserialize)]
#[serde(tag = "accel", rename_all = "lowercase", deny_unknown_fields)]
pub enum State {
    /// Of KVM.
    Kvm(Box<kvm::state::KvmState>),
    /// Of the software vCPU.
    Soft(Box<soft::SoftState>),
}

impl State {
    /// The accelerator that understands it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kvm(_) => Kind::Kvm,
            Self::Soft(_) => Kind::Soft,
        }
    }
}

/// A hypervisor with one vCPU. The vCPU is parked at first.
pub trait Accelerator: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// KVM's VFIO device, which VFIO wants to know of; none without KVM.
    fn vfio_device(&self) -> Option<Arc<VfioDeviceFd>>;

    /// Shows host memory to the guest. `dirty_tracked` memory takes part in the dirty log.
    ///
    /// # Errors
    /// When the accelerator refuses it; nothing is mapped then.
    fn map(&self, slot: Slot, dirty_tracked: bool) -> Result<SlotId, Error>;

    /// Takes a slot away.
    ///
    /// # Errors
    /// When the accelerator refuses; the slot is still mapped then.
    fn unmap(&self, slot: SlotId) -> Result<(), Error>;

    /// From now on a signal on `event` is this message; one that came before is delivered at once.
    ///
    /// # Errors
    /// When the accelerator refuses; the GSI is connected as it was before.
    fn connect_msi(&self, gsi: u32, event: &EventFd, message: MsiMessage) -> Result<(), Error>;

    /// From now on signals stay in `event`.
    ///
    /// # Errors
    /// When the accelerator refuses; the GSI is still connected then.
    fn disconnect_msi(&self, gsi: u32, event: &EventFd) -> Result<(), Error>;

    /// Puts the vCPU at the guest's entry.
    ///
    /// # Errors
    /// When its registers cannot be set.
    fn boot(&self, entry: Entry) -> Result<(), Error>;

    /// Lets the vCPU run.
    fn run(&self);

    /// Parks the vCPU between two instructions.
    ///
    /// # Errors
    /// [`Error::Stuck`]; it then runs on.
    fn pause(&self) -> Result<(), Error>;

    /// Why the guest ended, when it did.
    fn ended(&self) -> Option<String>;

    /// State of the parked vCPU and the interrupt controllers.
    ///
    /// # Errors
    /// When a part cannot be read.
    fn save(&self) -> Result<State, Error>;

    /// Gives the parked vCPU a saved state.
    ///
    /// # Errors
    /// [`Error::State`] when it is not this accelerator's or makes no sense, else the call that failed. The VM is of no
    /// use then.
    fn restore(&self, state: &State) -> Result<(), Error>;

    /// Starts to note which pages are written.
    ///
    /// # Errors
    /// When logging cannot be switched on.
    fn start_dirty_log(&self) -> Result<(), Error>;

    /// What the guest has written since the last call, cleared by the call.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn dirty_log(&self) -> Result<MemoryRangeTable, Error>;

    /// Ends logging.
    ///
    /// # Errors
    /// When logging cannot be switched off; the guest merely runs slower then.
    fn stop_dirty_log(&self) -> Result<(), Error>;
}

/// Names a mapped slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// Creates the accelerator of the user's choice; the second value says why `auto` did not take KVM.
///
/// # Errors
/// [`Error::Unusable`] when the one asked for does not work here.
pub fn create(
    choice: Choice,
    bus: &Arc<Bus>,
) -> Result<(Arc<dyn Accelerator>, Option<String>), Error> {
    match choice {
        Choice::Only(kind) => Ok((create_one(kind, bus)?, None)),
        Choice::Auto => match create_one(Kind::Kvm, bus) {
            Ok(accelerator) => Ok((accelerator, None)),
            Err(reason) => {
                let reason = crate::describe(&reason);
                tracing::warn!(reason, "KVM cannot be used; the software vCPU takes over");
                Ok((create_one(Kind::Soft, bus)?, Some(reason)))
            }
        },
    }
}

fn create_one(kind: Kind, bus: &Arc<Bus>) -> Result<Arc<dyn Accelerator>, Error> {
    let unusable = |e: Error| Error::Unusable(kind, crate::describe(&e));
    Ok(match kind {
        Kind::Kvm => Arc::new(kvm::Kvm::new(bus.clone()).map_err(unusable)?),
        Kind::Soft => Arc::new(soft::Soft::new(bus.clone()).map_err(unusable)?),
    })
}
