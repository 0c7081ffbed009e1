// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an fd of ours stands for: a file of its own in `open/`, and what this process knows about it.
//!
//! The file is made under a temporary name, locked with flock and renamed, so a file with its final name that can be locked
//! by somebody else has no fd left in any process. Its identity is device, inode and size: each has a size of its own, so an
//! inode number that is used again is noticed by the same `fstat`. Its first bytes are a [`Record`], which tells a process
//! that was given the fd what it is.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::hosts::{self, Attached};
use super::ioas::Ioas;
use super::lock::{Lock, c_path};
use super::{sys, table, worker};
use crate::vf::{Errno, SessionId};

const MAGIC: &[u8; 8] = b"hostsim1";
/// Bytes at the start of the file that belong to the record.
const RECORD_SIZE: usize = 64 << 10;

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
    /// A page table of the IOAS with this id.
    Hwpt { ioas: u32 },
    /// A bound device.
    Device { vf: u16 },
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
    fn prefix(&self) -> String {
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
    fn opens_device(&self) -> bool {
        matches!(
            self,
            Self::Device {
                via: Via::Group,
                ..
            } | Self::Device { bound: Some(_), .. }
        )
    }
}

/// Device, inode, size.
type Identity = (u64, u64, i64);

/// An open thing of ours.
#[derive(Debug)]
pub struct Object {
    /// Its host; for containers and iommufds the first one of the process that opened it.
    pub host: Arc<Attached>,
    /// Name of its file in `open/`.
    pub name: String,
    identity: Identity,
    record: Lock<Record>,
    /// Address spaces of this process: a container's under id 0, an iommufd's under theirs.
    spaces: Lock<HashMap<u32, Arc<Ioas>>>,
    /// What must not go away before this does: a device's iommufd.
    pub keeps: Lock<Option<Arc<Object>>>,
}

static REGISTRY: Lock<Option<HashMap<Identity, Arc<Object>>>> = Lock::new(None);

/// A number that no other object of the machine is likely to have.
fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default();
    let mut x = (u64::from(sys::pid()) << 40)
        ^ now.as_nanos() as u64
        ^ COUNT
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn path(host: &Attached, name: &str) -> CString {
    c_path(&host.dir.join("open").join(name))
}

fn write_record(fd: c_int, record: &Record) -> Result<(), Errno> {
    let mut bytes = MAGIC.to_vec();
    let json = serde_json::to_vec(record).map_err(|_| Errno::EIO)?;
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&json);
    if bytes.len() > RECORD_SIZE {
        return Err(Errno::ENOSPC);
    }
    sys::pwrite(fd, &bytes, 0).map(drop)
}

fn read_record(fd: c_int) -> Option<Record> {
    let mut head = [0; 12];
    if sys::pread(fd, &mut head, 0).ok()? != head.len() || &head[..8] != MAGIC {
        return None;
    }
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let mut json = vec![0; len.min(RECORD_SIZE)];
    let got = sys::pread(fd, &mut json, 12).ok()?;
    serde_json::from_slice(&json[..got]).ok()
}

fn identity(stat: &libc::stat) -> Identity {
    (stat.st_dev, stat.st_ino, stat.st_size)
}

impl Object {
    /// Makes an object; the caller gets its only fd, opened with `flags` (access mode and O_CLOEXEC count).
    ///
    /// # Errors
    /// `EMFILE` when there is no fd left, else what the file system says.
    pub fn create(
        host: &Arc<Attached>,
        record: Record,
        flags: c_int,
    ) -> Result<(c_int, Arc<Self>), Errno> {
        worker::run(|| {
            let _lock = host.lock.lock()?;
            Self::create_locked(host, record, flags)
        })
    }

    fn create_locked(
        host: &Arc<Attached>,
        record: Record,
        flags: c_int,
    ) -> Result<(c_int, Arc<Self>), Errno> {
        let unique = unique();
        let name = format!("{}-{unique:016x}", record.prefix());
        let temporary = path(host, &format!("new-{unique:016x}"));
        let first = sys::open(
            &temporary,
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            0o600,
        )?;
        let made = (|| {
            write_record(first, &record)?;
            sys::ftruncate(first, RECORD_SIZE as u64 + 1 + (unique & 0x3fff_ffff))?;
            let mode = flags & (libc::O_ACCMODE | libc::O_CLOEXEC | libc::O_NONBLOCK);
            let fd = sys::open_exactly(&temporary, mode)?;
            let locked = sys::flock(fd, libc::LOCK_EX | libc::LOCK_NB)
                .and_then(|()| sys::rename(&temporary, &path(host, &name)))
                .and_then(|()| sys::fstat(fd));
            locked
                .map(|stat| (fd, stat))
                .inspect_err(|_| sys::close(fd))
        })();
        sys::close(first);
        let (fd, stat) = made.inspect_err(|_| sys::unlink(&temporary))?;
        let object = Self::register(host, name, &stat, record);
        table::suspect(fd);
        Ok((fd, object))
    }

    fn register(
        host: &Arc<Attached>,
        name: String,
        stat: &libc::stat,
        record: Record,
    ) -> Arc<Self> {
        let object = Arc::new(Self {
            host: Arc::clone(host),
            name,
            identity: identity(stat),
            record: Lock::new(record),
            spaces: Lock::new(HashMap::new()),
            keeps: Lock::new(None),
        });
        REGISTRY
            .lock()
            .get_or_insert_default()
            .insert(object.identity, Arc::clone(&object));
        object
    }

    /// What it is; what another process has changed since may be missing.
    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// What it is, as any process has left it.
    pub fn fresh_record(&self) -> Record {
        worker::run(|| {
            if let Ok(fd) = sys::open(&path(&self.host, &self.name), libc::O_RDONLY, 0) {
                if let Some(record) = read_record(fd) {
                    *self.record.lock() = record;
                }
                sys::close(fd);
            }
        });
        self.record()
    }

    /// Changes the record for every process.
    ///
    /// # Errors
    /// What `change` answers (nothing is changed then), or why the file cannot be written.
    pub fn update<R: Send>(
        &self,
        change: impl FnOnce(&mut Record) -> Result<R, Errno> + Send,
    ) -> Result<R, Errno> {
        worker::run(|| {
            let _lock = self.host.lock.lock()?;
            let file = sys::open(&path(&self.host, &self.name), libc::O_RDWR, 0);
            let current = file.ok().and_then(read_record);
            let mut record = current.unwrap_or_else(|| self.record());
            let answer = change(&mut record);
            if answer.is_ok() {
                if let Ok(fd) = file {
                    write_record(fd, &record)?;
                }
                *self.record.lock() = record;
            }
            if let Ok(fd) = file {
                sys::close(fd);
            }
            answer
        })
    }

    /// This process's address space number `id` in it, made at its first use.
    pub fn space(&self, id: u32) -> Arc<Ioas> {
        Arc::clone(self.spaces.lock().entry(id).or_default())
    }

    /// Whether this process has used address space `id`.
    pub fn has_space(&self, id: u32) -> bool {
        self.spaces.lock().contains_key(&id)
    }

    /// Takes address space `id` away.
    pub fn remove_space(&self, id: u32) {
        self.spaces.lock().remove(&id);
    }
}

/// The object behind `fd`, when it is ours.
pub fn lookup(fd: c_int) -> Option<Arc<Object>> {
    if table::is_foreign(fd) || !hosts::any() {
        return None;
    }
    let stat = sys::fstat(fd).ok()?;
    if let Some(known) = REGISTRY
        .lock()
        .as_ref()
        .and_then(|r| r.get(&identity(&stat)).cloned())
    {
        return Some(known);
    }
    let found = recognise(fd, &stat);
    if found.is_none() {
        table::clear(fd);
    }
    found
}

/// An object that another process has opened, from its file.
fn recognise(fd: c_int, stat: &libc::stat) -> Option<Arc<Object>> {
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_size <= RECORD_SIZE as i64 {
        return None;
    }
    if !hosts::all().any(|h| h.device == stat.st_dev) {
        return None;
    }
    worker::run(|| {
        let link = sys::path_of(fd)?;
        let (open, name) = (link.parent()?, link.file_name()?.to_str()?);
        let host = hosts::all().find(|h| open == h.dir.join("open"))?;
        // Not by `fd`, which may be write-only.
        let own = sys::open(&path(host, name), libc::O_RDONLY, 0).ok()?;
        let record = sys::fstat(own)
            .ok()
            .filter(|s| identity(s) == identity(stat))
            .and_then(|_| read_record(own));
        sys::close(own);
        Some(Object::register(host, name.to_owned(), stat, record?))
    })
}

/// The object called `name` when this process knows it.
pub fn by_name(name: &str) -> Option<Arc<Object>> {
    REGISTRY
        .lock()
        .as_ref()?
        .values()
        .find(|o| o.name == name)
        .cloned()
}

/// Whether this process knows any object.
pub fn any() -> bool {
    REGISTRY.lock().as_ref().is_some_and(|r| !r.is_empty())
}

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
                super::vfio::iommufd::forget_device(&iommufd, vf.vf.index());
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

/// The session of a data fd.
pub fn session(record: &Record) -> Option<(u16, SessionId, bool)> {
    match *record {
        Record::Data { vf, session, save } => Some((vf, SessionId(session), save)),
        _ => None,
    }
}
