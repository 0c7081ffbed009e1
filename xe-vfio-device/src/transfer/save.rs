// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data fd -> account -> stream.

use std::io;
use std::time::{Duration, Instant};

use super::buffer::{BUFFER_SIZE, Buffer};
use super::connection::Closer;
use super::error::SaveError;
use super::progress::Phase;
use super::shared::Shared;
use super::sink::Sink;
use super::watchdog::{Watch, watched};
use super::{Context, chain};
use crate::state::{AnyVf, MigrationDevice, Saving, Settled, Stopped, Stuck, Vf, settle};
use crate::stream::{Manifest, StreamError, Totals, Writer};
use crate::uapi::UapiError;
use crate::xe::{Account, Expectation, Parser};

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
        let attempt = self.context.attempt;
        let writer = match Writer::for_attempt(
            self.sink.clone(),
            self.manifest,
            BUFFER_SIZE as u32,
            attempt,
        ) {
            Ok(writer) => writer,
            Err(error) => return untouched(vf, self.broken(error)),
        };
        let mut buffer = Buffer::new();

        self.context.progress.enter(Phase::Enter);
        let started = Instant::now();
        let mut saving = match vf.save() {
            Ok(saving) => saving,
            Err(stuck) => {
                let error = SaveError::Enter(stuck.error);
                self.abort(writer, &error);
                return self.settled(stuck.vf, &mut buffer, Err(error));
            }
        };
        let enter = started.elapsed();
        tracing::info!(phase = "enter", ms = enter.as_millis() as u64, "STOP_COPY");

        self.context.progress.enter(Phase::Stream);
        let started = Instant::now();
        let (account, totals) = match self.stream(&mut saving, writer, &mut buffer) {
            Ok(sent) => sent,
            Err(error) => {
                self.drain(&mut saving, &mut buffer);
                return self.settled(saving.into(), &mut buffer, Err(error));
            }
        };
        let stream = started.elapsed();
        let (bytes, wire_bytes) = (totals.payload_bytes, totals.wire_bytes);
        tracing::info!(
            phase = "stream",
            bytes,
            wire_bytes,
            ms = stream.as_millis() as u64,
            "sent"
        );

        self.context.progress.enter(Phase::Confirm);
        let started = Instant::now();
        // The receiver restores meanwhile.
        let stopped = saving.finish();
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
            Err(stuck) if result.is_ok() => Ok(Settled::Unsettled(stuck.vf)),
            Err(stuck) => settle(stuck.vf, buffer.bytes(), &mut |_| {}),
        };
        Saved { vf, result }
    }

    fn prepare(&self) -> io::Result<Option<Closer>> {
        let mut sink = self.sink.get();
        sink.begin(&self.context.deadlines)?;
        sink.closer()
    }

    fn stream<D: MigrationDevice>(
        &self,
        saving: &mut Vf<D, Saving<D::Stream>>,
        mut writer: Writer<Shared<S>>,
        buffer: &mut Buffer,
    ) -> Result<(Account, Totals), SaveError> {
        let mut parser = Parser::new(Expectation::any());
        match self.frames(saving, &mut writer, &mut parser, buffer) {
            Ok(()) => {}
            Err(error) => {
                self.abort(writer, &error);
                return Err(error);
            }
        }
        match parser.finish() {
            Ok(account) => {
                let totals = writer
                    .finish(&account)
                    .map_err(|error| self.broken(error))?;
                Ok((account, totals))
            }
            Err(error) => {
                let error = SaveError::Malformed(error);
                self.abort(writer, &error);
                Err(error)
            }
        }
    }

    fn frames<D: MigrationDevice>(
        &self,
        saving: &mut Vf<D, Saving<D::Stream>>,
        writer: &mut Writer<Shared<S>>,
        parser: &mut Parser,
        buffer: &mut Buffer,
    ) -> Result<(), SaveError> {
        loop {
            if self.context.cancel.is_cancelled() {
                return Err(SaveError::Cancelled);
            }
            self.sink
                .get()
                .still_wanted()
                .map_err(|error| self.cancelled_or(error))?;
            let read = self.watch.during(|| saving.read(buffer.bytes()));
            let count = read.map_err(|error| self.unreadable(error, parser))?;
            if count == 0 {
                return Ok(());
            }
            let bytes = &buffer.bytes()[..count];
            self.context.progress.add(count);
            parser.observe(bytes).map_err(SaveError::Malformed)?;
            writer.frame(bytes).map_err(|error| self.broken(error))?;
        }
    }

    /// Reads and drops what is left, under the watchdog.
    fn drain<D: MigrationDevice>(
        &self,
        saving: &mut Vf<D, Saving<D::Stream>>,
        buffer: &mut Buffer,
    ) {
        self.context.progress.enter(Phase::Drain);
        let started = Instant::now();
        let mut bytes = 0;
        let error = loop {
            match self.watch.during(|| saving.read(buffer.bytes())) {
                Ok(0) => break None,
                Ok(count) => {
                    bytes += count;
                    self.context.progress.add(count);
                }
                Err(error) => break Some(error),
            }
        };
        let ms = started.elapsed().as_millis() as u64;
        match error {
            None => tracing::info!(
                phase = "drain",
                bytes,
                ms,
                "the rest of the state was dropped"
            ),
            Some(error) => {
                tracing::warn!(phase = "drain", bytes, ms, %error, "the rest of the state cannot be read");
            }
        }
    }

    fn settled<D: MigrationDevice>(
        &self,
        vf: AnyVf<D>,
        buffer: &mut Buffer,
        result: Result<SaveReport, SaveError>,
    ) -> Saved<D> {
        Saved {
            vf: settle(vf, buffer.bytes(), &mut |count| {
                self.context.progress.add(count);
            }),
            result,
        }
    }

    fn abort(&self, writer: Writer<Shared<S>>, error: &SaveError) {
        if let Err(error) = writer.abort(&chain(error)) {
            tracing::debug!(%error, "the receiver cannot be told why the stream ends");
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

    /// A connection that was shut down by a cancel says nothing of interest.
    fn cancelled_or(&self, error: SaveError) -> SaveError {
        if self.context.cancel.is_cancelled() {
            SaveError::Cancelled
        } else {
            error
        }
    }

    fn unreadable(&self, source: UapiError, parser: &Parser) -> SaveError {
        let read = parser.account().stream_bytes();
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

fn untouched<D: MigrationDevice>(vf: Vf<D, Stopped>, error: SaveError) -> Saved<D> {
    Saved {
        vf: Ok(Settled::Stopped(vf)),
        result: Err(error),
    }
}
