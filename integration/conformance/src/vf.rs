// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF through its group and container, with VFIO's ioctls as they are.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::check::{Outcome, failed, works};
use crate::sys::{self, Answer};

const fn vfio(number: u64) -> u64 {
    0x3b64 + number
}

const SET_IOMMU: u64 = vfio(2);
const GROUP_GET_STATUS: u64 = vfio(3);
const GROUP_SET_CONTAINER: u64 = vfio(4);
/// VFIO_GROUP_GET_DEVICE_FD.
pub const GROUP_GET_DEVICE_FD: u64 = vfio(6);
const DEVICE_GET_INFO: u64 = vfio(7);
const DEVICE_RESET: u64 = vfio(11);
/// VFIO_DEVICE_FEATURE.
pub const DEVICE_FEATURE: u64 = vfio(17);
const TYPE1V2_IOMMU: u64 = 3;

/// Flags and features of VFIO_DEVICE_FEATURE (include/uapi/linux/vfio.h).
pub mod feature {
    /// GET.
    pub const GET: u32 = 1 << 16;
    /// SET.
    pub const SET: u32 = 1 << 17;
    /// PROBE.
    pub const PROBE: u32 = 1 << 18;
    /// MIGRATION.
    pub const MIGRATION: u32 = 1;
    /// MIG_DEVICE_STATE.
    pub const STATE: u32 = 2;
    /// DMA_LOGGING_START.
    pub const LOGGING_START: u32 = 6;
    /// DMA_LOGGING_STOP.
    pub const LOGGING_STOP: u32 = 7;
    /// DMA_LOGGING_REPORT.
    pub const LOGGING_REPORT: u32 = 8;
    /// MIG_DATA_SIZE.
    pub const DATA_SIZE: u32 = 9;
}

/// States of the v2 API (include/uapi/linux/vfio.h).
pub const ERROR: u32 = 0;
/// STOP.
pub const STOP: u32 = 1;
/// RUNNING.
pub const RUNNING: u32 = 2;
/// STOP_COPY.
pub const STOP_COPY: u32 = 3;
/// RESUMING.
pub const RESUMING: u32 = 4;
/// RUNNING_P2P.
pub const RUNNING_P2P: u32 = 5;
/// PRE_COPY.
pub const PRE_COPY: u32 = 6;
/// PRE_COPY_P2P.
pub const PRE_COPY_P2P: u32 = 7;

/// The states that a Xe VF can be in.
pub const STATES: [u32; 5] = [RUNNING, RUNNING_P2P, STOP, STOP_COPY, RESUMING];
/// The states that it cannot be asked to be in, and one that is none.
pub const FORBIDDEN: [u32; 4] = [ERROR, PRE_COPY, PRE_COPY_P2P, 42];

/// Name of a state.
pub fn name(state: u32) -> &'static str {
    [
        "ERROR",
        "STOP",
        "RUNNING",
        "STOP_COPY",
        "RESUMING",
        "RUNNING_P2P",
        "PRE_COPY",
        "PRE_COPY_P2P",
    ]
    .get(state as usize)
    .copied()
    .unwrap_or("UNKNOWN")
}

/// /dev/vfio/N of a VF.
pub fn group_path(sysfs: &Path) -> Outcome<PathBuf> {
    match fs::read_link(sysfs.join("iommu_group")) {
        Ok(group) => Ok(Path::new("/dev/vfio").join(group.file_name().unwrap_or_default())),
        Err(error) => failed(format_args!(
            "{} has no IOMMU group: {error}",
            sysfs.display()
        )),
    }
}

/// PCI address of a VF, as VFIO wants it.
pub fn address(sysfs: &Path) -> String {
    let path = fs::canonicalize(sysfs).unwrap_or_else(|_| sysfs.into());
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A group, open and in a container of its own.
pub struct Group {
    /// VFIO group fd.
    pub fd: OwnedFd,
    /// VFIO container fd.
    pub container: OwnedFd,
}

impl Group {
    /// Opens a VF's group. The kernel closes a group a little after its last fd, so EBUSY is waited out for a second.
    pub fn open(sysfs: &Path) -> Outcome<Self> {
        let path = group_path(sysfs)?;
        let start = Instant::now();
        let fd = loop {
            match sys::open(&path, libc::O_RDWR) {
                Err(sys::Errno(libc::EBUSY)) if start.elapsed() < Duration::from_secs(1) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                answer => break works(&format!("open {}", path.display()), answer)?,
            }
        };
        let container = works(
            "open /dev/vfio/vfio",
            sys::open(Path::new("/dev/vfio/vfio"), libc::O_RDWR),
        )?;
        let mut number = std::os::fd::AsRawFd::as_raw_fd(&container).to_ne_bytes();
        works(
            "VFIO_GROUP_SET_CONTAINER",
            sys::ioctl_bytes(fd.as_fd(), GROUP_SET_CONTAINER, &mut number),
        )?;
        works(
            "VFIO_SET_IOMMU",
            sys::ioctl(container.as_fd(), SET_IOMMU, TYPE1V2_IOMMU),
        )?;
        Ok(Self { fd, container })
    }

    /// VFIO_GROUP_GET_DEVICE_FD.
    pub fn device(&self, address: &str) -> Answer<OwnedFd> {
        let fd = sys::ioctl_str(self.fd.as_fd(), GROUP_GET_DEVICE_FD, address)?;
        sys::adopt(fd).ok_or(sys::Errno(libc::EBADF))
    }
}

/// The flags of VFIO_GROUP_GET_STATUS, on a group fd without container too.
pub fn group_status(fd: BorrowedFd<'_>) -> Answer<u32> {
    let mut status = [0u8; 8];
    status[0] = 8;
    sys::ioctl_bytes(fd, GROUP_GET_STATUS, &mut status)?;
    Ok(u32::from_ne_bytes([
        status[4], status[5], status[6], status[7],
    ]))
}

/// An open VF. Dropping it closes it.
pub struct Vf {
    /// VFIO device fd; before the group, so that it is closed first.
    pub device: OwnedFd,
    /// Its group.
    pub group: Group,
    /// PCI address.
    pub address: String,
}

impl Vf {
    /// Opens a VF by its sysfs directory.
    pub fn open(sysfs: &Path) -> Outcome<Self> {
        let group = Group::open(sysfs)?;
        let address = address(sysfs);
        let device = works("VFIO_GROUP_GET_DEVICE_FD", group.device(&address))?;
        Ok(Self {
            device,
            group,
            address,
        })
    }

    /// The device fd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// VFIO_DEVICE_FEATURE with any argsz up to 8 and the payload's length, and any flags.
    pub fn feature(&self, argsz: usize, flags: u32, payload: &mut [u8]) -> Answer<()> {
        feature_of(self.fd(), argsz, flags, payload)
    }

    /// GET of the state: state and data_fd.
    pub fn get(&self) -> Answer<(u32, i32)> {
        state_of(self.fd())
    }

    /// The state.
    #[track_caller]
    pub fn state(&self) -> Outcome<u32> {
        works("GET of the state", self.get()).map(|(state, _)| state)
    }

    /// SET of the state; the data fd when there is one.
    pub fn set(&self, state: u32) -> Answer<Option<OwnedFd>> {
        let mut payload = [0u8; 8];
        payload[..4].copy_from_slice(&state.to_ne_bytes());
        payload[4..].copy_from_slice(&7i32.to_ne_bytes());
        self.feature(16, feature::STATE | feature::SET, &mut payload)?;
        Ok(sys::adopt(i32::from_ne_bytes([
            payload[4], payload[5], payload[6], payload[7],
        ])))
    }

    /// SET that has to work and to answer a data fd.
    #[track_caller]
    pub fn set_for_fd(&self, state: u32) -> Outcome<OwnedFd> {
        match works(&format!("SET {}", name(state)), self.set(state))? {
            Some(fd) => Ok(fd),
            None => failed(format_args!("SET {} answers no data fd", name(state))),
        }
    }

    /// MIG_DATA_SIZE.
    pub fn data_size(&self) -> Answer<u64> {
        let mut payload = [0u8; 8];
        self.feature(16, feature::DATA_SIZE | feature::GET, &mut payload)?;
        Ok(u64::from_ne_bytes(payload))
    }

    /// VFIO_DEVICE_RESET.
    pub fn reset(&self) -> Answer<()> {
        sys::ioctl(self.fd(), DEVICE_RESET, 0).map(drop)
    }

    /// VFIO_DEVICE_GET_INFO: flags, regions, interrupts.
    pub fn info(&self) -> Answer<[u32; 3]> {
        let mut info = [0u8; 24];
        info[0] = 20;
        sys::ioctl_bytes(self.fd(), DEVICE_GET_INFO, &mut info)?;
        Ok([4, 8, 12]
            .map(|at| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]])))
    }
}

/// GET of the state on any device fd: state and data_fd.
pub fn state_of(fd: BorrowedFd<'_>) -> Answer<(u32, i32)> {
    let mut payload = [0xffu8; 8];
    feature_of(fd, 16, feature::STATE | feature::GET, &mut payload)?;
    let [a, b, c, d, e, f, g, h] = payload;
    Ok((
        u32::from_ne_bytes([a, b, c, d]),
        i32::from_ne_bytes([e, f, g, h]),
    ))
}

fn feature_of(fd: BorrowedFd<'_>, argsz: usize, flags: u32, payload: &mut [u8]) -> Answer<()> {
    let mut bytes = vec![0u8; 8 + payload.len()];
    assert!(
        argsz <= bytes.len(),
        "the kernel would look beyond the buffer"
    );
    bytes[..4].copy_from_slice(&(argsz as u32).to_ne_bytes());
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..].copy_from_slice(payload);
    sys::ioctl_bytes(fd, DEVICE_FEATURE, &mut bytes)?;
    payload.copy_from_slice(&bytes[8..]);
    Ok(())
}
