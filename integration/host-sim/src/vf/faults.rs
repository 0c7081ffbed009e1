// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults that a VF can be told to have, per operation.

use super::Errno;
use super::state::{ARCS, Arc};

/// An operation that can be made to fail.
///
/// `Reset` to `Producer` are checked inside [`super::Vf`]; the others are checked by the boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opening `/dev/vfio/<group>`.
    OpenGroup,
    /// Opening `/dev/vfio/devices/vfio<n>`.
    OpenCdev,
    /// VFIO_GROUP_GET_DEVICE_FD.
    GetDeviceFd,
    /// VFIO_DEVICE_BIND_IOMMUFD.
    BindIommufd,
    /// VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_GROUP_SET_CONTAINER.
    Attach,
    /// VFIO_IOMMU_MAP_DMA, IOMMU_IOAS_MAP.
    MapDma,
    /// VFIO_IOMMU_UNMAP_DMA, IOMMU_IOAS_UNMAP.
    UnmapDma,
    /// VFIO_DEVICE_SET_IRQS.
    SetIrqs,
    /// No fd left for the data fd: the SET ends with EMFILE, whatever the effect's errno, and the state is reached.
    EmfileOnDataFd,
    /// VFIO_DEVICE_RESET.
    Reset,
    /// GET of FEATURE_MIGRATION.
    GetFlags,
    /// GET of the device state.
    GetState,
    /// SET of the device state, before its first arc.
    SetState,
    /// GET of MIG_DATA_SIZE; an errno comes back as a huge length with result 0.
    DataSize,
    /// read of the data fd.
    Read,
    /// write of the data fd.
    Write,
    /// A function level reset in the PF: can be slow; an errno is only logged.
    Flr,
    /// Production of one packet in the PF: an errno makes the save fail.
    Producer,
    /// One arc, before anything of it is done.
    Arc(Arc),
}

/// What happens when a fault fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation answers this errno.
    Errno(Errno),
    /// A read or write moves at most so many bytes.
    Short(u64),
    /// The operation takes so many milliseconds longer.
    Delay(u64),
    /// The operation does not end until the fault is cleared.
    Stuck,
}

/// A fault: on the `nth` call of `op` from now (1 is the next) and the `count - 1` calls after it, `effect` happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSpec {
    /// Operation.
    pub op: Op,
    /// First call that is hit, counted from 1.
    pub nth: u32,
    /// Number of calls that are hit.
    pub count: u32,
    /// What happens.
    pub effect: Effect,
}

/// The faults of one VF; they live in shared memory and outlive the process that set them.
#[derive(Debug)]
pub struct Faults {}

impl Faults {
    /// To be called once by each `op` before it does anything.
    ///
    /// Answers the most bytes that the operation may move (`u64::MAX` without a fault). Sleeps when the fault says so.
    ///
    /// # Errors
    /// The fault's errno; `EINTR` when a signal ended its sleep.
    pub fn check(&self, op: Op) -> Result<u64, Errno> {
        let _ = (op, ARCS);
        Ok(u64::MAX)
    }
}
