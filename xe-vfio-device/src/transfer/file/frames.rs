// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The frames of a file, for those who want to look at it without a VF.

use std::fs::File;
use std::io::BufReader;
use std::thread::Scope;

use super::Ahead;
use crate::stream::{
    Checked, Checker, Index, Inlet, Limits, Manifest, Opening, Pieces, Raw, StreamError, Totals,
};
use crate::transfer::buffer::BUFFER_SIZE;
use crate::transfer::parcel::Parcel;
use crate::transfer::stages::Threads;
use crate::xe::Account;

/// The frames of a file in order, each checked before it is answered. Where the file has an index, several threads read and sum them ahead.
pub struct FileFrames<'scope> {
    checker: Checker,
    way: Way<'scope>,
}

enum Way<'scope> {
    Ahead(Ahead<'scope>, Option<Box<Parcel>>),
    Alone {
        inlet: Inlet<BufReader<File>>,
        raw: Raw,
        payload: Vec<u8>,
    },
}

impl<'scope> FileFrames<'scope> {
    /// Reads the opening of a file that nothing was read from.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn open<'env>(
        scope: &'scope Scope<'scope, 'env>,
        file: File,
        limits: &Limits,
        threads: Threads,
    ) -> Result<(Manifest, Self), StreamError> {
        let failed = |source| StreamError::Io {
            doing: "Receiving",
            offset: 0,
            source,
        };
        let other = file.try_clone().map_err(failed)?;
        let reader = BufReader::with_capacity(BUFFER_SIZE, file);
        let (manifest, reader) = Opening::read(reader, limits)?;
        let (inlet, checker) = reader.into_parts();
        let ahead = Ahead::start(scope, other, &checker, inlet.framing(), threads);
        let way = match ahead.map_err(failed)? {
            Some(ahead) => Way::Ahead(ahead, None),
            None => Way::Alone {
                inlet,
                raw: Raw::new(),
                payload: Vec::new(),
            },
        };
        Ok((manifest, Self { checker, way }))
    }

    /// Gives the next frame's state to `take` and answers what that answers; `None` after the end record.
    ///
    /// # Errors
    /// [`StreamError`]; nothing more comes then.
    pub fn next<T>(
        &mut self,
        take: impl FnOnce(Pieces<'_>) -> T,
    ) -> Result<Option<T>, StreamError> {
        while !self.checker.has_ended() {
            let checked = match &mut self.way {
                Way::Ahead(ahead, held) => {
                    if let Some(emptied) = held.take() {
                        ahead.give_back(emptied);
                    }
                    let parcel = ahead.take().ok_or(StreamError::Over)?;
                    let (raw, payload) = held.insert(parcel).parts();
                    self.checker.accept(raw, payload)?
                }
                Way::Alone {
                    inlet,
                    raw,
                    payload,
                } => {
                    inlet.frame(raw, |length| {
                        payload.resize(length, 0);
                        &mut payload[..]
                    });
                    self.checker.accept(raw, payload)?
                }
            };
            if let Checked::State(pieces) = checked {
                return Ok(Some(take(pieces)));
            }
        }
        Ok(None)
    }

    /// Where the frames are, when the file has an index that is used.
    pub fn index(&self) -> Option<&Index> {
        match &self.way {
            Way::Ahead(ahead, _) => Some(ahead.index()),
            Way::Alone { .. } => None,
        }
    }

    /// What was read so far; everything after the end.
    pub fn totals(&self) -> Totals {
        self.checker.totals()
    }

    /// Compares the sender's account with that of the parser that the state went through, and ends the stream, behind which nothing may stand.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn finish(self, account: &Account) -> Result<Totals, StreamError> {
        match self.way {
            Way::Ahead(ahead, _) => {
                let alive = ahead.finish().is_some();
                // The index was found from the file's end, so nothing stands behind it.
                if alive {
                    self.checker.finish(account)
                } else {
                    Err(StreamError::Over)
                }
            }
            Way::Alone { mut inlet, .. } => self.checker.finish_file(&mut inlet, account),
        }
    }
}
