// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames that arrive out of order are put in order within a bound that pushes back instead of failing.
//!
//! They come in lanes: the connections of a split stream, or the threads that read a file ahead. Each lane brings its frames in ascending
//! order, and between them the lanes bring each frame once. A lane has a few buffers of its own, so memory is lanes times buffers; a lane
//! whose buffers are full waits, and a connection behind it with it, down to the sender.
//!
//! **Why nobody waits for ever.** Let `n` be the frame in turn. It is in one lane, and all that this lane brought before has a smaller
//! number and so was taken and given back: the lane has an empty buffer and can bring `n`. That needs buffers that belong to their lane: with the same
//! number in one pool for all, lanes that are ahead may hold every buffer while the lane of `n` has none (`turn` has the check, and this
//! as its counterexample).
//!
//! [`turn`] says which lane is next, without threads or clocks; [`lanes`] is the same with threads. [`deal`] is the sender's side of a split stream: frames are handed out in
//! ascending order to whichever connection is free.

mod deal;
mod lanes;
mod turn;

pub(super) use deal::{Dealing, Taking, deal};
pub(super) use lanes::{Feeding, Merging, lanes};
