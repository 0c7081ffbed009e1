// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM that a command has taken out of its place, and what holds when the command panics.
//!
//! [`Held`] puts the VM back when it is dropped, whichever way: a defect in a command costs the command, not the guest.
//! After go the guest may run at the destination, so a VM that is put back by a panic is undecided then.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{State, Vmm};
use crate::migration::watch::Watch;
use crate::vm::Vm;

/// A VM while a command has it.
pub(super) struct Held<'a> {
    vmm: &'a Vmm,
    vm: Option<Box<Vm>>,
    watch: Arc<Watch>,
}

impl<'a> Held<'a> {
    pub(super) fn new(vmm: &'a Vmm, vm: Box<Vm>, watch: Arc<Watch>) -> Self {
        let vm = Some(vm);
        Self { vmm, vm, watch }
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Leaves the place to what `then` makes of the VM.
    pub(super) fn leave(mut self, then: impl FnOnce(Box<Vm>) -> State) {
        if let Some(vm) = self.vm.take() {
            let state = then(vm);
            *self.vmm.lock() = state;
        }
    }
}

impl Deref for Held<'_> {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        self.vm.as_ref().expect("held until it is left")
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Vm {
        self.vm.as_mut().expect("held until it is left")
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.take() {
            let undecided = std::thread::panicking() && self.watch.is_committed();
            *self.vmm.lock() = if undecided {
                State::Undecided(vm)
            } else {
                State::Here(vm)
            };
        }
    }
}

/// The place of a VM that is awaited; empty again when none has come.
pub(super) struct Awaited<'a>(pub(super) &'a Vmm);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(*state, State::Busy(..)) {
            *state = State::Empty;
        }
    }
}

/// Does `work`; a panic in it becomes a sentence.
pub(super) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        let text = format!("The command ended by a defect of this VMM, please report it: {what}");
        tracing::error!("{text}");
        text
    })
}

#[cfg(test)]
mod tests {
    use xe_vfio_device::device::Options;

    use super::*;
    use crate::accel::{Choice, Kind};
    use crate::config::HostConfig;
    use crate::events::Events;
    use crate::migration::Limits;
    use crate::migration::forecast::Forecaster;
    use crate::serial::Target;

    fn vmm_with_vm() -> Vmm {
        let host = HostConfig {
            serial: Target::Null,
            accel: Choice::Only(Kind::Soft),
            iommufd: false,
            dma_block: None,
        };
        let options = Options::default();
        let vm = Vm::new(32 << 20, &[], host.accel, &host, options).unwrap();
        let events = Events::new(None).unwrap();
        let (limits, forecaster) = (Limits::default(), Forecaster::default());
        let vmm = Vmm::new(host, Vec::new(), limits, options, events, forecaster);
        vmm.adopt(Box::new(vm));
        vmm
    }

    #[test]
    fn a_command_that_panics_puts_its_vm_back_and_says_so() {
        let vmm = vmm_with_vm();
        let told = contained(|| {
            let _held = vmm.take("testing").unwrap();
            panic!("out of luck");
        });
        assert!(told.unwrap_err().contains("out of luck"));
        assert_eq!(vmm.state_name(), "paused");
        vmm.take("testing again").unwrap();
    }

    #[test]
    fn a_panic_after_go_leaves_the_vm_undecided() {
        let vmm = vmm_with_vm();
        let told: Result<(), _> = contained(|| {
            let held = vmm.take("migrating").unwrap();
            assert!(held.watch().commit());
            panic!("out of luck");
        });
        told.unwrap_err();
        assert!(vmm.take("testing").is_err());
        assert!(vmm.state_name().contains("perhaps running"));
    }

    #[test]
    fn a_receiver_that_panics_takes_the_next_vm() {
        let vmm = vmm_with_vm();
        let watch = Arc::new(Watch::default());
        *vmm.lock() = State::Busy("receiving", watch);
        let told: Result<(), _> = contained(|| {
            let _awaited = Awaited(&vmm);
            panic!("out of luck");
        });
        told.unwrap_err();
        assert_eq!(vmm.state_name(), "without a VM");
    }
}
