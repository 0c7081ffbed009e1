// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lanes between threads: one thread feeds each, one takes what comes in its order.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::turn::{Head, Turn, turn};

struct Lane<T> {
    empty: Vec<T>,
    full: VecDeque<(u64, T)>,
    over: bool,
}

struct State<T> {
    lanes: Vec<Lane<T>>,
    next: u64,
    /// What ends the stream out of its turn, and whose it is.
    urgent: Option<(usize, T)>,
    /// Nobody takes any more.
    gone: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    /// One for each lane.
    freed: Vec<Condvar>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One lane's end that is fed. Dropping it says that nothing more comes.
pub(in super::super) struct Feeding<T> {
    shared: Arc<Shared<T>>,
    lane: usize,
}

/// The end where all lanes come out in order. Dropping it has the feeding threads end.
pub(in super::super) struct Merging<T> {
    shared: Arc<Shared<T>>,
}

/// As many lanes as there are sets of things, each with its own.
pub(in super::super) fn lanes<T>(things: Vec<Vec<T>>) -> (Vec<Feeding<T>>, Merging<T>) {
    let freed = things.iter().map(|_| Condvar::new()).collect();
    let lanes: Vec<_> = things
        .into_iter()
        .map(|empty| Lane {
            full: VecDeque::with_capacity(empty.len()),
            empty,
            over: false,
        })
        .collect();
    let count = lanes.len();
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            lanes,
            next: 0,
            urgent: None,
            gone: false,
        }),
        arrived: Condvar::new(),
        freed,
    });
    let feeding = (0..count).map(|lane| Feeding {
        shared: Arc::clone(&shared),
        lane,
    });
    (feeding.collect(), Merging { shared })
}

impl<T> Feeding<T> {
    /// An empty thing of this lane, as soon as there is one; `None` when nobody takes any more.
    pub(in super::super) fn take(&self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            if state.gone {
                return None;
            }
            if let Some(thing) = state.lanes[self.lane].empty.pop() {
                return Some(thing);
            }
            state = self.shared.freed[self.lane]
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands over what has this number, which is above all that this lane handed over before; `false` when nobody takes any more.
    pub(in super::super) fn put(&self, number: u64, thing: T) -> bool {
        let mut state = self.shared.lock();
        state.lanes[self.lane].full.push_back((number, thing));
        self.shared.arrived.notify_one();
        !state.gone
    }

    /// Hands over what is to be taken at once, before all else: the lane has failed.
    pub(in super::super) fn fail(&self, thing: T) {
        let mut state = self.shared.lock();
        if state.urgent.is_none() {
            state.urgent = Some((self.lane, thing));
        }
        self.shared.arrived.notify_one();
    }
}

impl<T> Drop for Feeding<T> {
    fn drop(&mut self) {
        self.shared.lock().lanes[self.lane].over = true;
        self.shared.arrived.notify_one();
    }
}

impl<T> Merging<T> {
    /// The next in order and the lane it came in, as soon as it is there; one out of order when it does not come any more, or when a lane
    /// has failed. `None` when all lanes are over.
    pub(in super::super) fn take(&self) -> Option<(usize, T)> {
        let mut state = self.shared.lock();
        loop {
            if let Some(failed) = state.urgent.take() {
                return Some(failed);
            }
            let heads = state.lanes.iter().map(|lane| match lane.full.front() {
                Some((number, _)) => Head::Frame(*number),
                None if lane.over => Head::Over,
                None => Head::Nothing,
            });
            match turn(state.next, heads) {
                Turn::Take(lane) => {
                    let (_, thing) = state.lanes[lane].full.pop_front()?;
                    state.next += 1;
                    return Some((lane, thing));
                }
                Turn::Over => return None,
                Turn::Wait => {}
            }
            state = self
                .shared
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives an emptied thing back to the lane it came in.
    pub(in super::super) fn give_back(&self, lane: usize, thing: T) {
        self.shared.lock().lanes[lane].empty.push(thing);
        self.shared.freed[lane].notify_one();
    }
}

impl<T> Drop for Merging<T> {
    fn drop(&mut self) {
        self.shared.lock().gone = true;
        for freed in &self.shared.freed {
            freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const LANES: usize = 4;
    const EACH: usize = 2;

    fn numbered() -> (Vec<Feeding<u64>>, Merging<u64>) {
        lanes(vec![vec![0; EACH]; LANES])
    }

    #[test]
    fn lanes_of_very_different_speed_come_out_in_order_and_none_runs_ahead() {
        const FRAMES: u64 = 400;
        let (feeding, merging) = numbered();
        let (dealt, ahead) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for lane in feeding {
                let (dealt, ahead) = (&dealt, &ahead);
                scope.spawn(move || {
                    while let Some(_empty) = lane.take() {
                        let number = dealt.fetch_add(1, Ordering::SeqCst) as u64;
                        if number >= FRAMES {
                            break;
                        }
                        thread::sleep(Duration::from_micros(number * 37 % 211 * lane.lane as u64));
                        ahead.fetch_add(1, Ordering::SeqCst);
                        assert!(lane.put(number, number));
                    }
                });
            }
            for number in 0..FRAMES {
                assert!(ahead.load(Ordering::SeqCst) <= LANES * EACH);
                let (lane, taken) = merging.take().unwrap();
                assert_eq!(taken, number);
                ahead.fetch_sub(1, Ordering::SeqCst);
                merging.give_back(lane, 0);
            }
            assert_eq!(merging.take(), None, "all lanes are over");
        });
    }

    #[test]
    fn a_lane_that_fails_is_heard_before_frames_that_wait_for_others() {
        let (feeding, merging) = numbered();
        assert!(feeding[1].put(7, 7));
        feeding[2].fail(99);
        feeding[3].fail(100);
        assert_eq!(merging.take(), Some((2, 99)), "the first of them");
    }

    #[test]
    fn a_missing_frame_is_not_waited_for_once_it_cannot_come() {
        let (mut feeding, merging) = numbered();
        assert!(feeding[0].put(1, 1) && feeding[1].put(2, 2));
        feeding.drain(2..);
        assert_eq!(merging.take(), Some((0, 1)), "0 cannot come");
    }

    #[test]
    fn feeding_threads_end_when_nobody_takes_any_more() {
        let (feeding, merging) = numbered();
        thread::scope(|scope| {
            for lane in feeding {
                scope.spawn(move || {
                    let mut number = lane.lane as u64 + 1;
                    while lane.take().is_some() {
                        lane.put(number, number);
                        number += LANES as u64;
                    }
                });
            }
            thread::sleep(Duration::from_millis(20));
            drop(merging);
        });
    }
}
