// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hosts that this process is on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::config_space::ConfigSpace;
use super::ioas::Domain;
use super::irqs::Irqs;
use super::lock::{FileLock, Lock, c_path};
use super::{engine, object, paths, sys, table, worker};
use crate::host::Host;
use crate::vf::{Errno, Op, Vf};

/// Most hosts in one process.
pub const LIMIT: usize = 64;

static HOSTS: [OnceLock<Arc<Attached>>; LIMIT] = [const { OnceLock::new() }; LIMIT];
static ATTACHED: AtomicU32 = AtomicU32::new(0);
static ATTACHING: Lock<()> = Lock::new(());

/// Why a host cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The host cannot be opened.
    #[error("Cannot attach to the host")]
    Host(#[from] crate::host::Error),
    /// A file of the host cannot be used.
    #[error("Cannot prepare the files of the host")]
    Files(#[source] std::io::Error),
    /// Two hosts in one process have a device, group or device node in common.
    #[error("Cannot attach to two hosts that both have {0}: bring one up with other numbers")]
    Clash(String),
    /// Too many hosts.
    #[error("Cannot attach to more than 64 hosts in one process")]
    TooMany,
}

/// What this process knows of one VF.
#[derive(Debug)]
pub struct VfLocal {
    /// The VF.
    pub vf: Arc<Vf>,
    /// Held by a process that opens or closes the device.
    pub lock: FileLock,
    /// Eventfds that this process gave.
    pub irqs: Lock<Irqs>,
    /// Where DMA goes when this process's mappings are the VF's.
    pub domain: Lock<Option<Arc<Domain>>>,
    /// Held by the engine while it works the VF through what `domain` was then.
    pub stepping: Lock<()>,
    /// Config space, shared by all processes.
    pub config: ConfigSpace,
    /// `domain` is set: for the engine's polling.
    pub active: AtomicBool,
}

impl VfLocal {
    /// Makes `domain` what the VF's DMA goes through; `None` detaches it. When this returns, no DMA is under way through what
    /// was before.
    pub fn attach_domain(&self, domain: Option<Domain>) {
        if let Some(new) = &domain {
            new.space.attach();
        }
        self.active.store(domain.is_some(), Ordering::Release);
        let old = std::mem::replace(&mut *self.domain.lock(), domain.map(Arc::new));
        drop(self.stepping.lock());
        if let Some(old) = old {
            old.space.detach();
        }
        engine::wake();
    }

    /// Forgets what ends with the last close of the device.
    pub fn device_gone(&self) {
        self.attach_domain(None);
        *self.irqs.lock() = Irqs::new();
    }

    /// A fault that the boundary has to look for.
    pub fn check(&self, op: Op) -> Result<(), Errno> {
        self.vf.faults().check(op).map(drop)
    }
}

/// A host of this process.
#[derive(Debug)]
pub struct Attached {
    /// The host.
    pub host: Host,
    /// Its VFs, in order.
    pub vfs: Vec<VfLocal>,
    /// Held while files in `open/` are made, renamed, probed or removed.
    pub lock: FileLock,
    /// Device number of the file system with `open/`.
    pub device: u64,
    /// Directory of the host without symbolic links.
    pub dir: std::path::PathBuf,
}

impl Attached {
    /// VF number `index`, from 1.
    pub fn vf(&self, index: u16) -> Result<&VfLocal, Errno> {
        self.vfs
            .get(usize::from(index).wrapping_sub(1))
            .ok_or(Errno::ENODEV)
    }
}

/// The hosts attached, in order.
pub fn all() -> impl Iterator<Item = &'static Arc<Attached>> {
    HOSTS.iter().map_while(OnceLock::get)
}

/// Whether there is any host.
pub fn any() -> bool {
    ATTACHED.load(Ordering::Acquire) != 0
}

/// Attaches this process to the host in `dir`; once for each directory is enough, more often does nothing.
///
/// # Errors
/// When the host cannot be opened or clashes with one attached before.
pub fn attach(dir: &Path) -> Result<(), AttachError> {
    let _attaching = ATTACHING.lock();
    sys::refresh_pid();
    let dir = std::fs::canonicalize(dir).map_err(AttachError::Files)?;
    if all().any(|a| a.dir == dir) {
        return Ok(());
    }
    let host = Host::open(&dir)?;
    for vf in host.vfs() {
        for other in all().flat_map(|a| a.host.vfs()) {
            let clash = if vf.bdf() == other.bdf() {
                Some(format!("the device {}", vf.bdf()))
            } else if vf.group_id() == other.group_id() {
                Some(format!("the IOMMU group {}", vf.group_id()))
            } else if vf.cdev_index() == other.cdev_index() {
                Some(format!("the device node vfio{}", vf.cdev_index()))
            } else {
                None
            };
            if let Some(clash) = clash {
                return Err(AttachError::Clash(clash));
            }
        }
    }
    let open = dir.join("open");
    let device = sys::stat_path(&c_path(&open))
        .map_err(|e| AttachError::Files(std::io::Error::from_raw_os_error(e.0)))?
        .st_dev;
    let own = dir.join("boundary");
    std::fs::create_dir_all(&own).map_err(AttachError::Files)?;
    let mut vfs = Vec::new();
    for vf in host.vfs() {
        let config = ConfigSpace::open(
            &own.join(format!("config-{}", vf.index())),
            host.config(),
            vf,
        )
        .map_err(AttachError::Files)?;
        vfs.push(VfLocal {
            vf: Arc::clone(vf),
            lock: FileLock::new(&own.join(format!("lock-{}", vf.index()))),
            irqs: Lock::new(Irqs::new()),
            domain: Lock::new(None),
            stepping: Lock::new(()),
            config,
            active: AtomicBool::new(false),
        });
    }
    let lock = FileLock::new(&own.join("lock"));
    let attached = Arc::new(Attached {
        host,
        vfs,
        lock,
        device,
        dir,
    });
    let slot = HOSTS
        .iter()
        .find(|s| s.get().is_none())
        .ok_or(AttachError::TooMany)?;
    let first = !any();
    paths::add(&attached).map_err(AttachError::Files)?;
    object::collect_garbage(&attached);
    let _ = slot.set(attached);
    ATTACHED.fetch_add(1, Ordering::Release);
    if first {
        engine::at_first_attach();
    }
    worker::start();
    engine::start();
    suspect_inherited();
    Ok(())
}

/// Whatever this process holds already may be ours: inherited, or opened before.
fn suspect_inherited() {
    let fds = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    for fd in fds.filter_map(|e| e.file_name().to_str()?.parse().ok()) {
        table::suspect(fd);
    }
}
