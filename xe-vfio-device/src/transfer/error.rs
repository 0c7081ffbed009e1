// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a VF's state did not move.

use std::time::Duration;

use thiserror::Error;

use super::watchdog::WatchError;
use crate::state::TransitionError;
use crate::stream::{ReceiptError, StreamError, VfOutcome};
use crate::uapi::UapiError;
use crate::xe::ParseError;

/// A save that failed. What holds for the VF stands beside it, in [`Saved`](super::Saved).
#[derive(Debug, Error)]
pub enum SaveError {
    /// It was cancelled.
    #[error("The save was cancelled")]
    Cancelled,
    /// The thread could not be prepared.
    #[error("The save cannot begin")]
    Watch(#[from] WatchError),
    /// STOP_COPY could not be entered.
    #[error("The VF's state cannot be opened")]
    Enter(#[source] TransitionError),
    /// The kernel could not read the state.
    #[error("The VF's state cannot be read after {read} bytes")]
    Read {
        /// Bytes read before.
        read: u64,
        /// What the kernel answered.
        #[source]
        source: UapiError,
    },
    /// The kernel did not go on for too long, and was interrupted.
    #[error("The VF gave no state for {waited:?} after {read} bytes, so reading was given up")]
    Stalled {
        /// Bytes read before.
        read: u64,
        /// The deadline.
        waited: Duration,
        /// What the interrupted call answered.
        #[source]
        source: UapiError,
    },
    /// What the kernel gave is not what it should be.
    #[error("The kernel's state of the VF is not as it should be")]
    Malformed(#[source] ParseError),
    /// It could not be sent or written.
    #[error("The VF's state cannot be sent")]
    Stream(#[source] StreamError),
    /// One of several connections failed.
    #[error("Connection {number} of {count} (counted from 0) of the VF's state failed")]
    Connection {
        /// Which one.
        number: usize,
        /// How many there are.
        count: usize,
        /// What happened to it.
        #[source]
        source: StreamError,
    },
    /// The destination said why it did not load it.
    #[error("The destination did not load the VF's state ({vf}): {reason}")]
    Refused {
        /// What became of its VF.
        vf: VfOutcome,
        /// Its words.
        reason: String,
    },
    /// The destination went away in the middle.
    #[error("The destination closed the connection in the middle of the VF's state")]
    PeerLost(#[source] ReceiptError),
    /// The destination did not say whether it has loaded it.
    #[error("The destination has not confirmed that it loaded the VF's state")]
    Unconfirmed(#[source] ReceiptError),
    /// The data fd cannot be passed on over such a connection.
    #[error(
        "A data fd is handed over through a unix socket only, and this connection is none: send the state instead"
    )]
    NoDescriptors,
    /// The destination that reads the data fd has not got on for too long.
    #[error(
        "The destination has read no more of the VF's state for {waited:?}, after {taken} bytes"
    )]
    Silent {
        /// Bytes that it has told of.
        taken: u64,
        /// The deadline.
        waited: Duration,
    },
    /// The destination says that it has read all, and the kernel has more.
    #[error(
        "The destination says that {taken} bytes are all of the VF's state, but the kernel has more"
    )]
    LeftOver {
        /// Bytes that it has told of.
        taken: u64,
    },
    /// A stage of the transfer has died.
    #[error("The thread for the {0} has panicked: report it, with what it has said on stderr")]
    Stage(&'static str),
    /// The file could not be completed.
    #[error("The file with the VF's state cannot be completed")]
    File(#[source] std::io::Error),
}

/// A load that failed. What holds for the VF stands beside it, in [`Loaded`](super::Loaded).
#[derive(Debug, Error)]
pub enum LoadError {
    /// It was cancelled.
    #[error("The load was cancelled")]
    Cancelled,
    /// The thread could not be prepared.
    #[error("The load cannot begin")]
    Watch(#[from] WatchError),
    /// RESUMING could not be entered.
    #[error("The VF cannot be opened for a state")]
    Enter(#[source] TransitionError),
    /// The stream is not whole, or the connection failed.
    #[error("The VF's state cannot be received")]
    Stream(#[source] StreamError),
    /// One of several connections failed.
    #[error("Connection {number} of {count} (counted from 0) of the VF's state failed")]
    Connection {
        /// Which one.
        number: usize,
        /// How many there are.
        count: usize,
        /// What happened to it.
        #[source]
        source: StreamError,
    },
    /// A data fd was announced and none came.
    #[error(
        "The source hands its data fd over, and none came with the stream: descriptors pass through a unix socket of this host only"
    )]
    NoDescriptor,
    /// The data fd that was handed over cannot be read.
    #[error("The source's VF cannot be read after {read} bytes")]
    Read {
        /// Bytes read before.
        read: u64,
        /// What the kernel answered.
        #[source]
        source: UapiError,
    },
    /// The source's kernel did not go on for too long, and was interrupted.
    #[error(
        "The source's VF gave no state for {waited:?} after {read} bytes, so reading was given up"
    )]
    SourceStalled {
        /// Bytes read before.
        read: u64,
        /// The deadline.
        waited: Duration,
        /// What the interrupted call answered.
        #[source]
        source: UapiError,
    },
    /// The state is none that this VF can take.
    #[error("The state is not one that this VF can take")]
    Malformed(#[source] ParseError),
    /// The kernel refused it.
    #[error("The kernel refused the VF's state after {written} bytes")]
    Write {
        /// Bytes written before.
        written: u64,
        /// What the kernel answered.
        #[source]
        source: UapiError,
    },
    /// The kernel did not go on for too long, and was interrupted.
    #[error("The VF took no state for {waited:?} after {written} bytes, so writing was given up")]
    Stalled {
        /// Bytes written before.
        written: u64,
        /// The deadline.
        waited: Duration,
        /// What the interrupted call answered.
        #[source]
        source: UapiError,
    },
    /// A stage of the transfer has died.
    #[error("The thread for the {0} has panicked: report it, with what it has said on stderr")]
    Stage(&'static str),
    /// RESUMING -> STOP failed.
    #[error("The VF did not accept the state as a whole")]
    Finish(#[source] TransitionError),
    /// The source could not be told that the state has arrived, so it keeps its VF and this one was reset.
    #[error("The source cannot be told that the state has arrived")]
    Receipt(#[source] ReceiptError),
}
