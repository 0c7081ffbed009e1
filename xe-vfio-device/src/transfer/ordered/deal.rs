// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The other end of lanes: one thread fills things, and whichever of several is free takes the next one.
//!
//! Things are taken in the order in which they were put, so each taker gets them in ascending order, which is what lanes want.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

struct State<T> {
    empty: Vec<T>,
    full: VecDeque<T>,
    /// For the first taker, behind all else.
    last: Option<T>,
    closed: bool,
    failed: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    emptied: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, failed: bool, last: Option<T>) {
        let mut state = self.lock();
        state.closed = true;
        state.failed |= failed;
        if last.is_some() {
            state.last = last;
        }
        self.filled.notify_all();
        self.emptied.notify_all();
    }
}

/// The end that fills. Dropping it says that nothing more comes.
pub(in super::super) struct Dealing<T>(Arc<Shared<T>>);

/// An end that empties. Dropping it before it was told that nothing more comes ends the others too.
pub(in super::super) struct Taking<T> {
    shared: Arc<Shared<T>>,
    number: usize,
    done: bool,
}

/// `takers` ends for these things, all empty.
pub(in super::super) fn deal<T>(things: Vec<T>, takers: usize) -> (Dealing<T>, Vec<Taking<T>>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            full: VecDeque::with_capacity(things.len()),
            empty: things,
            last: None,
            closed: false,
            failed: false,
        }),
        filled: Condvar::new(),
        emptied: Condvar::new(),
    });
    let takers = (0..takers).map(|number| Taking {
        shared: Arc::clone(&shared),
        number,
        done: false,
    });
    (Dealing(Arc::clone(&shared)), takers.collect())
}

impl<T> Dealing<T> {
    /// An empty one, as soon as there is one; `None` when a taker has failed.
    pub(in super::super) fn take(&self) -> Option<T> {
        let mut state = self.0.lock();
        loop {
            if state.failed {
                return None;
            }
            if let Some(thing) = state.empty.pop() {
                return Some(thing);
            }
            let waited = self.0.emptied.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a full one for whoever is free; `false` when a taker has failed.
    pub(in super::super) fn put(&self, thing: T) -> bool {
        let mut state = self.0.lock();
        state.full.push_back(thing);
        self.0.filled.notify_one();
        !state.failed
    }

    /// Puts what the first taker gets behind all else, and closes.
    pub(in super::super) fn last(&self, thing: T) {
        self.0.close(false, Some(thing));
    }
}

impl<T> Drop for Dealing<T> {
    fn drop(&mut self) {
        self.0.close(false, None);
    }
}

impl<T> Taking<T> {
    /// The next one, as soon as there is one; `None` when nothing more comes or another taker has failed.
    pub(in super::super) fn take(&mut self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            if state.failed {
                break;
            }
            if let Some(thing) = state.full.pop_front() {
                return Some(thing);
            }
            if state.closed {
                let last = state.last.take_if(|_| self.number == 0);
                if last.is_some() {
                    return last;
                }
                break;
            }
            let waited = self.shared.filled.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        self.done = true;
        None
    }

    /// Gives an emptied one back.
    pub(in super::super) fn give_back(&self, thing: T) {
        self.shared.lock().empty.push(thing);
        self.shared.emptied.notify_one();
    }
}

impl<T> Drop for Taking<T> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.close(true, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::super::lanes;
    use super::*;

    #[test]
    fn what_is_dealt_to_whoever_is_free_comes_out_of_the_lanes_in_order() {
        const FRAMES: u64 = 500;
        let (dealing, takers) = deal(vec![0u64; 4], 3);
        let (feeding, merging) = lanes(vec![vec![0u64; 1]; 3]);
        thread::scope(|scope| {
            for (mut taker, lane) in takers.into_iter().zip(feeding) {
                scope.spawn(move || {
                    while let Some(number) = taker.take() {
                        let empty = lane.take();
                        thread::sleep(Duration::from_micros(number * 31 % 97));
                        assert!(empty.is_some() && lane.put(number, number));
                        taker.give_back(0);
                    }
                });
            }
            scope.spawn(move || {
                for number in 0..FRAMES {
                    _ = dealing.take().unwrap();
                    assert!(dealing.put(number));
                }
                dealing.last(FRAMES);
            });
            for number in 0..=FRAMES {
                let (lane, taken) = merging.take().unwrap();
                assert_eq!(taken, number);
                merging.give_back(lane, 0);
            }
        });
    }

    #[test]
    fn the_last_thing_is_the_first_takers_and_comes_behind_the_others() {
        let (dealing, mut takers) = deal(vec![0; 2], 2);
        assert!(dealing.put(1));
        dealing.last(9);
        assert_eq!(takers[1].take(), Some(1));
        assert_eq!(takers[1].take(), None);
        assert_eq!(takers[0].take(), Some(9));
        assert_eq!(takers[0].take(), None);
    }

    #[test]
    fn a_taker_that_dies_ends_the_others_and_the_filling_end() {
        let (dealing, mut takers) = deal(vec![0; 2], 2);
        assert!(dealing.put(1));
        drop(takers.pop());
        assert_eq!(takers[0].take(), None);
        assert_eq!(dealing.take(), None);
        assert!(!dealing.put(2));
    }
}
