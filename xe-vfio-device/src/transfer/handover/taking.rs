// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination: takes the source's data fd, and writes what it gives, and its parser lets through, to its own.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use super::reading::{Piece, Reading, buffers};
use crate::state::{Loading, MigrationDevice, Vf};
use crate::stream::{Checker, Inlet, Raw, StreamError, Taken, Totals};
use crate::transfer::error::LoadError;
use crate::transfer::incoming::Source;
use crate::transfer::load::Job;
use crate::transfer::shared::Shared;
use crate::transfer::stages::{Stages, timed};
use crate::transfer::watchdog::WatchError;
use crate::uapi::DataFd;
use crate::xe::{Account, Expectation, Parser, PushError};

/// How often the source hears how far this is.
const TELL: Duration = Duration::from_millis(100);

/// A load from a data fd that is yet to come.
pub(in crate::transfer) struct Taking<'a, S: Source> {
    job: &'a Job<'a, S>,
    inlet: Inlet<Shared<S>>,
    checker: Checker,
    buffers: Vec<Piece>,
}

impl<'a, S: Source> Taking<'a, S> {
    /// For a stream whose opening was read; its buffers are touched before the VF enters RESUMING.
    pub(in crate::transfer) fn new(
        job: &'a Job<'a, S>,
        inlet: Inlet<Shared<S>>,
        checker: Checker,
    ) -> Self {
        Self {
            job,
            inlet,
            checker,
            buffers: buffers(job.context),
        }
    }

    /// Takes the data fd and writes all that it gives. The fd is closed when this returns, well or not.
    pub(in crate::transfer) fn run<D: MigrationDevice>(
        mut self,
        loading: &mut Vf<D, Loading<D::Stream>>,
        expectation: Expectation,
    ) -> Result<(Account, Totals, Stages), LoadError> {
        let mut stages = Stages::default();
        let fd = timed(&mut stages.device_idle, || self.receive())?;
        let unusable = |source| LoadError::Read { read: 0, source };
        let from = DataFd::new(fd).map_err(unusable)?;
        let mut parser = Parser::new(expectation);
        let (buffers, context) = (std::mem::take(&mut self.buffers), self.job.context);
        thread::scope(|scope| {
            let reading = Reading::start(scope, from, buffers, context);
            let mut reading = reading.map_err(WatchError::Thread)?;
            let copied = self.copy(&mut reading, loading, &mut parser, &mut stages);
            let took = reading.finish();
            copied?;
            stages.stream = took?;
            Ok::<_, LoadError>(())
        })?;
        // The fd is closed, and the source hears it only now: it leaves STOP_COPY then.
        let account = parser.finish().map_err(LoadError::Malformed)?;
        self.tell(true, &account)?;
        let totals = Totals {
            payload_bytes: account.stream_bytes(),
            wire_bytes: self.checker.totals().wire_bytes,
            ..Totals::default()
        };
        Ok((account, totals, stages))
    }

    /// The frame that announces the data fd, and the fd that has come beside it.
    fn receive(&mut self) -> Result<OwnedFd, LoadError> {
        let (mut fd, mut raw, mut payload) = (None, Raw::new(), Vec::new());
        self.inlet.frame_by(
            &mut raw,
            |inner, header| fill(inner, header, &mut fd),
            |length| {
                payload.resize(length, 0);
                &mut payload[..]
            },
        );
        let announced = self.checker.hand_over(&mut raw, &payload);
        announced.map_err(LoadError::Stream)?;
        fd.ok_or(LoadError::NoDescriptor)
    }

    fn copy<D: MigrationDevice>(
        &mut self,
        reading: &mut Reading<'_>,
        loading: &mut Vf<D, Loading<D::Stream>>,
        parser: &mut Parser,
        stages: &mut Stages,
    ) -> Result<(), LoadError> {
        let job = self.job;
        let mut written = 0;
        let mut told = Instant::now();
        let mut writing = Duration::ZERO;
        loop {
            if job.context.cancel.is_cancelled() {
                return Err(LoadError::Cancelled);
            }
            self.still_wanted()?;
            let piece = timed(&mut stages.device_idle, || reading.take(job.watch))?;
            let Some(piece) = piece else {
                break;
            };
            job.context.progress.add(piece.bytes().len());
            let pushed = timed(&mut stages.frames, || {
                parser.push(piece.bytes(), |bytes| {
                    timed(&mut writing, || {
                        job.watch.during(|| loading.write_all(bytes))
                    })?;
                    written += bytes.len() as u64;
                    Ok(())
                })
            });
            pushed.map_err(|error| match error {
                PushError::Refused(refused) => LoadError::Malformed(refused),
                PushError::Sink(source) => job.unwritable(source, written),
            })?;
            reading.give_back(piece);
            if told.elapsed() >= TELL {
                told = Instant::now();
                self.tell(false, parser.account())?;
            }
        }
        stages.frames = stages.frames.saturating_sub(writing);
        stages.device = writing;
        Ok(())
    }

    /// The source says nothing but that, and why, it wants no more.
    fn still_wanted(&mut self) -> Result<(), LoadError> {
        if !self.job.source.get().has_input() {
            return Ok(());
        }
        let (mut raw, mut reason) = (Raw::new(), Vec::new());
        self.inlet.frame(&mut raw, |length| {
            reason.resize(length, 0);
            &mut reason[..]
        });
        let said = self.checker.hand_over(&mut raw, &reason);
        Err(LoadError::Stream(said.err().unwrap_or(StreamError::Over)))
    }

    fn tell(&self, all: bool, account: &Account) -> Result<(), LoadError> {
        let taken = Taken {
            all,
            bytes: account.stream_bytes(),
            by_kind: *account.by_kind(),
        };
        let told = self.job.source.get().tell(&taken);
        told.map_err(|source| {
            LoadError::Stream(StreamError::Io {
                doing: "Telling the source how far it is in",
                offset: self.checker.totals().wire_bytes,
                source,
            })
        })
    }
}

/// Reads until `bytes` are full and keeps the descriptor that comes beside them; a second one is an error.
fn fill<S: Source>(
    source: &mut Shared<S>,
    bytes: &mut [u8],
    fd: &mut Option<OwnedFd>,
) -> (usize, Option<io::Error>) {
    let mut got = 0;
    while got < bytes.len() {
        match source.get().receive_fd(&mut bytes[got..]) {
            Ok((0, _)) => break,
            Ok((_, Some(_))) if fd.is_some() => {
                let text = "a second file descriptor came with the hand-over";
                return (got, Some(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            Ok((count, came)) => {
                got += count;
                *fd = came.or(fd.take());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (got, Some(error)),
        }
    }
    (got, None)
}
