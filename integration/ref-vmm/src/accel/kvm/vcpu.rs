// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The KVM vCPU: runs the guest, answers its exits, and is kicked out by a signal.
//!
//! A signal alone would be lost if it came just before KVM_RUN. So its handler sets `immediate_exit`, which lives in
//! the page that KVM shares with the thread: KVM looks at it as it enters the guest.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::thread::JoinHandle;

use kvm_ioctls::{VcpuExit, VcpuFd};
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, register_signal_handler};

use super::super::runner::{Exit, Vcpu};
use super::{Error, kvm};
use crate::bus::Bus;

/// Which of the real-time signals kicks the vCPU.
const KICK_SIGNAL: c_int = 0;

thread_local! {
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: set by `enter_thread` to a byte of this thread's kvm_run page, which outlives the thread's loop.
        unsafe { flag.write_volatile(1) };
    }
}

/// Makes the kick signal harmless to everything but KVM_RUN.
pub fn install_kick_handler() -> Result<(), Error> {
    register_signal_handler(libc::SIGRTMIN() + KICK_SIGNAL, on_kick).map_err(kvm("sigaction"))
}

/// One vCPU.
pub struct KvmVcpu {
    fd: VcpuFd,
    bus: Arc<Bus>,
    msrs: Vec<u32>,
}

impl KvmVcpu {
    /// `msrs` are the indices that KVM can save.
    pub fn new(fd: VcpuFd, bus: Arc<Bus>, msrs: Vec<u32>) -> Self {
        Self { fd, bus, msrs }
    }

    /// The vCPU's descriptor.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Indices of the MSRs that make up its state.
    pub fn msrs(&self) -> &[u32] {
        &self.msrs
    }

    /// Finishes the instruction whose access left the guest, and runs no further one.
    pub fn complete_access(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        // Answers EINTR by its nature.
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
    }
}

impl Vcpu for KvmVcpu {
    type Kick = ();

    fn enter_thread(&mut self) {
        IMMEDIATE_EXIT.set(&raw mut self.fd.get_kvm_run().immediate_exit);
    }

    fn run(&mut self) -> Exit {
        loop {
            match self.fd.run() {
                Ok(VcpuExit::IoIn(port, data)) => self.bus.read_port(port, data),
                Ok(VcpuExit::IoOut(port, data)) => self.bus.write_port(port, data),
                Ok(VcpuExit::MmioRead(address, data)) => self.bus.read_mmio(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => self.bus.write_mmio(address, data),
                // Only without interrupt controllers in the kernel; nothing would ever wake it.
                Ok(VcpuExit::Hlt) => return Exit::Ended("HLT outside KVM".into()),
                Ok(VcpuExit::Shutdown) => return Exit::Ended("triple fault".into()),
                Ok(VcpuExit::Intr) => return self.kicked(),
                Ok(VcpuExit::IrqWindowOpen) => {}
                Ok(exit) => return Exit::Ended(format!("KVM exit {exit:?}")),
                Err(e) if e.errno() == libc::EINTR => return self.kicked(),
                Err(e) if e.errno() == libc::EAGAIN => {}
                Err(e) => return Exit::Ended(format!("KVM_RUN: {e}")),
            }
        }
    }

    fn kick((): &Self::Kick, thread: &JoinHandle<()>) {
        // A thread that has ended cannot be signalled and need not be.
        let _ = thread.kill(libc::SIGRTMIN() + KICK_SIGNAL);
    }
}

impl KvmVcpu {
    fn kicked(&mut self) -> Exit {
        self.fd.set_kvm_immediate_exit(0);
        Exit::Kicked
    }
}
