// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading of the source's data fd, on a thread of its own or not.
//!
//! With two cores it has its own: the source only waits meanwhile, so both cores are the destination's, and reading one VF and writing another are two
//! copies that need not wait for each other. Either thread has its signals blocked and a watchdog, as every reader of a data fd has.

use std::io;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use crate::state::DataStream;
use crate::transfer::Context;
use crate::transfer::belt::{Emptying, Filling, belt};
use crate::transfer::buffer::{BUFFER_SIZE, Buffer, PAGE};
use crate::transfer::error::LoadError;
use crate::transfer::stages::{BUFFERS, timed};
use crate::transfer::watchdog::{Watch, watched};
use crate::uapi::{DataFd, UapiError};
use crate::xe::{Expectation, Parser};

/// What a read has brought; nothing at the end of the state.
pub(super) struct Piece {
    buffer: Buffer,
    length: usize,
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer.as_slice()[..self.length]
    }
}

/// Buffers for it, touched.
pub(super) fn buffers(context: &Context) -> Vec<Piece> {
    let count = if context.threads.staged_hand_over() {
        BUFFERS
    } else {
        1
    };
    let new = || Piece {
        buffer: Buffer::touched(),
        length: 0,
    };
    (0..count).map(|_| new()).collect()
}

/// The source's data fd and how far it was read.
pub(super) struct Given {
    fd: DataFd,
    read: u64,
    /// Follows the packets to tell pages; what is wrong with them is for the parser in front of the kernel to say.
    follows: Parser,
    deadline: Duration,
    took: Duration,
}

impl Given {
    /// Reads up to a page of VRAM, so that both kernels copy whole ones.
    fn fill(&mut self, piece: &mut Piece, watch: &Watch) -> Result<(), LoadError> {
        let into_page = (self.follows.vram_offset().unwrap_or(0) % PAGE as u64) as usize;
        let room = &mut piece.buffer.bytes()[..BUFFER_SIZE - into_page];
        let count = timed(&mut self.took, || watch.during(|| self.fd.read(room)));
        piece.length = count.map_err(|source| self.unreadable(source, watch))?;
        self.read += piece.length as u64;
        _ = self.follows.observe(piece.bytes());
        Ok(())
    }

    fn unreadable(&self, source: UapiError, watch: &Watch) -> LoadError {
        let read = self.read;
        if watch.has_interrupted() {
            LoadError::SourceStalled {
                read,
                waited: self.deadline,
                source,
            }
        } else {
            LoadError::Read { read, source }
        }
    }
}

/// Brings what the source's data fd gives. The fd is closed when this has finished, or was dropped and its scope has ended.
pub(super) enum Reading<'scope> {
    /// Reads when asked, into the same buffer again and again.
    Here {
        from: Box<Given>,
        piece: Option<Piece>,
    },
    /// A thread reads ahead.
    Ahead {
        pieces: Emptying<Piece>,
        thread: ScopedJoinHandle<'scope, Result<Duration, LoadError>>,
    },
}

impl<'scope> Reading<'scope> {
    /// Begins with buffers of [`buffers`]: ahead when there are several.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        fd: DataFd,
        mut buffers: Vec<Piece>,
        context: &'env Context,
    ) -> io::Result<Self> {
        let from = Box::new(Given {
            fd,
            read: 0,
            follows: Parser::new(Expectation::any()),
            deadline: context.deadlines.device,
            took: Duration::ZERO,
        });
        if buffers.len() == 1 {
            let piece = buffers.pop();
            return Ok(Self::Here { from, piece });
        }
        let (filled, pieces) = belt(buffers);
        let thread = thread::Builder::new()
            .name("vf-read".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, move || {
                let deadline = context.deadlines.device;
                let read = watched(context.interrupt, deadline, (), |(), watch| {
                    run(from, &filled, watch)
                });
                read.unwrap_or_else(|(error, ())| Err(error.into()))
            })?;
        Ok(Self::Ahead { pieces, thread })
    }

    /// The next piece; `None` when there is no more, for [`Reading::finish`] to say why. `watch` is the calling thread's.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn take(&mut self, watch: &Watch) -> Result<Option<Piece>, LoadError> {
        match self {
            Self::Here { from, piece } => {
                let Some(mut piece) = piece.take() else {
                    return Ok(None);
                };
                from.fill(&mut piece, watch)?;
                Ok((piece.length > 0).then_some(piece))
            }
            Self::Ahead { pieces, .. } => Ok(pieces.take()),
        }
    }

    /// Gives a piece's buffer back.
    pub(super) fn give_back(&mut self, emptied: Piece) {
        match self {
            Self::Here { piece, .. } => *piece = Some(emptied),
            Self::Ahead { pieces, .. } => pieces.give_back(emptied),
        }
    }

    /// Closes the fd, after a read that is under way; answers the time that reads have taken.
    ///
    /// # Errors
    /// Why reading has ended before the end of the state.
    pub(super) fn finish(self) -> Result<Duration, LoadError> {
        match self {
            Self::Here { from, .. } => Ok(from.took),
            Self::Ahead { pieces, thread } => {
                drop(pieces);
                let ended = thread.join();
                ended.unwrap_or(Err(LoadError::Stage("source's data fd")))
            }
        }
    }
}

/// Reads until the end of the state or until nobody wants more; closes the fd.
fn run(
    mut from: Box<Given>,
    pieces: &Filling<Piece>,
    watch: &Watch,
) -> Result<Duration, LoadError> {
    while let Some(mut piece) = pieces.take() {
        from.fill(&mut piece, watch)?;
        if piece.length == 0 || !pieces.put(piece) {
            break;
        }
    }
    Ok(from.took)
}
