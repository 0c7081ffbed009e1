// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All devices of a VM together.
//!
//! VFs may reach each other's memory (peer to peer), so none may be stopped while another still runs: all of them go to
//! RUNNING_P2P before any goes to STOP, and on the way back all reach RUNNING_P2P before any goes to RUNNING.
//!
//! ```no_run
//! # use xe_vfio_device::device::{DeviceGroup, GroupMember, GroupError};
//! # fn pause_vcpus() {}
//! # fn run_vcpus() {}
//! fn pause(members: &[&dyn GroupMember]) -> Result<(), GroupError> {
//!     let group = DeviceGroup::new(members);
//!     group.quiesce()?; // on failure all of them run again
//!     pause_vcpus();
//!     group.stop().inspect_err(|_| run_vcpus())
//! }
//! ```

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::{DeviceError, Passthrough, XeVfioDevice};
use crate::estimate::{Finished, Hosts, Lane, Moved, Route, Work};
use crate::state::Outcome;
use crate::uapi::usable_cores;

/// A device in a group.
pub trait GroupMember {
    /// The device's name in its VM.
    fn member_id(&self) -> &str;

    /// To RUNNING_P2P.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn quiesce(&self) -> Result<(), DeviceError>;

    /// From RUNNING_P2P to STOP.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn stop(&self) -> Result<(), DeviceError>;

    /// From STOP to RUNNING_P2P.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn unstop(&self) -> Result<(), DeviceError>;

    /// From RUNNING_P2P to RUNNING.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn run(&self) -> Result<(), DeviceError>;

    /// From anywhere to RUNNING, with a reset as the last resort.
    ///
    /// # Errors
    /// [`DeviceError`] when that failed too.
    fn give_back(&self) -> Result<Outcome, DeviceError>;

    /// To RUNNING with nothing in it.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn reset(&self) -> Result<(), DeviceError>;

    /// What it has to move when the guest stands still, as far as it knows.
    fn lane(&self) -> Option<Lane> {
        None
    }

    /// The last transfer of its state that came to a good end.
    fn moved(&self) -> Option<Moved> {
        None
    }

    /// Bytes of guest memory that are sent once more when it stands still, whatever was sent before.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn memory_left(&self) -> Result<u64, DeviceError> {
        Ok(0)
    }
}

impl<P: Passthrough> GroupMember for XeVfioDevice<P> {
    fn member_id(&self) -> &str {
        self.device_id()
    }

    fn quiesce(&self) -> Result<(), DeviceError> {
        self.quiesce()
    }

    fn stop(&self) -> Result<(), DeviceError> {
        self.stop()
    }

    fn unstop(&self) -> Result<(), DeviceError> {
        self.unstop()
    }

    fn run(&self) -> Result<(), DeviceError> {
        self.run()
    }

    fn give_back(&self) -> Result<Outcome, DeviceError> {
        self.give_back()
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.reset()
    }

    fn lane(&self) -> Option<Lane> {
        let manifest = self.known_manifest().ok()?;
        Some(Lane {
            device: self.device_id().to_owned(),
            state_bytes: manifest.stop_copy_length,
            zeros: None,
        })
    }

    fn moved(&self) -> Option<Moved> {
        self.last_moved().map(|(moved, _)| moved)
    }

    fn memory_left(&self) -> Result<u64, DeviceError> {
        self.memory_left_to_the_end()
    }
}

/// What became of each member, by its id.
#[derive(Debug, Default)]
pub struct GroupReport {
    /// The members in the group's order.
    pub members: Vec<(String, Result<Outcome, DeviceError>)>,
}

impl GroupReport {
    /// Whether each member runs with what the guest had on it.
    pub fn all_kept(&self) -> bool {
        self.members
            .iter()
            .all(|(_, outcome)| matches!(outcome, Ok(Outcome::GpuStateKept)))
    }
}

impl fmt::Display for GroupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all_kept() {
            return f.write_str("all VFs have their GPU state");
        }
        for (index, (id, outcome)) in self.members.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "; " })?;
            match outcome {
                Ok(Outcome::GpuStateKept) => write!(f, "{id} has its GPU state")?,
                Ok(Outcome::Reset { why }) => {
                    write!(f, "{id} was reset because {why}, its GPU state is lost")?;
                }
                Err(error) => write!(f, "{error}")?,
            }
        }
        Ok(())
    }
}

/// A step that a group did not take together.
#[derive(Debug, Error)]
#[error("The VM's VFs did not {step}; now {report}")]
pub struct GroupError {
    /// What was asked.
    pub step: &'static str,
    /// The member that failed first, and why.
    #[source]
    pub source: Box<DeviceError>,
    /// What became of all of them.
    pub report: GroupReport,
}

/// The devices of a VM.
pub struct DeviceGroup<'a> {
    members: &'a [&'a dyn GroupMember],
}

impl<'a> DeviceGroup<'a> {
    /// Groups devices; none is touched.
    pub fn new(members: &'a [&'a dyn GroupMember]) -> Self {
        Self { members }
    }

    /// All to RUNNING_P2P, with the vCPUs still running.
    ///
    /// # Errors
    /// [`GroupError`] after all of them went back to RUNNING.
    pub fn quiesce(&self) -> Result<(), GroupError> {
        self.all("go to RUNNING_P2P", |member| member.quiesce())
            .map_err(|error| self.rolled_back(error))
    }

    /// All from RUNNING_P2P to STOP, with the vCPUs paused.
    ///
    /// # Errors
    /// [`GroupError`] after all of them went back to RUNNING by way of RUNNING_P2P.
    pub fn stop(&self) -> Result<(), GroupError> {
        self.all("go to STOP", |member| member.stop())
            .map_err(|error| self.rolled_back(error))
    }

    /// As [`DeviceGroup::quiesce`] and [`DeviceGroup::stop`], for a VM whose vCPUs are paused already.
    ///
    /// # Errors
    /// [`GroupError`] after all of them went back to RUNNING.
    pub fn pause(&self) -> Result<(), GroupError> {
        self.quiesce()?;
        self.stop()
    }

    /// The source's way back: all to RUNNING_P2P, then all to RUNNING, from wherever they are. A member that does not move by
    /// itself is reset and reported; keep the vCPUs paused until the report was looked at.
    pub fn give_back(&self) -> GroupReport {
        // A member that fails here is dealt with alone below.
        for member in self.members {
            if let Err(error) = member.unstop() {
                tracing::debug!(id = member.member_id(), %error, "not yet in RUNNING_P2P");
            }
        }
        let recovered = self
            .members
            .iter()
            .map(|member| (member.member_id().to_owned(), member.give_back()));
        GroupReport {
            members: recovered.collect(),
        }
    }

    /// The destination's start: all to RUNNING_P2P, then all to RUNNING. With the first RUNNING the destination is committed.
    ///
    /// # Errors
    /// [`GroupError`] after all of them were reset: nothing of the guest may run here.
    pub fn start(&self) -> Result<(), GroupError> {
        self.all("go to RUNNING_P2P", |member| member.unstop())
            .and_then(|()| self.all("go to RUNNING", |member| member.run()))
            .map_err(|(step, source)| GroupError {
                step,
                source,
                report: self.reset(),
            })
    }

    /// Resets all, so that nothing of a guest is left in them.
    pub fn reset(&self) -> GroupReport {
        let why = crate::state::ResetReason::Asked;
        let reset = |member: &&dyn GroupMember| member.reset().map(|()| Outcome::Reset { why });
        GroupReport {
            members: self
                .members
                .iter()
                .map(|m| (m.member_id().to_owned(), reset(m)))
                .collect(),
        }
    }

    /// What would move if the guest stopped now: the members' state, without guest memory. Nothing is touched.
    pub fn work(&self, route: Route, hosts: Hosts) -> Work {
        let lanes = self.members.iter().filter_map(|member| member.lane());
        Work::new(route, hosts, lanes.collect())
    }

    /// Bytes of guest memory that no pass makes less. The members share the guest's memory, so it is the most that one of them says.
    ///
    /// # Errors
    /// [`DeviceError`] of the first that does not know.
    pub fn memory_left(&self) -> Result<u64, DeviceError> {
        let mut most = 0;
        for member in self.members {
            most = most.max(member.memory_left()?);
        }
        Ok(most)
    }

    /// What the members' last transfers took, to be remembered as what `work` came to. Times are the VMM's to fill in.
    pub fn finished(&self, work: &Work) -> Finished {
        Finished {
            route: work.route,
            hosts: work.hosts,
            cores: u32::try_from(usable_cores()).unwrap_or(u32::MAX),
            devices: self.members.iter().filter_map(|m| m.moved()).collect(),
            memory_bytes: work.memory_bytes,
            memory_cost: work.memory_cost,
            streaming: Duration::ZERO,
            around: Duration::ZERO,
        }
    }

    fn all(
        &self,
        step: &'static str,
        go: impl Fn(&dyn GroupMember) -> Result<(), DeviceError>,
    ) -> Result<(), (&'static str, Box<DeviceError>)> {
        self.members
            .iter()
            .try_for_each(|member| go(*member))
            .map_err(|error| (step, Box::new(error)))
    }

    fn rolled_back(&self, (step, source): (&'static str, Box<DeviceError>)) -> GroupError {
        GroupError {
            step,
            source,
            report: self.give_back(),
        }
    }
}
