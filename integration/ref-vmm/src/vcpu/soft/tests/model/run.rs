// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs the guest: a thread for the engines, a thread for the vCPU, until it has said what the test waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest::report::{Event, Failure};

use super::super::super::{Exit, Interrupts, SoftVcpu};
use super::board::{Board, bar0};
use super::engine::Engine;

/// A board with engines, and a soft vCPU at the guest's entry.
pub struct Machine {
    /// All but the vCPU and the VFs.
    pub board: Board,
    /// By position.
    pub engines: Vec<Engine>,
    /// At rest between two runs.
    pub vcpu: SoftVcpu,
    /// On their way to the vCPU.
    pub interrupts: Interrupts,
}

impl Machine {
    /// Guest loaded, VFs reset.
    pub fn new(vfs: u32) -> Self {
        let board = Board::new(vfs);
        let entry = board.boot();
        let engines = (0..vfs)
            .map(|index| Engine::reset(&board.memory, bar0(index), index, 0))
            .collect();
        Self {
            board,
            engines,
            vcpu: SoftVcpu::new(entry, 0),
            interrupts: Interrupts::new(),
        }
    }

    /// Runs until `until` holds for all that the guest has said, the guest stops, or `limit` is over.
    #[track_caller]
    pub fn run(&mut self, limit: Duration, until: impl Fn(&[Event]) -> bool) -> Exit {
        let (stop, idle) = (AtomicBool::new(false), AtomicBool::new(false));
        let Self {
            board,
            engines,
            vcpu,
            interrupts,
        } = self;
        thread::scope(|scope| {
            let vcpu = scope.spawn(|| vcpu.run(board, interrupts, &stop));
            scope.spawn(|| {
                run_engines(board, engines, &idle, |vector| interrupts.inject(vector));
            });
            let begin = Instant::now();
            while !vcpu.is_finished() && begin.elapsed() < limit && !until(&board.events()) {
                thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Release);
            let exit = vcpu.join();
            idle.store(true, Ordering::Release);
            exit.expect("the vCPU does not panic")
        })
    }

    /// Runs until every VF has verified `jobs` jobs; panics when that does not come.
    #[track_caller]
    pub fn run_to(&mut self, jobs: u32) {
        let vfs = self.board.vfs();
        let exit = self.run(Duration::from_secs(60), |events| {
            (0..vfs).all(|vf| last_count(events, vf) >= jobs)
        });
        let events = self.board.events();
        let last = events.last();
        assert_eq!(exit, Exit::Stopped, "last words: {last:?}");
        assert!(
            (0..vfs).all(|vf| last_count(&events, vf) >= jobs),
            "no progress; last words: {last:?}"
        );
    }

    /// Runs until the guest has halted for good, and answers what it found.
    #[track_caller]
    pub fn run_to_failure(&mut self) -> Failure {
        let exit = self.run(Duration::from_secs(60), |_| false);
        let events = self.board.events();
        assert_eq!(exit, Exit::HaltedForever, "last words: {:?}", events.last());
        match events.last() {
            Some(Event::Failed(failure)) => failure.clone(),
            other => panic!("no failure but {other:?}"),
        }
    }
}

/// Jobs of a VF, as told last.
pub fn last_count(events: &[Event], of: u32) -> u32 {
    let count = |event: &Event| match *event {
        Event::Jobs { vf, jobs } if vf == of => Some(jobs),
        _ => None,
    };
    events.iter().rev().find_map(count).unwrap_or(0)
}

/// Lets the engines work in turn until `idle` is set.
pub fn run_engines(board: &Board, engines: &mut [Engine], idle: &AtomicBool, inject: impl Fn(u8)) {
    while !idle.load(Ordering::Acquire) {
        let mut worked = false;
        for (index, engine) in (0u32..).zip(&mut *engines) {
            worked |= engine.step(&board.memory, || {
                if let Some((_, data)) = board.message(index) {
                    inject(data as u8);
                }
            });
        }
        if !worked {
            thread::sleep(Duration::from_micros(20));
        }
    }
}
