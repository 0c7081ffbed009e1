// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fingerprints of a VM's memory, and each VF's part in them.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::GuestPages;
use super::key::{Key, PAGE};
use super::scan::scan;
use super::table::Table;
use crate::dirty::ranges::{covers, normal};
use crate::dirty::{DirtyError, GuestRange, Kind, Moment, PAGE_SIZE, Strategy};

/// Pages whose fingerprints are taken before the table is locked for them.
const BATCH: usize = 64;

/// What the destination has of each page, for all VFs of a VM that have no other log.
///
/// The destination's memory is taken to be zeros until something else was sent. While a log is on, the VMM tells every page that it
/// sends ([`Fingerprints::sent`]) and every range that it makes zeros ([`Fingerprints::sent_zeros`]).
pub struct Fingerprints {
    key: Key,
    pages: Box<dyn GuestPages>,
    threads: NonZeroUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    members: Vec<Member>,
    log: Option<Log>,
    deadline: Option<Instant>,
    last: Option<Scanned>,
}

/// A VF.
#[derive(Default)]
struct Member {
    on: bool,
    still: bool,
}

#[derive(Default)]
struct Log {
    table: Table,
    /// What has not been compared since all VFs stand still; `None` before the beginning.
    left: Option<Vec<GuestRange>>,
}

/// What a comparison took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes of memory that it was about.
    pub covered: u64,
    /// Bytes that were read: the others were never touched.
    pub read: u64,
    /// Bytes that differ from what was sent.
    pub dirty: u64,
    /// Bytes that are left for the next time, since the deadline was reached.
    pub left: u64,
    /// How long it took.
    pub took: Duration,
    /// Processor time of all its threads; zero where the kernel does not tell.
    pub cpu: Duration,
}

impl fmt::Debug for Fingerprints {
    // Neither the key nor gigabytes of fingerprints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprints").finish_non_exhaustive()
    }
}

impl Fingerprints {
    /// Fingerprints of `pages` with a new key; a comparison runs on as many threads as are given.
    ///
    /// # Errors
    /// [`DirtyError::Key`].
    pub fn new(
        pages: impl GuestPages + 'static,
        threads: NonZeroUsize,
    ) -> Result<Arc<Self>, DirtyError> {
        Ok(Arc::new(Self {
            key: Key::random().map_err(DirtyError::Key)?,
            pages: Box::new(pages),
            threads,
            inner: Mutex::default(),
        }))
    }

    /// A VF's part in it; memory is compared once every VF whose log is on stands still.
    pub fn member(self: &Arc<Self>) -> Content {
        let mut inner = self.lock();
        inner.members.push(Member::default());
        Content {
            of: self.clone(),
            index: inner.members.len() - 1,
        }
    }

    /// Notes what the destination gets for pages from `gpa` on. `bytes` are those that were or will be sent, copied
    /// once out of memory: taken from memory again they may be others.
    pub fn sent(&self, gpa: u64, bytes: &[u8]) {
        if self.lock().log.is_none() {
            return;
        }
        let offset = gpa.wrapping_neg() % PAGE_SIZE;
        let (head, body) = bytes.split_at(bytes.len().min(usize::try_from(offset).unwrap_or(0)));
        let (pages, tail) = body.as_chunks::<PAGE>();
        let first = gpa + offset;
        let mut fingerprints = [0; BATCH];
        for (batch, at) in pages.chunks(BATCH).zip((first..).step_by(BATCH * PAGE)) {
            for (page, fingerprint) in batch.iter().zip(&mut fingerprints) {
                *fingerprint = self.key.fingerprint(page);
            }
            if let Some(log) = &mut self.lock().log {
                let known = fingerprints[..batch.len()].iter();
                for (fingerprint, gpa) in known.zip((at..).step_by(PAGE)) {
                    log.table.set(gpa, *fingerprint);
                }
            }
        }
        // Of a page that was sent in part it is not known what the destination has.
        if let Some(log) = &mut self.lock().log {
            if !head.is_empty() {
                log.table.forget(gpa);
            }
            if !tail.is_empty() {
                log.table.forget(first + (pages.len() * PAGE) as u64);
            }
        }
    }

    /// Sends whole pages: copies them once, in pieces of at most `buffer`, notes the fingerprints of each copy and hands the very same
    /// bytes to `write`. The range has to be one that nobody else sends at the same time ([`disjoint`](crate::dirty::disjoint)).
    ///
    /// # Errors
    /// [`DirtyError::Read`], [`DirtyError::Send`]. What the destination has of the rest of the range is not known then: end the
    /// migration.
    pub fn send(
        &self,
        range: GuestRange,
        buffer: &mut [u8],
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), DirtyError> {
        let (mut gpa, end) = (range.gpa, range.gpa.saturating_add(range.length));
        let most = (buffer.len() / PAGE * PAGE) as u64;
        assert!(most > 0, "a buffer holds at least one page");
        while gpa < end {
            let length = usize::try_from((end - gpa).min(most)).unwrap_or(PAGE);
            let copy = &mut buffer[..length];
            self.pages
                .read(gpa, copy)
                .map_err(|source| DirtyError::Read { gpa, source })?;
            self.sent(gpa, copy);
            write(copy).map_err(|source| DirtyError::Send { gpa, source })?;
            gpa += length as u64;
        }
        Ok(())
    }

    /// Notes that the destination has zeros in a range of whole pages.
    pub fn sent_zeros(&self, range: GuestRange) {
        if let Some(log) = &mut self.lock().log {
            for gpa in (range.gpa..range.gpa + range.length).step_by(PAGE) {
                log.table.set(gpa, 0);
            }
        }
    }

    /// A comparison while VFs run: what it answers is worth sending and may change again, and it shows what one at the end will
    /// cost. The one at the end is not shortened by it.
    ///
    /// # Errors
    /// [`DirtyError`].
    pub fn rehearse(&self) -> Result<(Vec<GuestRange>, Scanned), DirtyError> {
        let inner = &mut *self.lock();
        let log = inner.log.as_ref().ok_or(DirtyError::NotStarted)?;
        let (dirty, _, scanned) = self.compare(log, &log.table.ranges(), None)?;
        inner.last = Some(scanned);
        Ok((dirty, scanned))
    }

    /// When the next comparison ends at the latest; what it has not looked at then is for the one after it.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.lock().deadline = deadline;
    }

    /// What the last comparison took.
    pub fn last(&self) -> Option<Scanned> {
        self.lock().last
    }

    /// Bytes that the fingerprints take while a log is on.
    pub fn memory(&self) -> u64 {
        self.lock().log.as_ref().map_or(0, |log| log.table.size())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compare(
        &self,
        log: &Log,
        ranges: &[GuestRange],
        deadline: Option<Instant>,
    ) -> Result<(Vec<GuestRange>, Vec<GuestRange>, Scanned), DirtyError> {
        let started = Instant::now();
        let (key, pages) = (&self.key, &*self.pages);
        let found = scan(key, pages, &log.table, ranges, self.threads, deadline)?;
        let sum = |ranges: &[GuestRange]| ranges.iter().map(|range| range.length).sum();
        let scanned = Scanned {
            covered: sum(ranges),
            read: found.read,
            dirty: sum(&found.dirty),
            left: sum(&found.left),
            took: started.elapsed(),
            cpu: found.cpu,
        };
        tracing::info!(?scanned, threads = self.threads, "memory was compared");
        Ok((found.dirty, found.left, scanned))
    }

    fn compare_once_all_are_still(&self, inner: &mut Inner) -> Result<Vec<GuestRange>, DirtyError> {
        let mut on = inner.members.iter().filter(|member| member.on);
        if !on.all(|member| member.still) {
            return Ok(Vec::new());
        }
        let log = inner.log.as_mut().ok_or(DirtyError::NotStarted)?;
        // Also what is not mapped any more: it may have been written before it was unmapped.
        let todo = log.left.take().unwrap_or_else(|| log.table.ranges());
        if todo.is_empty() {
            log.left = Some(todo);
            return Ok(Vec::new());
        }
        match self.compare(log, &todo, inner.deadline) {
            Ok((dirty, left, scanned)) => {
                log.left = Some(left);
                inner.last = Some(scanned);
                Ok(dirty)
            }
            Err(error) => {
                log.left = Some(todo);
                Err(error)
            }
        }
    }
}

/// A VF without a log, among those that share [`Fingerprints`].
pub struct Content {
    of: Arc<Fingerprints>,
    index: usize,
}

impl Content {
    /// The fingerprints that it shares.
    pub fn fingerprints(&self) -> &Arc<Fingerprints> {
        &self.of
    }
}

impl Strategy for Content {
    fn kind(&self) -> Kind {
        Kind::Content
    }

    fn start(&mut self, mapped: &[GuestRange]) -> Result<(), DirtyError> {
        self.stop();
        let mapped = normal(mapped)?;
        let inner = &mut *self.of.lock();
        let log = inner.log.get_or_insert_default();
        log.table.cover(&mapped);
        log.left = None;
        tracing::info!(
            bytes = log.table.size(),
            "memory for fingerprints of {} MiB, as far as they are written",
            log.table.size() >> 20 << 8,
        );
        let (on, still) = (true, false);
        inner.members[self.index] = Member { on, still };
        Ok(())
    }

    fn dirty(
        &mut self,
        moment: Moment,
        mapped: &[GuestRange],
    ) -> Result<Vec<GuestRange>, DirtyError> {
        let inner = &mut *self.of.lock();
        let member = &mut inner.members[self.index];
        let (true, Some(log)) = (member.on, &mut inner.log) else {
            return Err(DirtyError::NotStarted);
        };
        covers(&log.table.ranges(), &normal(mapped)?)?;
        member.still = moment == Moment::Still;
        if moment == Moment::Running {
            log.left = None;
            return Ok(Vec::new());
        }
        self.of.compare_once_all_are_still(inner)
    }

    fn resumed(&mut self) {
        let inner = &mut *self.of.lock();
        inner.members[self.index].still = false;
        // What was compared may change again.
        if let Some(log) = &mut inner.log {
            log.left = None;
        }
    }

    fn stop(&mut self) {
        let inner = &mut *self.of.lock();
        inner.members[self.index] = Member::default();
        if inner.members.iter().all(|member| !member.on) {
            inner.log = None;
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.stop();
    }
}
