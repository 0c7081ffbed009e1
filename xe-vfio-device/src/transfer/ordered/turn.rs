// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which lane has the frame in turn.

/// What a lane holds at its front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing yet.
    Nothing,
    /// A frame of this number.
    Frame(u64),
    /// Nothing, and nothing will come.
    Over,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Take from this lane. When the number is not the one in turn, then that one does not come any more, or this one has come before:
    /// whoever checks numbers refuses it.
    Take(usize),
    /// The frame in turn may still come.
    Wait,
    /// Nothing comes any more.
    Over,
}

/// Who is next, when `next` is the number in turn.
pub(super) fn turn(next: u64, heads: impl Iterator<Item = Head>) -> Turn {
    let mut lowest: Option<(u64, usize)> = None;
    let mut may_come = false;
    for (lane, head) in heads.enumerate() {
        match head {
            Head::Frame(number) => {
                if lowest.is_none_or(|(least, _)| number < least) {
                    lowest = Some((number, lane));
                }
            }
            Head::Nothing => may_come = true,
            Head::Over => {}
        }
    }
    match lowest {
        Some((number, lane)) if number <= next || !may_come => Turn::Take(lane),
        None if !may_come => Turn::Over,
        _ => Turn::Wait,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_frame_in_turn_is_taken_and_a_later_one_only_when_it_cannot_come() {
        use Head::{Frame, Nothing, Over};
        let of = |heads: &[Head]| turn(5, heads.iter().copied());
        assert_eq!(of(&[Frame(7), Frame(5), Nothing]), Turn::Take(1));
        assert_eq!(of(&[Frame(7), Nothing]), Turn::Wait);
        assert_eq!(of(&[Frame(7), Frame(6), Over]), Turn::Take(1));
        assert_eq!(of(&[Frame(4), Nothing]), Turn::Take(0));
        assert_eq!(of(&[Over, Nothing]), Turn::Wait);
        assert_eq!(of(&[Over, Over]), Turn::Over);
    }

    /// Who owns the buffers.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Pool {
        OfTheLane,
        OfAll,
    }

    /// Everything there is: what each lane still brings and holds, and what is in turn.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct State {
        coming: Vec<Vec<u64>>,
        held: Vec<Vec<u64>>,
        next: u64,
    }

    impl State {
        /// Frame `n` comes on lane `of[n]`.
        fn new(lanes: usize, of: &[usize]) -> Self {
            let mut coming = vec![Vec::new(); lanes];
            for (number, lane) in of.iter().enumerate() {
                coming[*lane].push(number as u64);
            }
            Self {
                held: vec![Vec::new(); lanes],
                coming,
                next: 0,
            }
        }

        fn heads(&self) -> impl Iterator<Item = Head> {
            let lanes = self.held.iter().zip(&self.coming);
            // A lane is not known to be over before the end has come, as with a connection.
            lanes.map(|(held, _)| {
                held.first()
                    .map_or(Head::Nothing, |number| Head::Frame(*number))
            })
        }

        fn has_room(&self, lane: usize, buffers: usize, pool: Pool) -> bool {
            match pool {
                Pool::OfTheLane => self.held[lane].len() < buffers,
                Pool::OfAll => {
                    let held: usize = self.held.iter().map(Vec::len).sum();
                    held < buffers * self.held.len()
                }
            }
        }

        /// All that can happen next.
        fn steps(&self, buffers: usize, pool: Pool) -> Vec<Self> {
            let mut steps = Vec::new();
            for lane in 0..self.coming.len() {
                if !self.coming[lane].is_empty() && self.has_room(lane, buffers, pool) {
                    let mut after = self.clone();
                    let number = after.coming[lane].remove(0);
                    after.held[lane].push(number);
                    steps.push(after);
                }
            }
            if let Turn::Take(lane) = turn(self.next, self.heads()) {
                let mut after = self.clone();
                assert_eq!(after.held[lane].remove(0), self.next, "in order");
                after.next += 1;
                steps.push(after);
            }
            steps
        }
    }

    /// Goes through all orders in which things can happen; answers whether one of them ends with frames left.
    fn gets_stuck(lanes: usize, buffers: usize, of: &[usize], pool: Pool) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![State::new(lanes, of)];
        while let Some(state) = open.pop() {
            if !seen.insert(state.clone()) {
                continue;
            }
            let steps = state.steps(buffers, pool);
            if steps.is_empty() && state.next < of.len() as u64 {
                return true;
            }
            open.extend(steps);
        }
        false
    }

    /// Every way to deal `frames` frames to `lanes` lanes.
    fn deals(lanes: usize, frames: u32) -> impl Iterator<Item = Vec<usize>> {
        (0..lanes.pow(frames)).map(move |mut code| {
            let digit = |_| {
                let lane = code % lanes;
                code /= lanes;
                lane
            };
            (0..frames).map(digit).collect()
        })
    }

    #[test]
    fn no_deal_of_frames_to_lanes_and_no_order_of_events_gets_stuck() {
        for (lanes, buffers, frames) in [(1, 1, 4), (2, 1, 8), (2, 2, 8), (3, 1, 6), (3, 2, 6)] {
            for of in deals(lanes, frames) {
                assert!(
                    !gets_stuck(lanes, buffers, &of, Pool::OfTheLane),
                    "{lanes} lanes of {buffers}, frames on {of:?}"
                );
            }
        }
    }

    #[test]
    fn buffers_that_belong_to_nobody_do_get_stuck() {
        let stuck = deals(2, 4).filter(|of| gets_stuck(2, 1, of, Pool::OfAll));
        assert!(stuck.count() > 0);
    }

    proptest! {
        /// Any deal of any number of frames, with events in any order, comes out in order.
        #[test]
        fn whatever_arrives_when_comes_out_in_order(
            of in prop::collection::vec(0usize..5, 0..60),
            choices in prop::collection::vec(any::<usize>(), 200),
            buffers in 1usize..4,
        ) {
            let mut state = State::new(5, &of);
            let mut choices = choices.iter().cycle();
            while state.next < of.len() as u64 {
                let mut steps = state.steps(buffers, Pool::OfTheLane);
                prop_assert!(!steps.is_empty());
                let choice = choices.next().expect("they go round") % steps.len();
                state = steps.swap_remove(choice);
                let held: usize = state.held.iter().map(Vec::len).sum();
                prop_assert!(held <= 5 * buffers);
            }
        }

        /// With frames lost or repeated something is taken that is out of turn, or all is over; nothing waits.
        #[test]
        fn a_frame_that_does_not_come_is_not_waited_for(
            heads in prop::collection::vec(prop::option::of(0u64..9), 1..6),
            next in 0u64..9,
        ) {
            let ended = heads.iter().map(|head| head.map_or(Head::Over, Head::Frame));
            match turn(next, ended) {
                Turn::Take(lane) => prop_assert_eq!(heads[lane], heads.iter().flatten().min().copied()),
                Turn::Over => prop_assert!(heads.iter().all(Option::is_none)),
                Turn::Wait => prop_assert!(false, "nothing can come"),
            }
        }
    }
}
