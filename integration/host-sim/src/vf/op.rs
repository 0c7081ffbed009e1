// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The operations that can be made to fail, and their names.

use std::fmt;
use std::str::FromStr;

use super::state::{ARCS, Arc};

/// An operation that can be made to fail.
///
/// `Reset` to `LogReport` are checked inside [`super::Vf`]; the others are checked by the boundary.
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
    /// A function level reset in the PF: can be slow; an errno is only logged there, so it changes nothing.
    Flr,
    /// Production of one packet in the PF: an errno makes the save fail.
    Producer,
    /// Use of one packet in the PF: an errno makes the restore fail behind a write that succeeds.
    Consumer,
    /// One arc, before anything of it is done.
    Arc(Arc),
    /// DMA_LOGGING_START, in the driver.
    LogStart,
    /// DMA_LOGGING_STOP, in the driver.
    LogStop,
    /// DMA_LOGGING_REPORT, in the driver: an errno leaves the log as it was.
    LogReport,
    /// IOMMU_HWPT_ALLOC.
    HwptAlloc,
    /// IOMMU_HWPT_SET_DIRTY_TRACKING.
    SetDirtyTracking,
    /// IOMMU_HWPT_GET_DIRTY_BITMAP: an errno leaves the bits as they were.
    GetDirtyBitmap,
}

impl Op {
    /// Every operation. Its place here, from 0, is its code in shared memory.
    pub const ALL: [Self; 33] = [
        Self::OpenGroup,
        Self::OpenCdev,
        Self::GetDeviceFd,
        Self::BindIommufd,
        Self::Attach,
        Self::MapDma,
        Self::UnmapDma,
        Self::SetIrqs,
        Self::EmfileOnDataFd,
        Self::Reset,
        Self::GetFlags,
        Self::GetState,
        Self::SetState,
        Self::DataSize,
        Self::Read,
        Self::Write,
        Self::Flr,
        Self::Producer,
        Self::Consumer,
        Self::Arc(ARCS[0]),
        Self::Arc(ARCS[1]),
        Self::Arc(ARCS[2]),
        Self::Arc(ARCS[3]),
        Self::Arc(ARCS[4]),
        Self::Arc(ARCS[5]),
        Self::Arc(ARCS[6]),
        Self::Arc(ARCS[7]),
        Self::LogStart,
        Self::LogStop,
        Self::LogReport,
        Self::HwptAlloc,
        Self::SetDirtyTracking,
        Self::GetDirtyBitmap,
    ];

    pub(super) fn code(self) -> u32 {
        Self::ALL
            .iter()
            .zip(0..)
            .find_map(|(op, code)| (*op == self).then_some(code))
            .unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenGroup => "open-group",
            Self::OpenCdev => "open-cdev",
            Self::GetDeviceFd => "get-device-fd",
            Self::BindIommufd => "bind-iommufd",
            Self::Attach => "attach",
            Self::MapDma => "map-dma",
            Self::UnmapDma => "unmap-dma",
            Self::SetIrqs => "set-irqs",
            Self::EmfileOnDataFd => "emfile-on-data-fd",
            Self::Reset => "reset",
            Self::GetFlags => "get-flags",
            Self::GetState => "get-state",
            Self::SetState => "set-state",
            Self::DataSize => "data-size",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flr => "flr",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::LogStart => "log-start",
            Self::LogStop => "log-stop",
            Self::LogReport => "log-report",
            Self::HwptAlloc => "hwpt-alloc",
            Self::SetDirtyTracking => "set-dirty-tracking",
            Self::GetDirtyBitmap => "get-dirty-bitmap",
            Self::Arc(arc) => return write!(f, "arc:{arc}"),
        })
    }
}

/// A name that is no operation's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("There is no operation \"{name}\"; there are {}", names())]
pub struct UnknownOp {
    /// The name.
    pub name: String,
}

fn names() -> String {
    Op::ALL.map(|op| op.to_string()).join(", ")
}

impl FromStr for Op {
    type Err = UnknownOp;

    fn from_str(name: &str) -> Result<Self, UnknownOp> {
        Self::ALL
            .into_iter()
            .find(|op| op.to_string() == name)
            .ok_or_else(|| UnknownOp { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_name_and_a_code_of_its_own() {
        for (op, code) in Op::ALL.into_iter().zip(0..) {
            assert_eq!(op.to_string().parse(), Ok(op));
            assert_eq!(op.code(), code);
        }
        assert!(
            "arc:RUNNING->STOP".parse::<Op>().is_err(),
            "that is a combination"
        );
    }
}
