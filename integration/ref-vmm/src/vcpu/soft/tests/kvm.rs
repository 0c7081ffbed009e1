// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same image on the same model in KVM, where there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest::abi::{BAR0_SIZE, MSIX_TABLE};
use guest::layout::{MEMORY_END, SLOTS};
use kvm_bindings::{kvm_msi, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{Killable, register_signal_handler};

use super::super::Bus;
use super::model::board::{Board, bar0};
use super::model::engine::Engine;
use super::model::run::{last_count, run_engines};

const JOBS: u32 = SLOTS + 512;
const LIMIT: Duration = Duration::from_secs(60);

/// A VM with the board's memory, or why there is none.
fn vm(kvm: &Kvm, board: &Board) -> Result<VmFd, errno::Error> {
    let vm = kvm.create_vm()?;
    vm.set_tss_address(0xfffb_d000)?;
    vm.create_irq_chip()?;
    let trapped = MSIX_TABLE + 0x1000;
    let mut slots = vec![(0, MEMORY_END)];
    for index in 0..board.vfs() {
        slots.push((bar0(index), MSIX_TABLE));
        slots.push((bar0(index) + trapped, BAR0_SIZE - trapped));
    }
    for (slot, (gpa, size)) in (0u32..).zip(slots) {
        let host = board
            .memory
            .get_host_address(GuestAddress(gpa.into()))
            .expect("memory of the board");
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: gpa.into(),
            memory_size: size.into(),
            userspace_addr: host as u64,
        };
        #[allow(unsafe_code)] // KVM takes an address.
        // SAFETY: the range is inside one mapping of the board, which outlives the VM.
        unsafe {
            vm.set_user_memory_region(region)?;
        }
    }
    Ok(vm)
}

/// A vCPU at the PVH entry: flat 32-bit protected mode.
fn vcpu_at(vm: &VmFd, entry: u32) -> Result<VcpuFd, errno::Error> {
    let vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    let flat = |kind| kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = flat(11);
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = flat(3);
    }
    sregs.cr0 = 0x11;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: entry.into(),
        rflags: 2,
        ..Default::default()
    })?;
    Ok(vcpu)
}

/// Runs until `stop` is set and a signal arrives; a panic tells of an exit that should not be.
fn run(mut vcpu: VcpuFd, board: &Board, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        match vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => board.pio_in(port, data),
            Ok(VcpuExit::IoOut(port, data)) => board.pio_out(port, data),
            Ok(VcpuExit::MmioRead(gpa, data)) => board.mmio_read(gpa as u32, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => board.mmio_write(gpa as u32, data),
            Err(error) if error.errno() == libc::EINTR => {}
            exit => panic!("KVM: {exit:?}, the guest said {:?}", board.events().last()),
        }
    }
}

extern "C" fn interrupt_the_run(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

#[test]
fn the_same_image_works_its_vf_in_kvm() {
    let board = Arc::new(Board::new(1));
    let entry = board.boot();
    let ready = Kvm::new().and_then(|kvm| {
        let vm = vm(&kvm, &board)?;
        let vcpu = vcpu_at(&vm, entry)?;
        Ok((vm, vcpu))
    });
    let (vm, vcpu) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            println!("skipped: the_same_image_works_its_vf_in_kvm: KVM cannot be used: {error}");
            return;
        }
    };
    register_signal_handler(libc::SIGRTMIN(), interrupt_the_run).expect("a real-time signal");

    let stop = Arc::new(AtomicBool::new(false));
    let runner = {
        let (board, stop) = (Arc::clone(&board), Arc::clone(&stop));
        thread::spawn(move || run(vcpu, &board, &stop))
    };
    let begin = Instant::now();
    let mut engines = [Engine::reset(&board.memory, bar0(0), 0, 0)];
    thread::scope(|scope| {
        scope.spawn(|| {
            run_engines(&board, &mut engines, &stop, |vector| {
                let message = kvm_msi {
                    address_lo: 0xfee0_0000,
                    data: vector.into(),
                    ..Default::default()
                };
                vm.signal_msi(message).expect("KVM takes the message");
            });
        });
        while last_count(&board.events(), 0) < JOBS
            && begin.elapsed() < LIMIT
            && !runner.is_finished()
        {
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Release);
    });
    let time = begin.elapsed().as_secs_f64();
    // A signal between the look at `stop` and KVM_RUN is lost: again until it has ended.
    while !runner.is_finished() {
        runner
            .kill(libc::SIGRTMIN())
            .expect("a thread not yet joined");
        thread::sleep(Duration::from_millis(1));
    }
    runner.join().expect("no exit that should not be");
    let events = board.events();
    let jobs = last_count(&events, 0);
    assert!(jobs >= JOBS, "no progress; last words: {:?}", events.last());
    println!("KVM: {:.0} jobs/s", f64::from(jobs) / time);
}
