// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An incremental parser for the packet stream, and the gate in front of the kernel.
//!
//! The kernel allocates what a header says and does not look at everything it takes, so nothing reaches it unchecked:
//! [`Parser::push`] takes the stream in any segmentation and hands slices on to a sink. A header is handed on only when
//! it was checked, the descriptor packet only as a whole, payloads as they come and without a copy. After the first
//! error the parser is poisoned and hands on nothing more.
//!
//! ```
//! use xe_vfio_device::xe::{Expectation, Header, Gt, PacketType, Parser};
//!
//! let trailer = Header { packet_type: PacketType::Trailer, gt: Gt { tile: 0, id: 0 }, offset: 0, size: 0 };
//! let mut parser = Parser::new(Expectation::any());
//! let refused = parser.observe(&trailer.encode()).expect_err("a trailer cannot come first");
//! assert_eq!((refused.offset, refused.packet), (0, 0));
//! ```

use std::convert::Infallible;
use std::error::Error;

use thiserror::Error;

use super::account::Account;
use super::expectation::Expectation;
use super::packet::{HEADER_SIZE, Header, PacketType};
use super::progress::Progress;
use super::refusal::{ParseError, Refusal};

/// A push that failed: by the stream's fault or by the sink's.
#[derive(Debug, Error)]
pub enum PushError<E: Error + 'static> {
    /// The stream is refused.
    #[error(transparent)]
    Refused(#[from] ParseError),
    /// The sink did not take verified bytes; its error is the whole story.
    #[error(transparent)]
    Sink(E),
}

/// Where the parser stands in the stream.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A header, or a whole descriptor packet, of so many bytes comes next.
    Unit(usize),
    /// So many bytes of a packet's payload come next.
    Payload(Header, u64),
    /// The trailer was seen.
    Complete,
    /// An error was answered; nothing more is handed on.
    Poisoned,
}

/// The parser; see the module's header.
#[derive(Debug)]
pub struct Parser {
    step: Step,
    progress: Progress,
    account: Account,
    /// The beginning of a unit that the input so far has left incomplete; at most a descriptor packet.
    held: Vec<u8>,
}

impl Parser {
    /// A parser at the beginning of a stream.
    pub fn new(expectation: Expectation) -> Self {
        Self {
            step: Step::Unit(HEADER_SIZE),
            progress: Progress::new(expectation),
            account: Account::default(),
            held: Vec::new(),
        }
    }

    /// Takes the next piece of the stream and hands on to `sink` what is verified, in order and without gaps: as one slice of
    /// `input` where nothing was held back before. Memory beyond `input`: at most a header and
    /// [`DESCRIPTOR_MAX`](super::progress::DESCRIPTOR_MAX).
    ///
    /// # Errors
    /// [`PushError::Refused`] for a bad packet: then nothing of this piece that is not already with the sink will be.
    /// [`PushError::Sink`] for a failed sink. Either way the parser is poisoned and the stream cannot be resumed.
    pub fn push<E: Error + 'static>(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), PushError<E>> {
        let result = self.advance(input, &mut sink);
        if result.is_err() {
            self.step = Step::Poisoned;
        }
        result
    }

    /// Takes the next piece of the stream for its account only, where nothing is to be handed on.
    ///
    /// # Errors
    /// [`ParseError`] for a bad packet; the parser is poisoned.
    pub fn observe(&mut self, input: &[u8]) -> Result<(), ParseError> {
        self.push(input, |_| Ok::<_, Infallible>(()))
            .map_err(|error| match error {
                PushError::Refused(refused) => refused,
                PushError::Sink(never) => match never {},
            })
    }

    /// What went through so far.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Where in VRAM the next byte belongs, while a VRAM packet is under way.
    pub fn vram_offset(&self) -> Option<u64> {
        match self.step {
            Step::Payload(header, left) if header.packet_type == PacketType::Vram => {
                Some(header.offset + header.size - left)
            }
            _ => None,
        }
    }

    /// Whether the trailer was seen, so that the stream may end here.
    pub fn is_complete(&self) -> bool {
        matches!(self.step, Step::Complete)
    }

    /// Ends the stream and answers its account.
    ///
    /// # Errors
    /// [`ParseError`] when the stream did not end with a trailer, or when an error came before.
    pub fn finish(self) -> Result<Account, ParseError> {
        match self.step {
            Step::Complete => Ok(self.account),
            Step::Poisoned => Err(self.refuse(Refusal::Poisoned)),
            Step::Unit(_) | Step::Payload(..) => Err(self.refuse(Refusal::NoTrailer)),
        }
    }

    fn advance<E: Error + 'static>(
        &mut self,
        input: &[u8],
        sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), PushError<E>> {
        // input[verified..at] is checked and waits to be handed on; all before is with the sink or in `held`.
        let (mut verified, mut at) = (0, 0);
        while at < input.len() {
            let left = &input[at..];
            match self.step {
                Step::Payload(header, remaining) => {
                    let taken =
                        usize::try_from(remaining).map_or(left.len(), |most| most.min(left.len()));
                    at += taken;
                    self.account.payload(&header, taken as u64);
                    self.step = match remaining - taken as u64 {
                        0 => Step::Unit(HEADER_SIZE),
                        remaining => Step::Payload(header, remaining),
                    };
                }
                Step::Unit(size) if self.held.is_empty() && left.len() >= size => {
                    if self.unit(&left[..size])? {
                        at += size;
                    }
                }
                Step::Unit(size) => {
                    hand_on(&input[verified..at], sink)?;
                    let missing = (size - self.held.len()).min(left.len());
                    self.held.extend_from_slice(&left[..missing]);
                    at += missing;
                    verified = at;
                    if self.held.len() == size {
                        let mut held = std::mem::take(&mut self.held);
                        if self.unit(&held)? {
                            hand_on(&held, sink)?;
                            held.clear();
                        }
                        self.held = held;
                    }
                }
                Step::Complete => return Err(self.refuse(Refusal::AfterTrailer).into()),
                Step::Poisoned => return Err(self.refuse(Refusal::Poisoned).into()),
            }
        }
        hand_on(&input[verified..at], sink)
    }

    /// Checks a unit and moves on behind it; `false` when it turned out to be a descriptor that wants its payload first.
    fn unit(&mut self, unit: &[u8]) -> Result<bool, ParseError> {
        let (header, payload) = unit
            .split_first_chunk::<HEADER_SIZE>()
            .expect("a unit begins with a whole header");
        let header = Header::decode(header).map_err(|error| self.refuse(error.into()))?;
        let descriptor = header.packet_type == PacketType::Descriptor;
        if descriptor && payload.is_empty() {
            let size = self
                .progress
                .descriptor_size(&header)
                .map_err(|refusal| self.refuse(refusal))?;
            if size > 0 {
                self.step = Step::Unit(HEADER_SIZE + size);
                return Ok(false);
            }
        }
        let checked = if descriptor {
            self.progress.descriptor(payload)
        } else {
            self.progress.packet(&header)
        };
        checked.map_err(|refusal| self.refuse(refusal))?;
        self.account.packet(&header);
        self.account.payload(&header, payload.len() as u64);
        self.step = match header.packet_type {
            PacketType::Trailer => Step::Complete,
            PacketType::Descriptor => Step::Unit(HEADER_SIZE),
            _ => Step::Payload(header, header.size),
        };
        Ok(true)
    }

    fn refuse(&self, refusal: Refusal) -> ParseError {
        // The account counts what was checked, so the next header begins where its bytes end. A packet that was cut
        // short is named itself.
        let packets = PacketType::ALL
            .iter()
            .map(|kind| self.account.by_kind().get(*kind).packets)
            .sum::<u64>();
        ParseError {
            packet: packets,
            offset: self.account.stream_bytes(),
            refusal,
        }
    }
}

fn hand_on<E: Error + 'static>(
    verified: &[u8],
    sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), PushError<E>> {
    if verified.is_empty() {
        Ok(())
    } else {
        sink(verified).map_err(PushError::Sink)
    }
}
