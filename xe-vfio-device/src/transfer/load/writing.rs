// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stage at the data fd: check, parse, write.

use std::time::Duration;

use super::receiving::Supply;
use super::{Job, LoadError};
use crate::state::{Loading, MigrationDevice, Vf};
use crate::stream::{Checked, Checker, Piece, Totals};
use crate::transfer::buffer::{BUFFER_SIZE, Buffer};
use crate::transfer::incoming::Source;
use crate::transfer::stages::{Stages, timed};
use crate::xe::{Account, Expectation, Parser, PushError};

/// Most bytes of a write. A copy below the second cache's size need not read what it overwrites (`memcpy` of glibc), and a VF that takes
/// its time is seen to do so sooner.
const PIECE: usize = 512 << 10;

impl<S: Source> Job<'_, S> {
    /// Writes all state that comes, up to and with the end record.
    pub(super) fn stream<D: MigrationDevice>(
        &self,
        loading: &mut Vf<D, Loading<D::Stream>>,
        mut checker: Checker,
        mut supply: Supply<'_, S>,
        expectation: Expectation,
    ) -> Result<(Account, Totals, Stages), LoadError> {
        let mut stages = Stages::default();
        let mut parser = Parser::new(expectation);
        let written = self.write(loading, &mut checker, &mut supply, &mut parser, &mut stages);
        let left = supply.finish();
        written?;
        let (rest, receiving) = left?;
        stages.stream = receiving.stream;
        stages.stream_idle = receiving.stream_idle;
        stages.frames += receiving.frames;
        let account = parser.finish().map_err(LoadError::Malformed)?;
        let totals = match rest {
            Some(mut inlet) if S::ENDS_WITH_STREAM => checker.finish_file(&mut inlet, &account),
            _ => checker.finish(&account),
        };
        Ok((account, totals.map_err(LoadError::Stream)?, stages))
    }

    fn write<D: MigrationDevice>(
        &self,
        loading: &mut Vf<D, Loading<D::Stream>>,
        checker: &mut Checker,
        supply: &mut Supply<'_, S>,
        parser: &mut Parser,
        stages: &mut Stages,
    ) -> Result<(), LoadError> {
        let zeros = Buffer::zeroed();
        let mut device = Duration::ZERO;
        let mut written = 0;
        loop {
            if self.context.cancel.is_cancelled() {
                return Err(LoadError::Cancelled);
            }
            let parcel = timed(&mut stages.device_idle, || supply.take());
            let mut parcel = parcel.ok_or(LoadError::Stage("connection"))?;
            if parcel.failed {
                let (lane, count) = (parcel.lane, supply.count());
                let (raw, _) = parcel.parts();
                return Err(LoadError::Connection {
                    number: lane,
                    count,
                    source: checker.broken(raw),
                });
            }
            let mut push = |bytes: &[u8]| {
                let pushed = parser.push(bytes, |bytes| {
                    for piece in bytes.chunks(PIECE) {
                        timed(&mut device, || {
                            self.watch.during(|| loading.write_all(piece))
                        })?;
                        written += piece.len() as u64;
                    }
                    Ok(())
                });
                pushed.map_err(|error| match error {
                    PushError::Refused(refused) => LoadError::Malformed(refused),
                    PushError::Sink(source) => self.unwritable(source, written),
                })
            };
            let more = timed(&mut stages.frames, || -> Result<bool, LoadError> {
                let (raw, payload) = parcel.parts();
                let checked = checker.accept(raw, payload).map_err(LoadError::Stream)?;
                let pieces = match checked {
                    Checked::State(pieces) => pieces,
                    Checked::Index => return Ok(true),
                    Checked::End => return Ok(false),
                };
                self.context.progress.add(pieces.len());
                for piece in pieces {
                    match piece {
                        Piece::Bytes(bytes) => push(bytes)?,
                        Piece::Zeros(count) => {
                            for at in (0..count).step_by(BUFFER_SIZE) {
                                push(&zeros.as_slice()[..(count - at).min(BUFFER_SIZE)])?;
                            }
                        }
                    }
                }
                Ok(true)
            })?;
            supply.give_back(parcel);
            stages.device = device;
            if !more {
                stages.codec += checker.unpacking();
                stages.frames = stages.frames.saturating_sub(device + checker.unpacking());
                return Ok(());
            }
        }
    }
}
