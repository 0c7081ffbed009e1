// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How memory that the VFs write is found: each VF gets a strategy, and those without a log share the fingerprints of RAM.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use xe_vfio_device::dirty::{
    self, Content, Device, DmaLog, Fingerprints, Iommu, Kind, Offer, Strategy, Wish,
};
use xe_vfio_device::uapi::{KernelVf, VfioHandle};

use super::super::pages::Pages;
use super::Error;
use crate::vm::Vm;

/// Gives each VF its strategy; answers the fingerprints when one of them needs them.
///
/// # Errors
/// [`Error::Strategy`] for one that was named and cannot be had; [`Error::Fingerprints`].
pub(super) fn choose(vm: &Vm, wish: Wish) -> Result<Option<Arc<Fingerprints>>, Error> {
    let mut shared = None;
    for device in vm.devices() {
        let id = device.device_id();
        let vf = device.passthrough().vf();
        let kernel = || KernelVf::new(VfioHandle::new(vf.device().clone()));
        let offer = Offer {
            device: DmaLog::probe(&kernel()).map_err(|error| error.to_string()),
            iommu: vf.dirty_bits().map(drop).map_err(str::to_owned),
            content: Ok(()),
        };
        let choice = dirty::choose(wish, &offer).map_err(|why| Error::Strategy {
            id: id.to_owned(),
            why,
        })?;
        tracing::info!(id, strategy = %choice.kind, reason = choice.reason, "dirty strategy");
        let strategy: Box<dyn Strategy> = match (choice.kind, vf.dirty_bits()) {
            (Kind::Device, _) => Box::new(Device::new(kernel())),
            (Kind::Iommu, Ok(table)) => Box::new(Iommu::new(table.clone())),
            (Kind::Content, _) => Box::new(member(&mut shared, vm)?),
            (Kind::Iommu, Err(_)) | (Kind::All, _) => Box::new(dirty::All::default()),
        };
        device.set_dirty_strategy(strategy);
    }
    Ok(shared)
}

fn member(shared: &mut Option<Arc<Fingerprints>>, vm: &Vm) -> Result<Content, Error> {
    let fingerprints = match shared {
        Some(fingerprints) => fingerprints,
        None => {
            let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            let new = Fingerprints::new(Pages(vm.ram().clone()), threads);
            shared.insert(new.map_err(Error::Fingerprints)?)
        }
    };
    Ok(fingerprints.member())
}
