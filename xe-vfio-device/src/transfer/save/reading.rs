// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stage at the data fd: read, parse, find zeros, make checksums.

use std::time::Duration;

use super::sending::{Conveyor, Ended, Sent};
use super::{Job, SaveError};
use crate::state::{MigrationDevice, Saving, Vf};
use crate::stream::{Encoder, Totals};
use crate::transfer::buffer::{BUFFER_SIZE, PAGE};
use crate::transfer::chain;
use crate::transfer::compress::Compressor;
use crate::transfer::sink::Sink;
use crate::transfer::stages::{Stages, timed};
use crate::xe::{Account, Expectation, Parser};

/// Bytes of a read. A frame is read in several of them, so that what was read is parsed and summed while the second cache has it: a
/// walk over a whole frame waits for the third.
const PIECE: usize = 256 << 10;

/// Why reading stopped early.
enum Stop {
    /// By its own fault; the receiver is to be told.
    Failed(SaveError),
    /// The sending stage has ended and knows why.
    Ended,
}

impl From<Ended> for Stop {
    fn from(_: Ended) -> Self {
        Self::Ended
    }
}

impl<S: Sink> Job<'_, S> {
    /// Sends all state and the end record, or says to the receiver why not.
    pub(super) fn stream<D: MigrationDevice>(
        &self,
        saving: &mut Vf<D, Saving<D::Stream>>,
        mut encoder: Encoder,
        mut conveyor: Conveyor<'_, '_, S>,
        mut compressor: Compressor,
    ) -> Result<(Account, Totals, Stages), SaveError> {
        let mut stages = Stages::default();
        let read = self.read(
            saving,
            &mut encoder,
            &mut conveyor,
            &mut compressor,
            &mut stages,
        );
        let read = match read {
            Ok(account) => {
                let (bytes, totals) = encoder.end(*account.by_kind());
                conveyor.last(bytes);
                Ok((account, totals))
            }
            Err(Stop::Failed(error)) => {
                conveyor.last(encoder.abort(&chain(&error)));
                Err(Some(error))
            }
            Err(Stop::Ended) => Err(None),
        };
        match (read, conveyor.finish()) {
            (Ok((account, totals)), Ok(sending)) => {
                stages.stream = sending.stream;
                stages.stream_idle = sending.stream_idle;
                Ok((account, totals, stages))
            }
            (Err(Some(error)), _) => Err(error),
            (_, Err(error)) => Err(self.told(error)),
            (Err(None), Ok(_)) => Err(SaveError::Stage("connection")),
        }
    }

    fn read<D: MigrationDevice>(
        &self,
        saving: &mut Vf<D, Saving<D::Stream>>,
        encoder: &mut Encoder,
        conveyor: &mut Conveyor<'_, '_, S>,
        compressor: &mut Compressor,
        stages: &mut Stages,
    ) -> Result<Account, Stop> {
        let mut parser = Parser::new(Expectation::any());
        loop {
            if self.context.cancel.is_cancelled() {
                return Err(Stop::Failed(SaveError::Cancelled));
            }
            if compressor.wants_thread() && self.context.threads.may_stage() {
                conveyor.overlap();
            }
            let mut parcel = timed(&mut stages.device_idle, || conveyor.take())?;
            if let Some(Sent {
                wire,
                plain,
                began,
                ended,
            }) = parcel.sent.take()
            {
                compressor.sent(wire, plain, began, ended);
            }
            let before = stages.device + stages.frames;
            let most = most(&parser);
            let mut count = 0;
            while count < most {
                let room = (count + PIECE).min(most);
                let read = timed(&mut stages.device, || {
                    let room = &mut parcel.buffer.bytes()[count..room];
                    self.watch.during(|| saving.read(room))
                });
                let read = read.map_err(|error| {
                    Stop::Failed(self.unreadable(error, parser.account().stream_bytes()))
                })?;
                if read == 0 {
                    break;
                }
                self.context.progress.add(read);
                timed(&mut stages.frames, || {
                    let bytes = &parcel.buffer.as_slice()[..count + read];
                    parser.observe(&bytes[count..])?;
                    encoder.observe(bytes, &mut parcel.frame);
                    Ok(())
                })
                .map_err(|error| Stop::Failed(SaveError::Malformed(error)))?;
                count += read;
            }
            if count == 0 {
                break;
            }
            let work = stages.device + stages.frames - before;
            let mut codec = Duration::ZERO;
            timed(&mut stages.frames, || {
                let payload = &parcel.buffer.as_slice()[..count];
                codec = compressor.frame(encoder, payload, &mut parcel.frame, work);
            });
            stages.frames = stages.frames.saturating_sub(codec);
            stages.codec += codec;
            parcel.length = count;
            conveyor.put(parcel)?;
        }
        let account = parser.finish();
        account.map_err(|error| Stop::Failed(SaveError::Malformed(error)))
    }
}

/// How much to read, so that the next read begins on a page of VRAM where it can: the kernel copies whole pages then, on
/// both sides, and a block of zeros is found as one.
fn most(parser: &Parser) -> usize {
    let into_page = (parser.vram_offset().unwrap_or(0) % PAGE as u64) as usize;
    BUFFER_SIZE - into_page
}
