// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fixed number of things that go round between two threads.
//!
//! One thread takes an empty one, fills it and puts it on the belt; the other takes it full, empties it and gives it back. Whoever is
//! faster waits for the other: that is the pipeline's back-pressure and the bound of its memory. Each end notices when the other is gone,
//! however it went.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The end that fills.
pub(super) struct Filling<T> {
    empty: Receiver<T>,
    full: SyncSender<T>,
}

/// The end that empties.
pub(super) struct Emptying<T> {
    full: Receiver<T>,
    empty: SyncSender<T>,
}

/// A belt with these things on it, all empty.
pub(super) fn belt<T>(things: Vec<T>) -> (Filling<T>, Emptying<T>) {
    // Room for all on either side: only taking ever waits.
    let (to_full, full) = sync_channel(things.len());
    let (to_empty, empty) = sync_channel(things.len());
    for thing in things {
        // There is room, and the other end is here.
        _ = to_empty.send(thing);
    }
    (
        Filling {
            empty,
            full: to_full,
        },
        Emptying {
            full,
            empty: to_empty,
        },
    )
}

impl<T> Filling<T> {
    /// An empty one, as soon as there is one; `None` when the other end is gone.
    pub(super) fn take(&self) -> Option<T> {
        self.empty.recv().ok()
    }

    /// Hands a full one over; `false` when the other end is gone.
    pub(super) fn put(&self, thing: T) -> bool {
        self.full.send(thing).is_ok()
    }
}

impl<T> Emptying<T> {
    /// A full one, as soon as there is one; `None` when the other end is gone and nothing is left.
    pub(super) fn take(&self) -> Option<T> {
        self.full.recv().ok()
    }

    /// Gives an empty one back.
    pub(super) fn give_back(&self, thing: T) {
        // Nobody wants it any more when the other end is gone.
        _ = self.empty.send(thing);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_fast_end_waits_for_a_slow_one() {
        let (filling, emptying) = belt(vec![0; 3]);
        let filled = AtomicUsize::new(0);
        thread::scope(|scope| {
            let filled_so_far = &filled;
            scope.spawn(move || {
                for number in 1..=20 {
                    _ = filling.take().unwrap();
                    assert!(filling.put(number));
                    filled_so_far.store(number, Ordering::SeqCst);
                }
            });
            for number in 1..=20 {
                thread::sleep(Duration::from_millis(1));
                assert!(filled.load(Ordering::SeqCst) <= number + 2);
                assert_eq!(emptying.take(), Some(number));
                emptying.give_back(0);
            }
        });
    }

    #[test]
    fn each_end_notices_that_the_other_is_gone() {
        let (filling, emptying) = belt(vec![7]);
        drop(emptying);
        assert_eq!(filling.take(), Some(7), "it was there");
        assert!(!filling.put(7));
        assert_eq!(filling.take(), None);
        let (filling, emptying) = belt(vec![7]);
        let thing = filling.take().unwrap();
        filling.put(thing);
        drop(filling);
        assert_eq!(emptying.take(), Some(7), "nothing is lost");
        assert_eq!(emptying.take(), None);
        emptying.give_back(7);
    }
}
