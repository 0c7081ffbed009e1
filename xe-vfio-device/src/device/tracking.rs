// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the memory that a VM's VFs write is found in one migration: each VF's strategy, and the window in which it is used.
//!
//! A source does: [`Tracking::choose`] before it tells the destination anything; while it sends memory, whatever leaves goes by
//! [`Tracking::fingerprints`], if there are any; [`Tracking::rehearse`] after the first pass. When memory has converged it asks
//! [`Tracking::when`]. For [`When::GuestRuns`] it begins the window ([`Tracking::begin_window`]), has the
//! [`DeviceGroup`](super::DeviceGroup) quiesce, and reads logs ([`XeVfioDevice::dma_written`] and its own) and sends what they have until
//! little is left or the window is over. Then vCPUs pause; [`Tracking::end_window`]; the last logs.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use super::{DeviceError, Passthrough, XeVfioDevice};
use crate::dirty::{
    self, All, Choice, Content, Device, DirtyError, DmaLog, Fingerprints, GuestPages, GuestRange,
    Iommu, Kind, Offer, Pause, Scanned, Strategy, Wish,
};
use crate::uapi::usable_cores;

/// The strategies of a VM's VFs in one migration.
#[derive(Default)]
pub struct Tracking {
    choices: Vec<(String, Choice)>,
    fingerprints: Option<Arc<Fingerprints>>,
    pause: Pause,
}

/// When that is found and sent which the VFs have written last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// While the VFs stand still and the guest runs.
    GuestRuns,
    /// After the guest has stopped, where it costs downtime.
    GuestIsStopped {
        /// Why, for people.
        why: String,
    },
}

impl Tracking {
    /// Gives each device its strategy, by probing what the host has or as the user wishes. Those without a log share fingerprints of
    /// `memory`. Nothing is logged yet.
    ///
    /// # Errors
    /// [`DeviceError::Dirty`] for a strategy that was named and cannot be had, or without a key for fingerprints.
    pub fn choose<'a, P>(
        devices: impl IntoIterator<Item = &'a XeVfioDevice<P>>,
        wish: Wish,
        pause: Pause,
        memory: impl GuestPages + 'static,
    ) -> Result<Self, DeviceError>
    where
        P: Passthrough<Device: DmaLog + 'static> + 'a,
    {
        let mut memory = Some(memory);
        let mut tracking = Self {
            pause,
            ..Self::default()
        };
        for device in devices {
            let log = device.passthrough.device();
            let dirty_bits = device.passthrough.dirty_bits();
            let offer = Offer {
                device: log.probe().map_err(|error| error.to_string()),
                iommu: dirty_bits.as_ref().map(drop).map_err(String::clone),
                content: Ok(()),
            };
            let choice = dirty::choose(wish, &offer)
                .map_err(|why| device.not_known(DirtyError::Unavailable(why)))?;
            tracing::info!(id = device.id, strategy = %choice.kind, reason = choice.reason, "dirty strategy");
            let strategy: Box<dyn Strategy> = match (choice.kind, dirty_bits) {
                (Kind::Device, _) => Box::new(Device::new(log)),
                (Kind::Iommu, Ok(table)) => Box::new(Iommu::new(table)),
                (Kind::Content, _) => Box::new(
                    tracking
                        .member(&mut memory)
                        .map_err(|error| device.not_known(error))?,
                ),
                (Kind::Iommu, Err(_)) | (Kind::All, _) => Box::new(All::default()),
            };
            device.set_dirty_strategy(strategy);
            tracking.choices.push((device.id.clone(), choice));
        }
        Ok(tracking)
    }

    fn member(
        &mut self,
        memory: &mut Option<impl GuestPages + 'static>,
    ) -> Result<Content, DirtyError> {
        if let Some(memory) = memory.take() {
            let threads = NonZeroUsize::new(usable_cores()).unwrap_or(NonZeroUsize::MIN);
            self.fingerprints = Some(Fingerprints::new(memory, threads)?);
        }
        let shared = self.fingerprints.as_ref();
        Ok(shared.expect("made with the first member").member())
    }

    /// What was chosen for each device, by its id.
    pub fn choices(&self) -> &[(String, Choice)] {
        &self.choices
    }

    /// Where each byte of guest memory that leaves has to go by, if one of the VFs has no log.
    pub fn fingerprints(&self) -> Option<&Arc<Fingerprints>> {
        self.fingerprints.as_ref()
    }

    /// What the user allows.
    pub fn pause(&self) -> Pause {
        self.pause
    }

    /// Compares memory while the VFs run, if that is how their writes are found. What it finds is worth sending, and what it takes is
    /// what the comparison in the window will take.
    ///
    /// # Errors
    /// [`DirtyError`].
    pub fn rehearse(&self) -> Result<Option<(Vec<GuestRange>, Scanned)>, DirtyError> {
        self.fingerprints
            .as_ref()
            .map(|shared| shared.rehearse())
            .transpose()
    }

    /// When the VFs' last writes are to be found; memory is sent at `send_rate` bytes per second.
    pub fn when(&self, send_rate: f64) -> When {
        let limit = self.pause.limit;
        let all = |(_, choice): &&(String, Choice)| choice.kind == Kind::All;
        let why = if self.choices.is_empty() {
            "there is no VF".to_owned()
        } else if let Some((id, _)) = self.choices.iter().find(all) {
            format!("nothing tells what {id} has written")
        } else if limit.is_zero() {
            "the GPUs may not pause while the guest runs".to_owned()
        } else if let Some(last) = self.last_comparison()
            && let prediction = self.pause.predict(&last, send_rate)
            && !prediction.fits
        {
            format!("more than the limit of {limit:?} for the GPUs: {prediction}")
        } else {
            return When::GuestRuns;
        };
        When::GuestIsStopped { why }
    }

    /// What the last comparison took; the next will take about as much.
    pub fn last_comparison(&self) -> Option<Scanned> {
        self.fingerprints.as_ref()?.last()
    }

    /// The VFs are about to stand still with the guest running. Answers until when they may; a comparison ends there.
    pub fn begin_window(&self) -> Instant {
        let until = self.pause.deadline();
        if let Some(shared) = &self.fingerprints {
            shared.set_deadline(Some(until));
        }
        until
    }

    /// The guest stands still: what has not been compared is compared now, whatever it takes.
    pub fn end_window(&self) {
        if let Some(shared) = &self.fingerprints {
            shared.set_deadline(None);
        }
    }
}
