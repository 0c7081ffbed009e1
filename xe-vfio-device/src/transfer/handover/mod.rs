// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Local hand-over: two processes of one host, and no byte of state through a socket.
//!
//! The source enters STOP_COPY and passes the data fd itself through a unix socket ([`hand_over`]); the destination, which finds that out from
//! the stream's preamble, reads it and writes its own ([`Taking`], a part of [`load`](super::load())). Each packet goes through the destination's parser before its
//! kernel sees it, and the stream has to end with its trailer.
//!
//! The source stays in charge. It keeps the fd too and hears how far the destination is; on a cancel, a silent or dead destination, or a failed load it
//! has the destination stop, reads what is left itself and drops it, and the VF is in STOP with its state. It believes that all was read only
//! when its own read answers the end.
//!
//! What it cannot prevent is a destination that dies in the middle of a read that waits for the GPU: to the kernel that is an interrupted reader, whose bytes
//! are lost. The source's drain fails then, and unless all packets were in the kernel's ring by that time, the VF is reset and this is told.
//! A destination that is stuck in a read holds the source's drain and its SET up until the destination's own watchdog, or its end, gets it out.

mod giving;
mod listening;
mod reading;
mod taking;

pub use giving::hand_over;
pub(super) use taking::Taking;
