// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VF's state from its data fd to a connection or file, and back.
//!
//! [`save()`] and [`load()`] take a stopped session and answer a settled one whatever happens, with the report or the error
//! beside it. Each is a pipeline of two stages, one at the data fd and one at the connection; see [`Threads`]. Each uses a few
//! buffers of 1 MiB for any amount of state, and waits where the other side is slower. [`hand_over()`] is a save to a process of the same host: it
//! passes the data fd on, and the load reads it.
//!
//! [`Cancel`] ends a transfer from another thread, [`Deadlines`] end one that makes no progress, and [`Progress`] says how far it
//! is; none of them needs a lock that a transfer holds. [`Endpoint`] is a URL, [`Connection`] what a VMM may bring itself.

mod belt;
mod buffer;
mod cancel;
mod compress;
mod connection;
mod deadlines;
mod drain;
mod endpoint;
mod error;
mod file;
mod gather;
mod handover;
mod incoming;
mod load;
mod ordered;
mod parcel;
mod progress;
mod save;
mod shared;
mod sink;
mod stages;
#[cfg(test)]
mod tests;
mod watchdog;

pub use cancel::{Cancel, Registration};
pub use compress::Compression;
pub use connection::{Closer, Connection};
pub use deadlines::Deadlines;
pub use endpoint::{Endpoint, EndpointError, Listener};
pub use error::{LoadError, SaveError};
pub use file::{FileFrames, PendingFile, stream_path};
pub use gather::{Gather, GatherError};
pub use handover::hand_over;
pub use incoming::{Incoming, Source};
pub use load::{LoadReport, Loaded, load};
pub use progress::{Phase, Progress, ProgressView};
pub use save::{SaveReport, Saved, save};
pub use sink::{FileSink, Peer, Peers, Sink};
pub(crate) use stages::CORES as STAGED_CORES;
pub use stages::{Stages, Threads};
pub use watchdog::WatchError;

pub use crate::stream::AttemptId;
use crate::uapi::InterruptSignal;

/// What a transfer works with besides the VF and the stream.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The attempt that the stream belongs to.
    pub attempt: AttemptId,
    /// Ends the transfer early.
    pub cancel: Cancel,
    /// When no progress is too little.
    pub deadlines: Deadlines,
    /// Where the transfer counts.
    pub progress: Progress,
    /// Gets a thread out of a data fd that is stuck in the kernel. Without one a stuck device is waited for.
    pub interrupt: Option<InterruptSignal>,
    /// Threads of this side.
    pub threads: Threads,
    /// When a save leaves STOP_COPY.
    pub leave: Leave,
    /// Whether a save compresses. Its receiver has to be a build with codecs; without them here nothing is compressed.
    pub compression: Compression,
}

/// When a save leaves STOP_COPY for STOP, after all of the state was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leave {
    /// At once, while the destination restores: it costs the downtime nothing unless the kernel takes longer than the destination. What
    /// a save answers is a VF in STOP.
    #[default]
    AtOnce,
    /// Not before the caller says so: a good save over a connection answers a VF in STOP_COPY, all of it read
    /// ([`Settled::Unsettled`](crate::state::Settled::Unsettled)). Whatever the kernel does there, it is not in the guest's downtime.
    Later,
}

/// An error with all its causes, for those who get it as text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
