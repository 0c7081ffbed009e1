// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One pass over a stream's file that checks everything there is to check: preamble, manifest, each frame's checksum and
//! number, each packet, the index, the end record's totals and digest, and that nothing follows. Several threads read and sum a file that has
//! an index.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::thread::{self, Scope};

use indicatif::ProgressBar;
use xe_vfio_device::stream::frame::{FRAME_MAX, PREAMBLE_SIZE, Preamble};
use xe_vfio_device::stream::{
    DecodeError, Index, Limits, Manifest, Piece, Pieces, StreamError, Totals,
};
use xe_vfio_device::transfer::{FileFrames, Threads};
use xe_vfio_device::xe::{Account, Expectation, ParseError, Parser};

/// What was found, as far as the file is good.
#[derive(Debug, Default)]
pub struct Walk {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The stream's first bytes, when they are good.
    pub preamble: Option<Preamble>,
    /// Who the stream is of.
    pub manifest: Option<Manifest>,
    /// Bytes of state and stream, and data frames.
    pub totals: Totals,
    /// Payload bytes of the smallest and the largest data frame.
    pub frame_sizes: Option<(u32, u32)>,
    /// Where the frames are, when the file has an index that can be used.
    pub index: Option<Index>,
    /// Packets.
    pub account: Account,
    /// Where it stops to be good.
    pub fault: Option<Fault>,
}

/// The first thing that is wrong.
#[derive(Debug)]
pub struct Fault {
    /// Offset in the file of the piece at fault.
    pub offset: u64,
    /// Which part of the format.
    pub part: &'static str,
    /// What is wrong.
    pub error: Box<dyn Error + Send + Sync>,
}

/// Walks a file; `bar` is told how far.
///
/// # Errors
/// When the file cannot be opened. Everything else is a [`Fault`].
pub fn walk(path: &Path, bar: &ProgressBar) -> io::Result<Walk> {
    let mut file = File::open(path)?;
    let mut walk = Walk {
        file_bytes: file.metadata()?.len(),
        ..Walk::default()
    };
    bar.set_length(walk.file_bytes);
    let mut head = [0; PREAMBLE_SIZE];
    if file.read_exact(&mut head).is_ok() {
        walk.preamble = Preamble::decode(&head).ok();
    }
    let file = File::open(path)?;
    thread::scope(|scope| walk.stream(scope, file, bar));
    Ok(walk)
}

impl Walk {
    fn stream<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, file: File, bar: &ProgressBar) {
        let limits = Limits {
            frame: FRAME_MAX,
            ..Limits::default()
        };
        match FileFrames::open(scope, file, &limits, Threads::Auto) {
            Ok((manifest, frames)) => {
                let expectation = Expectation::of(&manifest).sent_by(&manifest);
                self.manifest = Some(manifest);
                self.index = frames.index().cloned();
                self.frames(frames, expectation, bar);
            }
            Err(error) => self.fault = Some(of_stream(error, 0)),
        }
    }

    fn frames(&mut self, mut frames: FileFrames<'_>, expectation: Expectation, bar: &ProgressBar) {
        let mut parser = Parser::new(expectation);
        self.totals = frames.totals();
        loop {
            let at = frames.totals().wire_bytes;
            let observed =
                frames.next(|pieces| (pieces.len() as u32, observe(&mut parser, pieces)));
            let (size, observed) = match observed {
                Ok(Some(observed)) => observed,
                Ok(None) => break,
                Err(error) => {
                    self.fault = Some(of_stream(error, at));
                    break;
                }
            };
            let (least, most) = self.frame_sizes.unwrap_or((size, size));
            self.frame_sizes = Some((least.min(size), most.max(size)));
            if let Err(error) = observed {
                self.fault = Some(fault(at, "packets", error));
                break;
            }
            bar.set_position(at);
        }
        self.totals = frames.totals();
        self.account = parser.account().clone();
        if self.fault.is_some() {
            return;
        }
        let end = self.totals.wire_bytes;
        let finished = match parser.finish() {
            Ok(account) => frames
                .finish(&account)
                .map_err(|error| of_stream(error, end)),
            Err(error) => Err(fault(end, "packets", error)),
        };
        self.fault = finished.err();
    }
}

/// Shows a frame's state to the parser.
fn observe(parser: &mut Parser, pieces: Pieces<'_>) -> Result<(), ParseError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => parser.observe(bytes)?,
            Piece::Zeros(count) => {
                for at in (0..count).step_by(ZEROS.len()) {
                    parser.observe(&ZEROS[..(count - at).min(ZEROS.len())])?;
                }
            }
        }
    }
    Ok(())
}

fn of_stream(error: StreamError, at: u64) -> Fault {
    let (offset, part) = match &error {
        StreamError::Decode(DecodeError { offset, place, .. }) => {
            use xe_vfio_device::stream::Place;
            let part = match place {
                Place::Preamble => "preamble",
                Place::Manifest => "manifest",
                Place::Frame(_) => "frame",
                Place::End => "end",
            };
            (*offset, part)
        }
        StreamError::Aborted { .. } => (at, "abort"),
        StreamError::Account(_) => (at, "account"),
        StreamError::Io { .. } => (at, "file"),
        StreamError::Manifest(_) | StreamError::Over | StreamError::Unfinished => (at, "stream"),
    };
    fault(offset, part, error)
}

fn fault(offset: u64, part: &'static str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Fault {
    Fault {
        offset,
        part,
        error: error.into(),
    }
}
