// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data fd -> account -> stream: what surrounds the bytes on their way.

mod reading;
mod sending;
mod spread;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use self::sending::{Conveyor, Sender};
use self::spread::Other;
use super::buffer::{BUFFER_SIZE, Buffer};
use super::cancel::Registration;
use super::compress::Compressor;
use super::connection::{Closer, Connection};
use super::drain::drain;
use super::error::SaveError;
use super::progress::Phase;
use super::shared::Shared;
use super::sink::Sink;
use super::stages::Stages;
use super::watchdog::{Watch, WatchError, watched};
use super::{Context, Leave, chain};
use crate::state::{AnyVf, MigrationDevice, Settled, Stopped, Stuck, Vf, settle};
use crate::stream::{Encoder, Flags, Manifest, Outlet, StreamError, Totals};
use crate::uapi::UapiError;
use crate::xe::Account;

/// What a save moved.
#[derive(Debug, Clone)]
pub struct SaveReport {
    /// Packets and bytes by kind.
    pub account: Account,
    /// Bytes of state and of the stream around it.
    pub totals: Totals,
    /// STOP -> STOP_COPY.
    pub enter: Duration,
    /// First byte read to end record sent.
    pub stream: Duration,
    /// End record to receipt, with STOP_COPY -> STOP in it.
    pub confirm: Duration,
    /// What the time between the first byte and the end record was spent with.
    pub stages: Stages,
}

/// What holds after a save, good or not.
#[derive(Debug)]
pub struct Saved<D: MigrationDevice> {
    /// The VF: stopped with its state, or reset and told so, or stuck when not even that worked.
    pub vf: Result<Settled<D>, Stuck<D>>,
    /// What was moved, or why nothing was.
    pub result: Result<SaveReport, SaveError>,
}

/// Sends the state of a stopped VF. On a connection it has arrived when the result is `Ok`: the receiver has confirmed its
/// RESUMING -> STOP.
///
/// After an error what is left of the state is read and dropped, so that the VF is in STOP with its state, ready to go back to
/// RUNNING. Where that is not possible (the data fd itself failed) STOP is tried all the same and the VF reset when it fails.
pub fn save<D: MigrationDevice, S: Sink>(
    vf: Vf<D, Stopped>,
    sink: S,
    manifest: &Manifest,
    context: &Context,
) -> Saved<D> {
    context
        .progress
        .begin(vf.device().stop_copy_length().unwrap_or_else(|error| {
            tracing::warn!(%error, "no estimate of the state's size");
            0
        }));
    let device_deadline = context.deadlines.device;
    let saved = watched(context.interrupt, device_deadline, vf, |vf, watch| {
        Job {
            sink: Shared::new(sink),
            manifest,
            context,
            watch,
        }
        .run(vf)
    });
    context.progress.enter(Phase::Idle);
    saved.unwrap_or_else(|(error, vf)| Saved {
        vf: Ok(Settled::Stopped(vf)),
        result: Err(error.into()),
    })
}

struct Job<'a, S: Sink> {
    sink: Shared<S>,
    manifest: &'a Manifest,
    context: &'a Context,
    watch: &'a Watch,
}

impl<S: Sink> Job<'_, S> {
    fn run<D: MigrationDevice>(&self, vf: Vf<D, Stopped>) -> Saved<D> {
        let failed = |source| {
            SaveError::Stream(StreamError::Io {
                doing: "Sending",
                offset: 0,
                source,
            })
        };
        let prepared = self.prepare();
        let _registration = match prepared {
            Ok(closer) => closer.map(|closer| self.context.cancel.register(closer)),
            Err(error) => return untouched(vf, failed(error)),
        };
        if self.context.cancel.is_cancelled() {
            return untouched(vf, SaveError::Cancelled);
        }
        let is_file = self.sink.get().is_file();
        let (attempt, size) = (self.context.attempt, BUFFER_SIZE as u32);
        let others = self.sink.get().take_others();
        let connections = 1 + others.len();
        let compression = self.context.compression.possible();
        let flags = compression.flags();
        let begun = if others.is_empty() {
            let indexed = if is_file { Flags::INDEXED } else { Flags::NONE };
            let flags = flags.with(indexed);
            let begun = Encoder::with_flags(self.manifest, size, attempt, flags);
            begun.map(|(encoder, opening)| (encoder, vec![opening]))
        } else {
            Encoder::split_with_flags(self.manifest, size, attempt, connections as u8, flags)
        };
        let (encoder, openings) = match begun {
            Ok(begun) => begun,
            Err(error) => return untouched(vf, SaveError::Stream(error.into())),
        };
        let (others, _registrations) = match self.open(others, &openings[1..]) {
            Ok(opened) => opened,
            Err(error) => return untouched(vf, self.cancelled_or(error)),
        };
        let mut outlet = Outlet::new(self.sink.clone());
        if let Err(error) = outlet.flushed(&openings[0]) {
            return untouched(vf, self.broken(error));
        }
        thread::scope(|scope| {
            let sender = Sender::new(self, outlet);
            let threads = self.context.threads;
            let staged = if is_file {
                threads.staged_file()
            } else if compression.is_forced() {
                threads.may_stage()
            } else {
                threads.staged()
            };
            let compressor = Compressor::new(compression, connections);
            match Conveyor::start(scope, sender, others, staged) {
                Ok(conveyor) => self.moved(vf, encoder, conveyor, compressor),
                Err(error) => untouched(vf, WatchError::Thread(error).into()),
            }
        })
    }

    fn moved<D: MigrationDevice>(
        &self,
        vf: Vf<D, Stopped>,
        encoder: Encoder,
        mut conveyor: Conveyor<'_, '_, S>,
        compressor: Compressor,
    ) -> Saved<D> {
        self.context.progress.enter(Phase::Enter);
        let started = Instant::now();
        let mut saving = match vf.save() {
            Ok(saving) => saving,
            Err(stuck) => {
                let error = SaveError::Enter(stuck.error);
                conveyor.last(encoder.abort(&chain(&error)));
                // What the connection has to say is of no interest any more.
                _ = conveyor.finish();
                return self.settled(stuck.vf, Err(error));
            }
        };
        let enter = started.elapsed();
        tracing::info!(phase = "enter", ms = enter.as_millis() as u64, "STOP_COPY");

        self.context.progress.enter(Phase::Stream);
        let started = Instant::now();
        let (account, totals, stages) =
            match self.stream(&mut saving, encoder, conveyor, compressor) {
                Ok(sent) => sent,
                Err(error) => {
                    drain(&mut saving, self.context, self.watch);
                    return self.settled(saving.into(), Err(error));
                }
            };
        let stream = started.elapsed();
        tracing::info!(
            phase = "stream",
            bytes = totals.payload_bytes,
            wire_bytes = totals.wire_bytes,
            zero_bytes = totals.zero_bytes,
            lz4 = ?totals.lz4,
            zstd = ?totals.zstd,
            ms = stream.as_millis() as u64,
            ?stages,
            "sent"
        );

        self.context.progress.enter(Phase::Confirm);
        let started = Instant::now();
        // The receiver restores meanwhile. A file has nobody who waits for it.
        let stopped = match self.context.leave {
            Leave::Later if !self.sink.get().is_file() => Err(saving.into()),
            _ => saving.finish().map_err(|stuck| stuck.vf),
        };
        let confirmed = self
            .sink
            .get()
            .confirm(self.context.deadlines.receipt(self.manifest.gts));
        let confirm = started.elapsed();
        let result = confirmed.map(|()| SaveReport {
            account,
            totals,
            enter,
            stream,
            confirm,
            stages,
        });
        let result = result.map_err(|error| self.cancelled_or(error));
        tracing::info!(
            phase = "confirm",
            ok = result.is_ok(),
            ms = confirm.as_millis() as u64,
            "receipt"
        );
        let vf = match stopped {
            Ok(vf) => Ok(Settled::Stopped(vf)),
            // The receiver has the state: no reason to lose it here as well before it is known whether the VM comes back.
            Err(vf) if result.is_ok() => Ok(Settled::Unsettled(vf)),
            Err(vf) => settle(vf, Buffer::zeroed().bytes(), &mut |_| {}),
        };
        Saved { vf, result }
    }

    /// Sends the openings of the connections beside the first, and has them shut down on cancel.
    fn open(
        &self,
        connections: Vec<Box<dyn Connection>>,
        openings: &[Vec<u8>],
    ) -> Result<(Vec<Other>, Vec<Registration>), SaveError> {
        let count = 1 + connections.len();
        let (mut others, mut registrations) = (Vec::new(), Vec::new());
        for ((number, connection), opening) in (1..).zip(connections).zip(openings) {
            let failed = |source| SaveError::Connection {
                number,
                count,
                source,
            };
            let io = |source| StreamError::Io {
                doing: "Sending",
                offset: 0,
                source,
            };
            connection.widen();
            let prepared = connection
                .set_timeout(self.context.deadlines.network)
                .and_then(|()| Ok((connection.closer()?, connection.closer()?)));
            let (closer, other_closer) = prepared.map_err(|source| failed(io(source)))?;
            registrations.push(self.context.cancel.register(other_closer));
            let mut outlet = Outlet::new(connection);
            outlet.flushed(opening).map_err(failed)?;
            others.push(Other { outlet, closer });
        }
        Ok((others, registrations))
    }

    fn prepare(&self) -> io::Result<Option<Closer>> {
        let mut sink = self.sink.get();
        sink.begin(&self.context.deadlines)?;
        sink.closer()
    }

    fn settled<D: MigrationDevice>(
        &self,
        vf: AnyVf<D>,
        result: Result<SaveReport, SaveError>,
    ) -> Saved<D> {
        Saved {
            vf: settle(vf, Buffer::zeroed().bytes(), &mut |count| {
                self.context.progress.add(count);
            }),
            result,
        }
    }

    /// A write failed: the receiver may have said why.
    fn broken(&self, error: StreamError) -> SaveError {
        if self.context.cancel.is_cancelled() {
            return SaveError::Cancelled;
        }
        self.sink
            .get()
            .why_broken(self.context.deadlines.linger)
            .unwrap_or(SaveError::Stream(error))
    }

    /// A connection beside the first has failed: on the first may stand why.
    fn told(&self, error: SaveError) -> SaveError {
        if !matches!(error, SaveError::Connection { .. }) {
            return error;
        }
        let error = self.cancelled_or(error);
        if matches!(error, SaveError::Cancelled) {
            return error;
        }
        self.sink
            .get()
            .why_broken(self.context.deadlines.linger)
            .unwrap_or(error)
    }

    /// A connection that was shut down by a cancel says nothing of interest.
    fn cancelled_or(&self, error: SaveError) -> SaveError {
        if self.context.cancel.is_cancelled() {
            SaveError::Cancelled
        } else {
            error
        }
    }

    fn unreadable(&self, source: UapiError, read: u64) -> SaveError {
        if self.watch.has_interrupted() {
            SaveError::Stalled {
                read,
                waited: self.context.deadlines.device,
                source,
            }
        } else {
            SaveError::Read { read, source }
        }
    }
}

pub(super) fn untouched<D: MigrationDevice>(vf: Vf<D, Stopped>, error: SaveError) -> Saved<D> {
    Saved {
        vf: Ok(Settled::Stopped(vf)),
        result: Err(error),
    }
}
