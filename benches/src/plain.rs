// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data fds and a socket with nothing between them: no frames, no checks, no threads.
//!
//! Between this and the floor is what the (simulated) data fds cost more than a memcpy; between this and a transfer is what the
//! crate itself costs.

use anyhow::bail;
use xe_vfio_device::device::Passthrough;
use xe_vfio_device::state::{AnyVf, Stopped, Vf};
use xe_vfio_device::transfer::Connection;

use crate::vf::Device;

const BUFFER: usize = 1 << 20;

type Kernel = <crate::vf::Passed as Passthrough>::Device;

fn stopped(device: &Device) -> anyhow::Result<Vf<Kernel, Stopped>> {
    match AnyVf::open(device.passthrough().device()) {
        AnyVf::Running(vf) => Ok(vf.quiesce()?.stop()?),
        AnyVf::RunningP2p(vf) => Ok(vf.stop()?),
        AnyVf::Stopped(vf) => Ok(vf),
        other => bail!("the VF is in {other}"),
    }
}

/// Reads a state and sends it as it is, with its length before each piece; answers its bytes.
///
/// # Errors
/// Those of the device and of the connection.
pub fn send(device: &Device, mut to: impl Connection) -> anyhow::Result<u64> {
    let mut saving = stopped(device)?.save()?;
    let (mut buffer, mut bytes) = (vec![0; BUFFER], 0);
    loop {
        let count = saving.read(&mut buffer)?;
        to.write_all(&(count as u64).to_le_bytes())?;
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count])?;
        bytes += count as u64;
    }
    to.read_exact(&mut [0])?;
    saving.finish()?;
    Ok(bytes)
}

/// Receives a state and writes it; answers its bytes.
///
/// # Errors
/// Those of the device and of the connection.
pub fn receive(device: &Device, mut from: impl Connection) -> anyhow::Result<u64> {
    let mut loading = stopped(device)?.load()?;
    let (mut buffer, mut bytes) = (vec![0; BUFFER], 0);
    loop {
        let mut count = [0; 8];
        from.read_exact(&mut count)?;
        let count = u64::from_le_bytes(count);
        if count == 0 {
            break;
        }
        let piece = &mut buffer[..count as usize];
        from.read_exact(piece)?;
        loading.write_all(piece)?;
        bytes += count;
    }
    loading.finish()?;
    from.write_all(&[1])?;
    Ok(bytes)
}
