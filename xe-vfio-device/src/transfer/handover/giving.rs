// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source: passes its data fd on, listens, and gets the VF back whatever the destination does.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::listening::Listening;
use crate::state::{AnyVf, MigrationDevice, Saving, Settled, Stopped, Vf, settle};
use crate::stream::{
    Answer, Encoder, Flags, Manifest, Receipt, ReceiptError, StreamError, Taken, Totals,
};
use crate::transfer::buffer::{BUFFER_SIZE, Buffer};
use crate::transfer::connection::Connection;
use crate::transfer::drain::drain;
use crate::transfer::error::SaveError;
use crate::transfer::progress::Phase;
use crate::transfer::save::untouched;
use crate::transfer::stages::Stages;
use crate::transfer::watchdog::{Watch, watched};
use crate::transfer::{Context, SaveReport, Saved, chain};
use crate::xe::Account;

/// Hands the data fd of a stopped VF over to a process of this host, which reads it; as [`save`](crate::transfer::save()) otherwise. The result is `Ok` when
/// the receiver has confirmed its RESUMING -> STOP and the kernel here has nothing left to read.
///
/// After an error the receiver was asked to stop, and what was left of the state was read here and dropped, so that the VF is in STOP with its
/// state. Where the kernel gives the rest no more, STOP is tried all the same and the VF reset when it fails: after a stuck producer as in a save, and
/// after a receiver that was killed while its read waited for the GPU.
///
/// Use it only where the receiver is trusted to the same degree as the process that calls.
pub fn hand_over<D, C>(
    vf: Vf<D, Stopped>,
    connection: C,
    manifest: &Manifest,
    context: &Context,
) -> Saved<D>
where
    D: MigrationDevice<Stream: AsFd>,
    C: Connection,
{
    let expected = vf.device().stop_copy_length();
    context.progress.begin(expected.unwrap_or_else(|error| {
        tracing::warn!(%error, "no estimate of the state's size");
        0
    }));
    let device_deadline = context.deadlines.device;
    let saved = watched(context.interrupt, device_deadline, vf, |vf, watch| {
        Giving {
            connection,
            manifest,
            context,
            watch,
            taken: 0,
            wire_bytes: 0,
        }
        .run(vf)
    });
    context.progress.enter(Phase::Idle);
    saved.unwrap_or_else(|(error, vf)| untouched(vf, error.into()))
}

struct Giving<'a, C> {
    connection: C,
    manifest: &'a Manifest,
    context: &'a Context,
    watch: &'a Watch,
    /// Bytes of state that the receiver has told of.
    taken: u64,
    /// Bytes sent.
    wire_bytes: u64,
}

impl<C: Connection> Giving<'_, C> {
    fn run<D: MigrationDevice<Stream: AsFd>>(mut self, vf: Vf<D, Stopped>) -> Saved<D> {
        if self.context.cancel.is_cancelled() {
            return untouched(vf, SaveError::Cancelled);
        }
        if !self.connection.passes_fds() {
            return untouched(vf, SaveError::NoDescriptors);
        }
        let attempt = self.context.attempt;
        let begun =
            Encoder::with_flags(self.manifest, BUFFER_SIZE as u32, attempt, Flags::HAND_OVER);
        let (encoder, opening) = match begun {
            Ok(begun) => begun,
            Err(error) => return untouched(vf, SaveError::Stream(error.into())),
        };
        let network = self.context.deadlines.network;
        let opened = self
            .connection
            .set_timeout(network)
            .and_then(|()| self.connection.write_all(&opening));
        self.wire_bytes = opening.len() as u64;
        if let Err(source) = opened {
            let error = self.unsent(0, source);
            return untouched(vf, error);
        }
        self.moved(vf, encoder)
    }

    fn moved<D: MigrationDevice<Stream: AsFd>>(
        mut self,
        vf: Vf<D, Stopped>,
        mut encoder: Encoder,
    ) -> Saved<D> {
        self.context.progress.enter(Phase::Enter);
        let started = Instant::now();
        let mut saving = match vf.save() {
            Ok(saving) => saving,
            Err(stuck) => {
                let error = SaveError::Enter(stuck.error);
                self.stop(encoder, &error);
                return self.settled(stuck.vf, error);
            }
        };
        let enter = started.elapsed();
        tracing::info!(phase = "enter", ms = enter.as_millis() as u64, "STOP_COPY");

        self.context.progress.enter(Phase::Stream);
        let started = Instant::now();
        let account = match self.given(&mut saving, &mut encoder) {
            Ok(account) => account,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the hand-over is ended");
                self.stop(encoder, &error);
                drain(&mut saving, self.context, self.watch);
                return self.settled(saving.into(), error);
            }
        };
        let stream = started.elapsed();
        tracing::info!(
            phase = "stream",
            bytes = self.taken,
            ms = stream.as_millis() as u64,
            "handed over and read"
        );

        self.context.progress.enter(Phase::Confirm);
        let started = Instant::now();
        // The receiver restores meanwhile.
        let stopped = saving.finish();
        let confirmed = self.confirmed();
        let confirm = started.elapsed();
        tracing::info!(
            phase = "confirm",
            ok = confirmed.is_ok(),
            ms = confirm.as_millis() as u64,
            "receipt"
        );
        let totals = Totals {
            payload_bytes: self.taken,
            wire_bytes: self.wire_bytes,
            ..Totals::default()
        };
        let result = confirmed.map(|()| SaveReport {
            account,
            totals,
            enter,
            stream,
            confirm,
            stages: Stages {
                stream_idle: stream,
                ..Stages::default()
            },
        });
        let vf = match stopped {
            Ok(vf) => Ok(Settled::Stopped(vf)),
            // The receiver has the state: no reason to lose it here as well before it is known whether the VM comes back.
            Err(stuck) if result.is_ok() => Ok(Settled::Unsettled(stuck.vf)),
            Err(stuck) => settle(stuck.vf, Buffer::zeroed().bytes(), &mut |_| {}),
        };
        Saved { vf, result }
    }

    /// Passes the data fd on and waits until all of it was read.
    fn given<D: MigrationDevice<Stream: AsFd>>(
        &mut self,
        saving: &mut Vf<D, Saving<D::Stream>>,
        encoder: &mut Encoder,
    ) -> Result<Account, SaveError> {
        let frame = encoder.hand_over();
        let sent = self.connection.send_fd(&frame, saving.data_fd());
        sent.map_err(|source| self.unsent(self.wire_bytes, source))?;
        self.wire_bytes += frame.len() as u64;
        let account = loop {
            let taken = self.next_taken()?;
            if taken.all {
                break taken.by_kind.into();
            }
        };
        // What the kernel says counts, not what the receiver says.
        match self.watch.during(|| saving.read(&mut [0; 4096])) {
            Ok(0) => Ok(account),
            Ok(_) => Err(SaveError::LeftOver { taken: self.taken }),
            Err(source) => Err(SaveError::Read {
                read: self.taken,
                source,
            }),
        }
    }

    /// The receiver's next word that it has got on. One who says the same again and again is as silent as one who says nothing.
    fn next_taken(&mut self) -> Result<Taken, SaveError> {
        let waited = self.context.deadlines.network;
        let until = Instant::now() + waited;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.answer(left, true) {
                Ok(Answer::Taken(taken)) if taken.bytes > self.taken || taken.all => {
                    let more = taken.bytes.saturating_sub(self.taken);
                    self.context
                        .progress
                        .add(usize::try_from(more).unwrap_or(usize::MAX));
                    self.taken = taken.bytes;
                    return Ok(taken);
                }
                Ok(Answer::Taken(_)) if left.is_zero() => {
                    let taken = self.taken;
                    return Err(SaveError::Silent { taken, waited });
                }
                Ok(Answer::Taken(_)) => {}
                Ok(Answer::Receipt(Receipt::Failed { vf, reason })) => {
                    return Err(SaveError::Refused { vf, reason });
                }
                Ok(Answer::Receipt(Receipt::Loaded)) => {
                    return Err(SaveError::LeftOver { taken: self.taken });
                }
                Err(error) => return Err(self.unheard(error, waited)),
            }
        }
    }

    /// Why nothing was heard any more.
    fn unheard(&self, error: ReceiptError, waited: Duration) -> SaveError {
        match &error {
            _ if self.context.cancel.is_cancelled() => SaveError::Cancelled,
            ReceiptError::Io(_, source) if source.kind() == io::ErrorKind::TimedOut => {
                let taken = self.taken;
                SaveError::Silent { taken, waited }
            }
            _ => SaveError::PeerLost(error),
        }
    }

    fn confirmed(&mut self) -> Result<(), SaveError> {
        let wait = self.context.deadlines.receipt(self.manifest.gts);
        let result = match self.answer(wait, true) {
            Ok(Answer::Receipt(Receipt::Loaded)) => Ok(()),
            Ok(Answer::Receipt(Receipt::Failed { vf, reason })) => {
                Err(SaveError::Refused { vf, reason })
            }
            Ok(Answer::Taken(_)) => Err(SaveError::Unconfirmed(ReceiptError::Malformed {
                what: "word after the last",
                found: 1,
                expected: 0,
            })),
            Err(error) => Err(SaveError::Unconfirmed(error)),
        };
        // Whoever loads after this must not think that it was heard.
        if result.is_err() {
            self.hang_up();
            if self.context.cancel.is_cancelled() {
                return Err(SaveError::Cancelled);
            }
        }
        result
    }

    fn answer(&mut self, wait: Duration, until_cancel: bool) -> Result<Answer, ReceiptError> {
        let cancel = until_cancel.then_some(&self.context.cancel);
        let listening = Listening::new(&mut self.connection, wait, cancel);
        let mut listening = listening.map_err(|error| ReceiptError::Io("received", error))?;
        Answer::read(&mut listening)
    }

    /// Tells the receiver why it is to stop, and waits for it to say that it has closed the data fd. One that does not may read on beside the drain, which
    /// tears the packets between the two; both get less than a state then, and nobody takes it for one.
    fn stop(&mut self, encoder: Encoder, error: &SaveError) {
        let linger = self.context.deadlines.linger;
        let until = Instant::now() + linger;
        let over = matches!(error, SaveError::Refused { .. } | SaveError::PeerLost(_));
        let abort = encoder.abort(&chain(error));
        let told = !over
            && self.connection.set_timeout(linger).is_ok()
            && self.connection.write_all(&abort).is_ok();
        if told {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                match self.answer(left, false) {
                    Ok(Answer::Taken(_)) if !left.is_zero() => {}
                    Ok(Answer::Receipt(_)) => break,
                    Ok(Answer::Taken(_)) | Err(_) => {
                        tracing::warn!("the destination has not said that it has stopped");
                        break;
                    }
                }
            }
        }
        self.hang_up();
    }

    fn hang_up(&self) {
        match self.connection.closer() {
            Ok(close) => close(),
            Err(error) => {
                tracing::warn!(%error, "the connection stays open to the end of the drain");
            }
        }
    }

    fn settled<D: MigrationDevice>(&self, vf: AnyVf<D>, error: SaveError) -> Saved<D> {
        Saved {
            vf: settle(vf, Buffer::zeroed().bytes(), &mut |count| {
                self.context.progress.add(count);
            }),
            result: Err(error),
        }
    }

    /// The connection failed: the receiver may have said why.
    fn unsent(&mut self, offset: u64, source: io::Error) -> SaveError {
        if self.context.cancel.is_cancelled() {
            return SaveError::Cancelled;
        }
        match self.answer(self.context.deadlines.linger, true) {
            Ok(Answer::Receipt(Receipt::Failed { vf, reason })) => {
                SaveError::Refused { vf, reason }
            }
            _ => SaveError::Stream(StreamError::Io {
                doing: "Sending",
                offset,
                source,
            }),
        }
    }
}
