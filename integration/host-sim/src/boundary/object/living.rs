// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who holds what: a file in `open/` that can be locked has no fd left in any process.

use std::sync::Arc;

use super::record::read_record;
use super::{Object, REGISTRY, Record, identity, path};
use crate::boundary::hosts::Attached;
use crate::boundary::{sys, vfio, worker};
use crate::vf::Errno;

/// Whether any process holds the file `name`; a dead one is removed. Needs the host's lock.
fn probe(host: &Attached, name: &str) -> bool {
    let path = path(host, name);
    let fd = match sys::open(&path, libc::O_RDONLY, 0) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return false,
        // No fd left: nothing can be said, and nothing must be taken away.
        Err(_) => return true,
    };
    let dead = sys::flock(fd, libc::LOCK_SH | libc::LOCK_NB).is_ok();
    if dead {
        sys::unlink(&path);
        if let Ok(stat) = sys::fstat(fd) {
            // Bound to a name, so that it is dropped after the registry's lock.
            let _gone = REGISTRY
                .lock()
                .as_mut()
                .and_then(|r| r.remove(&identity(&stat)));
        }
    }
    sys::close(fd);
    !dead
}

/// Records of the files with `prefix` that some process holds; dead ones are removed.
pub fn living(host: &Attached, prefix: &str) -> Result<Vec<(String, Record)>, Errno> {
    worker::run(|| {
        let _lock = host.lock.lock()?;
        Ok(living_locked(host, prefix))
    })
}

fn living_locked(host: &Attached, prefix: &str) -> Vec<(String, Record)> {
    let entries = std::fs::read_dir(host.dir.join("open"))
        .into_iter()
        .flatten()
        .flatten();
    let names: Vec<_> = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with(prefix))
        .collect();
    let mut living = Vec::new();
    for name in names {
        if !probe(host, &name) {
            continue;
        }
        if let Ok(fd) = sys::open(&path(host, &name), libc::O_RDONLY, 0) {
            living.extend(read_record(fd).map(|r| (name, r)));
            sys::close(fd);
        }
    }
    living
}

/// Whether some process has the device of VF `index` open.
pub fn device_is_open(host: &Attached, index: u16) -> Result<bool, Errno> {
    Ok(living(host, &format!("device-{index}-"))?
        .iter()
        .any(|(_, r)| r.opens_device()))
}

/// To be called when an fd of `object` has been closed: does what the kernel does on the last one.
pub fn released(object: &Arc<Object>) {
    let host = &object.host;
    let record = object.record();
    let end = || -> Result<(), Errno> {
        let vf = match record {
            Record::Device { vf, .. } => Some(host.vf(vf)?),
            _ => None,
        };
        // The VF's lock first: nobody must open the device between its death here and its end below.
        let _device = vf.map(|v| v.lock.lock()).transpose()?;
        let alive = worker::run(|| host.lock.lock().map(|_lock| probe(host, &object.name)))?;
        if alive {
            return Ok(());
        }
        let _gone = REGISTRY
            .lock()
            .as_mut()
            .and_then(|r| r.remove(&object.identity));
        if let Some(vf) = vf
            && record.opens_device()
            && !device_is_open(host, vf.vf.index())?
        {
            vf.device_gone();
            vf.vf.device_closed();
            if let Some(iommufd) = object.keeps.lock().take() {
                vfio::iommufd::forget_device(&iommufd, vf.vf.group_id());
            }
        }
        Ok(())
    };
    // Nobody to tell: close() has succeeded, and the next opener looks again.
    let _ = end();
}

/// Removes the files of processes that ended.
pub fn collect_garbage(host: &Attached) {
    for kind in [
        "container-",
        "group-",
        "device-",
        "iommufd-",
        "data-",
        "kvm-",
    ] {
        let _ = living(host, kind);
    }
}

/// Looks at everything this process knows for fds that were closed unseen.
pub fn look_for_the_dead() {
    let known: Vec<_> = REGISTRY
        .lock()
        .as_ref()
        .map(|r| r.values().cloned().collect())
        .unwrap_or_default();
    for object in known.iter().filter(|o| !is_alive(o)) {
        released(object);
    }
}

/// Whether any process holds `object`; changes nothing.
fn is_alive(object: &Object) -> bool {
    let Ok(_lock) = object.host.lock.lock() else {
        return true;
    };
    match sys::open(&path(&object.host, &object.name), libc::O_RDONLY, 0) {
        Ok(fd) => {
            let free = sys::flock(fd, libc::LOCK_SH | libc::LOCK_NB).is_ok();
            sys::close(fd);
            !free
        }
        Err(error) => error != Errno::ENOENT,
    }
}
