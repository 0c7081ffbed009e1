// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stream -> parser -> data fd: what surrounds the bytes on their way.

mod lanes;
mod receiving;
mod writing;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use self::lanes::Other;
use self::receiving::Supply;
use super::cancel::Registration;
use super::connection::Closer;
use super::error::LoadError;
use super::handover::Taking;
use super::incoming::{Incoming, Source, turn_away};
use super::progress::Phase;
use super::shared::Shared;
use super::stages::Stages;
use super::watchdog::{Watch, WatchError, watched};
use super::{Context, chain};
use crate::state::{
    AnyVf, Loading, MigrationDevice, ResetReason, Settled, Stopped, Stuck, Vf, reset_to_running,
};
use crate::stream::{Reader, Receipt, StreamError, Totals, VfOutcome};
use crate::uapi::UapiError;
use crate::xe::{Account, Expectation};

/// What a load moved.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// Packets and bytes by kind.
    pub account: Account,
    /// Bytes of state and of the stream around it.
    pub totals: Totals,
    /// STOP -> RESUMING.
    pub enter: Duration,
    /// RESUMING to the end record received.
    pub stream: Duration,
    /// RESUMING -> STOP.
    pub confirm: Duration,
    /// What the time between RESUMING and the end record was spent with.
    pub stages: Stages,
}

/// What holds after a load, good or not.
#[derive(Debug)]
pub struct Loaded<D: MigrationDevice> {
    /// The VF: stopped with the state that came, or reset, or stuck when not even that worked.
    pub vf: Result<Settled<D>, Stuck<D>>,
    /// What was moved, or why the state did not arrive.
    pub result: Result<LoadReport, LoadError>,
}

/// Loads a stream into a stopped VF. `Ok` when RESUMING -> STOP has succeeded and the sender was told.
///
/// After an error the VF is reset, so that nothing of another guest is left in it; then the sender is told why, and what it
/// still sends is dropped until it stops.
pub fn load<D: MigrationDevice, S: Source>(
    vf: Vf<D, Stopped>,
    incoming: Incoming<S>,
    expectation: Expectation,
    context: &Context,
) -> Loaded<D> {
    context.progress.begin(incoming.manifest.stop_copy_length);
    let Incoming {
        reader,
        source,
        others,
        ..
    } = incoming;
    let answer = source.clone();
    let loaded = watched(
        context.interrupt,
        context.deadlines.device,
        vf,
        |vf, watch| {
            Job {
                source,
                context,
                watch,
            }
            .run(vf, reader, others, expectation)
        },
    );
    context.progress.enter(Phase::Idle);
    loaded.unwrap_or_else(|(error, vf)| {
        let error = LoadError::from(error);
        turn_away(
            &answer,
            &failed(VfOutcome::Untouched, &error),
            context.deadlines.linger,
        );
        Loaded {
            vf: Ok(Settled::Stopped(vf)),
            result: Err(error),
        }
    })
}

pub(super) struct Job<'a, S: Source> {
    pub(super) source: Shared<S>,
    pub(super) context: &'a Context,
    pub(super) watch: &'a Watch,
}

impl<S: Source> Job<'_, S> {
    fn run<D: MigrationDevice>(
        &self,
        vf: Vf<D, Stopped>,
        reader: Reader<Shared<S>>,
        others: Vec<Incoming<S>>,
        expectation: Expectation,
    ) -> Loaded<D> {
        let unprepared = |source| {
            LoadError::Stream(StreamError::Io {
                doing: "Receiving",
                offset: 0,
                source,
            })
        };
        let prepared = self.prepare();
        let _registration = match prepared {
            Ok(closer) => closer.map(|closer| self.context.cancel.register(closer)),
            Err(error) => return self.reset(vf.into(), unprepared(error)),
        };
        let (others, _registrations) = match self.others(others) {
            Ok(others) => others,
            Err(error) => return self.reset(vf.into(), unprepared(error)),
        };
        let hands_over = reader.hands_over();
        let (inlet, checker) = reader.into_parts();
        let (vf, result) = if hands_over {
            let taking = Taking::new(self, inlet, checker);
            self.moved(vf, |loading| taking.run(loading, expectation))
        } else {
            thread::scope(
                |scope| match Supply::start(scope, self, inlet, others, &checker) {
                    Ok(supply) => self.moved(vf, |loading| {
                        self.stream(loading, checker, supply, expectation)
                    }),
                    Err(error) => (vf.into(), Err(WatchError::Thread(error).into())),
                },
            )
        };
        // The receiving stage has ended: the connection is this thread's again.
        let network = self.context.deadlines.network;
        let waits = self.source.get().wait_at_most(network);
        let result = result.and_then(|report| waits.map(|()| report).map_err(unprepared));
        match (vf, result) {
            (AnyVf::Stopped(vf), Ok(report)) => self.answered(vf, report),
            (vf, Ok(_)) => self.reset(vf, LoadError::Stage("connection")),
            (vf, Err(error)) => self.reset(vf, error),
        }
    }

    fn moved<D: MigrationDevice>(
        &self,
        vf: Vf<D, Stopped>,
        stream: impl FnOnce(
            &mut Vf<D, Loading<D::Stream>>,
        ) -> Result<(Account, Totals, Stages), LoadError>,
    ) -> (AnyVf<D>, Result<LoadReport, LoadError>) {
        self.context.progress.enter(Phase::Enter);
        let started = Instant::now();
        let mut loading = match vf.load() {
            Ok(loading) => loading,
            Err(stuck) => return (stuck.vf, Err(LoadError::Enter(stuck.error))),
        };
        let enter = started.elapsed();
        tracing::info!(phase = "enter", ms = enter.as_millis() as u64, "RESUMING");

        self.context.progress.enter(Phase::Stream);
        let started = Instant::now();
        let (account, totals, stages) = match stream(&mut loading) {
            Ok(received) => received,
            Err(error) => return (loading.into(), Err(error)),
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
            "received"
        );

        self.context.progress.enter(Phase::Confirm);
        let started = Instant::now();
        let vf = match loading.finish() {
            Ok(vf) => vf,
            Err(stuck) => return (stuck.vf, Err(LoadError::Finish(stuck.error))),
        };
        let confirm = started.elapsed();
        tracing::info!(phase = "confirm", ms = confirm.as_millis() as u64, "STOP");
        let report = LoadReport {
            account,
            totals,
            enter,
            stream,
            confirm,
            stages,
        };
        (vf.into(), Ok(report))
    }

    /// Tells the source that the VF has its state.
    fn answered<D: MigrationDevice>(&self, vf: Vf<D, Stopped>, report: LoadReport) -> Loaded<D> {
        // A source that does not hear of it keeps its VF, so this one must not run.
        let answered = self.source.get().answer(&Receipt::Loaded);
        match answered {
            Ok(()) => Loaded {
                vf: Ok(Settled::Stopped(vf)),
                result: Ok(report),
            },
            Err(error) => self.reset(vf.into(), LoadError::Receipt(error)),
        }
    }

    /// Prepares the connections beside the first, and has them shut down on cancel.
    fn others(&self, others: Vec<Incoming<S>>) -> io::Result<(Vec<Other<S>>, Vec<Registration>)> {
        let mut registrations = Vec::new();
        let mut prepared = Vec::new();
        for Incoming { reader, source, .. } in others {
            let closer = {
                let mut source = source.get();
                source.begin(&self.context.deadlines)?;
                if let Some(closer) = source.closer()? {
                    registrations.push(self.context.cancel.register(closer));
                }
                source.closer()?
            };
            prepared.push(Other {
                inlet: reader.into_parts().0,
                source,
                closer,
            });
        }
        Ok((prepared, registrations))
    }

    fn prepare(&self) -> io::Result<Option<Closer>> {
        let mut source = self.source.get();
        source.begin(&self.context.deadlines)?;
        source.closer()
    }

    /// Resets the VF, then tells the sender.
    fn reset<D: MigrationDevice>(&self, vf: AnyVf<D>, error: LoadError) -> Loaded<D> {
        let error = if self.context.cancel.is_cancelled() {
            LoadError::Cancelled
        } else {
            error
        };
        tracing::warn!(error = chain(&error), "the load failed, the VF is reset");
        let vf = reset_to_running(vf, ResetReason::LoadAborted);
        let outcome = if vf.is_ok() {
            VfOutcome::Reset
        } else {
            VfOutcome::Lost
        };
        turn_away(
            &self.source,
            &failed(outcome, &error),
            self.context.deadlines.linger,
        );
        Loaded {
            vf: vf.map(Settled::Running),
            result: Err(error),
        }
    }

    pub(super) fn unwritable(&self, source: UapiError, written: u64) -> LoadError {
        if self.watch.has_interrupted() {
            LoadError::Stalled {
                written,
                waited: self.context.deadlines.device,
                source,
            }
        } else {
            LoadError::Write { written, source }
        }
    }
}

fn failed(vf: VfOutcome, error: &LoadError) -> Receipt {
    Receipt::Failed {
        vf,
        reason: chain(error),
    }
}
