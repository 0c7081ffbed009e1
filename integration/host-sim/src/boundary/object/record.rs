// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every process knows about an object: the first bytes of its file.

use std::ffi::c_int;

use serde::{Deserialize, Serialize};

use crate::boundary::sys;
use crate::vf::{Errno, SessionId};

const MAGIC: &[u8; 8] = b"hostsim1";
/// Bytes at the start of the file that belong to the record.
pub(super) const RECORD_SIZE: usize = 64 << 10;

/// How a device fd came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// VFIO_GROUP_GET_DEVICE_FD.
    Group,
    /// `/dev/vfio/devices/vfioN`.
    Cdev,
}

/// An object in an iommufd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// An address space, with its automatic page table when it has one.
    Ioas { auto_hwpt: Option<u32> },
    /// A page table of the IOAS with this id, and whether it has dirty bits.
    Hwpt { ioas: u32, dirty: bool },
    /// A bound device. Its group tells it among the hosts of a process.
    Device { group: u32 },
}

/// What every process knows about an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// `/dev/vfio/vfio`.
    Container { iommu: u32 },
    /// `/dev/vfio/<group>`.
    Group { vf: u16, container: Option<String> },
    /// A device; `bound` is the iommufd's name, `attached` the id of the IOAS.
    Device {
        vf: u16,
        via: Via,
        bound: Option<String>,
        attached: Option<u32>,
    },
    /// `/dev/iommu`.
    Iommufd {
        next_id: u32,
        items: Vec<(u32, Item)>,
        compat: Option<u32>,
    },
    /// A migration data fd.
    Data { vf: u16, session: u64, save: bool },
    /// Stands in for KVM's VFIO device.
    KvmVfio,
}

impl Record {
    pub(super) fn prefix(&self) -> String {
        match self {
            Self::Container { .. } => "container".to_owned(),
            Self::Group { vf, .. } => format!("group-{vf}"),
            Self::Device { vf, .. } => format!("device-{vf}"),
            Self::Iommufd { .. } => "iommufd".to_owned(),
            Self::Data { vf, .. } => format!("data-{vf}"),
            Self::KvmVfio => "kvm".to_owned(),
        }
    }

    /// Whether the device behind it is open.
    pub(super) fn opens_device(&self) -> bool {
        matches!(
            self,
            Self::Device {
                via: Via::Group,
                ..
            } | Self::Device { bound: Some(_), .. }
        )
    }
}

pub(super) fn write_record(fd: c_int, record: &Record) -> Result<(), Errno> {
    let mut bytes = MAGIC.to_vec();
    let json = serde_json::to_vec(record).map_err(|_| Errno::EIO)?;
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&json);
    if bytes.len() > RECORD_SIZE {
        return Err(Errno::ENOSPC);
    }
    sys::pwrite(fd, &bytes, 0).map(drop)
}

pub(super) fn read_record(fd: c_int) -> Option<Record> {
    let mut head = [0; 12];
    if sys::pread(fd, &mut head, 0).ok()? != head.len() || &head[..8] != MAGIC {
        return None;
    }
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let mut json = vec![0; len.min(RECORD_SIZE)];
    let got = sys::pread(fd, &mut json, 12).ok()?;
    serde_json::from_slice(&json[..got]).ok()
}

/// The session of a data fd.
pub fn session(record: &Record) -> Option<(u16, SessionId, bool)> {
    match *record {
        Record::Data { vf, session, save } => Some((vf, SessionId(session), save)),
        _ => None,
    }
}
