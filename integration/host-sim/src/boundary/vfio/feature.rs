// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_DEVICE_FEATURE: the core's checks (drivers/vfio/vfio_main.c) in front of the VF's migration and DMA log.

use super::{Answer, logging};
use crate::boundary::hosts::{Attached, VfLocal};
use crate::boundary::object::{Object, Record};
use crate::boundary::user;
use crate::vf::{Errno, Op, SessionId, Transition};

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;
const NUMBER: u32 = 0xffff;
const HEADER: u32 = 8;

/// Features of migration and DMA logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    Migration,
    MigDeviceState,
    DmaLoggingStart,
    DmaLoggingStop,
    DmaLoggingReport,
    MigDataSize,
}

impl Feature {
    fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Migration),
            2 => Some(Self::MigDeviceState),
            6 => Some(Self::DmaLoggingStart),
            7 => Some(Self::DmaLoggingStop),
            8 => Some(Self::DmaLoggingReport),
            9 => Some(Self::MigDataSize),
            _ => None,
        }
    }

    fn operations(self) -> u32 {
        match self {
            Self::Migration | Self::MigDataSize | Self::DmaLoggingReport => GET,
            Self::DmaLoggingStart | Self::DmaLoggingStop => SET,
            Self::MigDeviceState => GET | SET,
        }
    }

    /// Bytes of its payload.
    fn payload(self) -> u32 {
        match self {
            Self::Migration | Self::MigDataSize | Self::MigDeviceState => 8,
            Self::DmaLoggingStart => logging::CONTROL,
            Self::DmaLoggingStop => 0,
            Self::DmaLoggingReport => logging::REPORT,
        }
    }

    /// Whether the driver has the callbacks for it.
    fn is_offered(self, vf: &VfLocal) -> bool {
        match self {
            Self::Migration | Self::MigDataSize | Self::MigDeviceState => vf.vf.config().migration,
            Self::DmaLoggingStart | Self::DmaLoggingStop | Self::DmaLoggingReport => {
                vf.vf.has_dma_log()
            }
        }
    }
}

pub fn ioctl(object: &Object, vf: &VfLocal, arg: usize) -> Answer {
    let (argsz, flags) = (user::get::<u32>(arg)?, user::get::<u32>(arg + 4)?);
    if argsz < HEADER || flags & !(NUMBER | GET | SET | PROBE) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & PROBE == 0 && flags & GET != 0 && flags & SET != 0 {
        return Err(Errno::EINVAL);
    }
    // Anything else is unknown to the core and to vfio-pci on a VF.
    let feature = Feature::from_raw(flags & NUMBER).ok_or(Errno::ENOTTY)?;
    if !feature.is_offered(vf) {
        return Err(Errno::ENOTTY);
    }
    if flags & (GET | SET) & !feature.operations() != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & PROBE != 0 {
        return Ok(0);
    }
    if flags & (GET | SET) == 0 || argsz - HEADER < feature.payload() {
        return Err(Errno::EINVAL);
    }
    let payload = arg + HEADER as usize;
    match feature {
        Feature::Migration => user::put(payload, vf.vf.migration_flags()?)?,
        Feature::MigDataSize => user::put(payload, vf.vf.stop_copy_length()?)?,
        Feature::MigDeviceState if flags & GET != 0 => {
            user::put(payload, vf.vf.state()?)?;
            user::put(payload + 4, -1i32)?;
        }
        Feature::MigDeviceState => set_state(&object.host, vf, payload)?,
        Feature::DmaLoggingStart => logging::start(&vf.vf, payload)?,
        Feature::DmaLoggingStop => vf.vf.dma_log_stop()?,
        Feature::DmaLoggingReport => logging::report(&vf.vf, payload)?,
    }
    Ok(0)
}

fn set_state(host: &std::sync::Arc<Attached>, vf: &VfLocal, payload: usize) -> Result<(), Errno> {
    let target = user::get::<u32>(payload)?;
    let transition = vf.vf.set_state(target).inspect_err(|_| {
        // The core answers -1 beside the error.
        let _ = user::put(payload + 4, -1i32);
    })?;
    let (SessionId(session), save) = match transition {
        Transition::None => return user::put(payload + 4, -1i32),
        Transition::Save(session) => (session, true),
        Transition::Load(session) => (session, false),
    };
    // From here on the state is reached, whether there is an fd for it or not.
    vf.check(Op::EmfileOnDataFd).map_err(|_| Errno::EMFILE)?;
    let mode = if save { libc::O_RDONLY } else { libc::O_WRONLY };
    let record = Record::Data {
        vf: vf.vf.index(),
        session,
        save,
    };
    let (fd, _) = Object::create(host, record, mode | libc::O_CLOEXEC)?;
    user::put(payload + 4, fd)
}
