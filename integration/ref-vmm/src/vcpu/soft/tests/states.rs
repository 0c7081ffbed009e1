// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stopped vCPU is plain data, goes on from it, and is not made from nonsense.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest::layout::SLOTS;

use super::super::{Error, Exit, Interrupts, SoftVcpu, SoftVcpuState};
use super::model::board::Board;
use super::model::run::{Machine, last_count};

#[test]
fn a_guest_goes_on_from_its_state_wherever_it_was_stopped() {
    let mut machine = Machine::new(2);
    let mut moves = 0;
    while last_count(&machine.board.events(), 1) < 2 * SLOTS {
        let exit = machine.run(Duration::from_millis(3), |_| false);
        assert_eq!(exit, Exit::Stopped, "{:?}", machine.board.events().last());
        let state = machine.vcpu.state(&machine.interrupts);
        let text = serde_json::to_string(&state).expect("plain data");
        let state: SoftVcpuState = serde_json::from_str(&text).expect("what was written");
        machine.vcpu = SoftVcpu::restore(&state).expect("a state of a vCPU");
        machine.interrupts = Interrupts::new();
        moves += 1;
        assert!(moves < 20_000, "no progress");
    }
    println!("{moves} moves");
}

#[test]
fn a_vector_that_arrives_after_the_stop_is_part_of_the_state() {
    let mut machine = Machine::new(1);
    machine.run_to(256);
    machine.interrupts.inject(0x47);
    let state = machine.vcpu.state(&machine.interrupts);
    assert_ne!(state.lapic.injected[2] & 1 << 7, 0);
    let restored = SoftVcpu::restore(&state).expect("a state of a vCPU");
    assert_ne!(
        restored.state(&Interrupts::new()).lapic.requested[2] & 1 << 7,
        0
    );
}

#[test]
fn stop_is_answered_in_time_while_halted() {
    let mut machine = Machine::new(1);
    machine.engines.clear();
    machine.run(Duration::from_millis(200), |_| false);
    assert!(machine.vcpu.state(&machine.interrupts).halted);
    let mut times: Vec<Duration> = (0..20).map(|_| time_to_stop(&mut machine)).collect();
    times.sort();
    // The median, since the machine running the tests may be busy.
    assert!(times[10] < Duration::from_millis(1), "{times:?}");
}

fn time_to_stop(machine: &mut Machine) -> Duration {
    let stop = AtomicBool::new(false);
    let Machine {
        board,
        vcpu,
        interrupts,
        ..
    } = machine;
    thread::scope(|scope| {
        let vcpu = scope.spawn(|| {
            vcpu.run(board, interrupts, &stop);
            Instant::now()
        });
        thread::sleep(Duration::from_millis(5));
        let asked = Instant::now();
        stop.store(true, Ordering::Release);
        let stopped = vcpu.join().expect("the vCPU does not panic");
        stopped.saturating_duration_since(asked)
    })
}

#[test]
fn states_that_no_vcpu_has_are_refused() {
    let board = Board::new(0);
    let good = SoftVcpu::new(board.boot(), 0).state(&Interrupts::new());
    let refused = |change: fn(&mut SoftVcpuState)| {
        let mut state = good.clone();
        change(&mut state);
        SoftVcpu::restore(&state).err()
    };
    assert_eq!(refused(|_| {}), None);
    assert_eq!(refused(|state| state.eflags = 0), Some(Error::Flags(0)));
    assert_eq!(
        refused(|state| state.eflags |= 0x100),
        Some(Error::Flags(0x102))
    );
    assert_eq!(
        refused(|state| state.lapic.spurious = 0x200),
        Some(Error::Spurious(0x200))
    );
    assert_eq!(
        refused(|state| state.lapic.requested[0] = 0x80),
        Some(Error::Vector("requested"))
    );
    assert_eq!(
        refused(|state| state.lapic.in_service[0] = 1),
        Some(Error::Vector("in service"))
    );
    assert_eq!(
        refused(|state| state.lapic.injected[0] = 1),
        Some(Error::Vector("injected"))
    );
    assert_eq!(
        refused(|state| (state.halted, state.interrupt_shadow) = (true, true)),
        Some(Error::HaltedInShadow)
    );
}
