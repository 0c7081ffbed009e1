// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_DEVICE_FEATURE: the core's checks (drivers/vfio/vfio_main.c) in front of the VF's migration.

use super::Answer;
use crate::boundary::hosts::{Attached, VfLocal};
use crate::boundary::object::{Object, Record};
use crate::boundary::user;
use crate::vf::{Errno, Op, SessionId, Transition};

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;
const NUMBER: u32 = 0xffff;
const HEADER: u32 = 8;

/// Features of the migration interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    Migration,
    MigDeviceState,
    MigDataSize,
}

impl Feature {
    fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Migration),
            2 => Some(Self::MigDeviceState),
            9 => Some(Self::MigDataSize),
            _ => None,
        }
    }

    fn operations(self) -> u32 {
        match self {
            Self::Migration | Self::MigDataSize => GET,
            Self::MigDeviceState => GET | SET,
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
    // Anything else is unknown to the core and to vfio-pci on a VF; dirty logging is not this driver's.
    let feature = Feature::from_raw(flags & NUMBER).ok_or(Errno::ENOTTY)?;
    if !object.host.host.config().migration {
        return Err(Errno::ENOTTY);
    }
    if flags & (GET | SET) & !feature.operations() != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & PROBE != 0 {
        return Ok(0);
    }
    // The payload of each of the three is 8 bytes.
    if flags & (GET | SET) == 0 || argsz - HEADER < 8 {
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
