// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an fd of ours stands for: a file of its own in `open/`, and what this process knows about it.
//!
//! The file is made under a temporary name, locked with flock and renamed, so a file with its final name that can be locked
//! by somebody else has no fd left in any process. Its identity is device, inode and size: each has a size of its own, so an
//! inode number that is used again is noticed by the same `fstat`. Its first bytes are a [`Record`], which tells a process
//! that was given the fd what it is.

mod living;
mod record;

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hosts::{self, Attached};
use super::ioas::{Ioas, PageTable};
use super::lock::{Lock, c_path};
use super::{sys, table, worker};
use crate::vf::Errno;

pub use living::{collect_garbage, device_is_open, living, look_for_the_dead, released};
pub use record::{Item, Record, Via, session};
use record::{RECORD_SIZE, read_record, write_record};

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
    /// Page tables of this process that have dirty bits, by id.
    tables: Lock<HashMap<u32, Arc<PageTable>>>,
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
            tables: Lock::new(HashMap::new()),
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

    /// This process's dirty bits of page table `id` of address space `space`, made at their first use.
    pub fn table(&self, id: u32, space: u32) -> Arc<PageTable> {
        let space = self.space(space);
        Arc::clone(
            self.tables
                .lock()
                .entry(id)
                .or_insert_with(|| space.new_table()),
        )
    }

    /// Takes the dirty bits of page table `id` away.
    pub fn remove_table(&self, id: u32) {
        self.tables.lock().remove(&id);
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
    // A VMM's API thread closes what it was sent, and its filter knows no fstat.
    let stat = worker::run(|| sys::fstat(fd)).ok()?;
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
