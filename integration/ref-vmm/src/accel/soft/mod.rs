// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The accelerator without hardware: an interpreter in a thread, with the same promises as KVM.
//!
//! `memory` is its memory slots and dirty log, `msi` its irqfds.

mod memory;
mod msi;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use vfio_ioctls::VfioDeviceFd;
use vm_migration::protocol::MemoryRangeTable;
use vmm_sys_util::eventfd::EventFd;

use self::memory::SoftMemory;
use self::msi::MsiThread;
use super::runner::{Exit, Runner, Vcpu};
use super::{Accelerator, Error, Kind, MsiMessage, Slot, SlotId, State};
use crate::boot::Entry;
use crate::bus::Bus;
use crate::vcpu::soft::{self as interpreter, Interrupts, SoftVcpu, SoftVcpuState};

/// The state of this accelerator: that of its vCPU, local APIC included.
pub type SoftState = SoftVcpuState;

/// A software virtual machine.
pub struct Soft {
    runner: Runner<Interpreter>,
    memory: Arc<SoftMemory>,
    interrupts: Arc<Interrupts>,
    msi: Mutex<MsiThread>,
}

struct Interpreter {
    cpu: SoftVcpu,
    machine: Machine,
    interrupts: Arc<Interrupts>,
    stop: Arc<AtomicBool>,
}

/// What the interpreter sees around it.
struct Machine {
    memory: Arc<SoftMemory>,
    bus: Arc<Bus>,
}

impl interpreter::Bus for Machine {
    fn read_memory(&self, gpa: u32, buf: &mut [u8]) -> bool {
        self.memory.read(gpa.into(), buf)
    }

    fn write_memory(&self, gpa: u32, buf: &[u8]) -> bool {
        self.memory.write(gpa.into(), buf)
    }

    fn mmio_read(&self, gpa: u32, buf: &mut [u8]) {
        self.bus.read_mmio(gpa.into(), buf);
    }

    fn mmio_write(&self, gpa: u32, buf: &[u8]) {
        self.bus.write_mmio(gpa.into(), buf);
    }

    fn pio_in(&self, port: u16, buf: &mut [u8]) {
        self.bus.read_port(port, buf);
    }

    fn pio_out(&self, port: u16, buf: &[u8]) {
        self.bus.write_port(port, buf);
    }
}

impl Vcpu for Interpreter {
    type Kick = Arc<AtomicBool>;

    fn enter_thread(&mut self) {}

    fn run(&mut self) -> Exit {
        let exit = self.cpu.run(&self.machine, &self.interrupts, &self.stop);
        self.stop.store(false, Ordering::Release);
        match exit {
            interpreter::Exit::Stopped => Exit::Kicked,
            interpreter::Exit::HaltedForever => {
                Exit::Ended("HLT with interrupts off, nothing can wake it".into())
            }
            interpreter::Exit::Fault { eip, reason } => {
                Exit::Ended(format!("at {eip:#010x}: {reason}"))
            }
        }
    }

    fn kick(kick: &Self::Kick, _thread: &JoinHandle<()>) {
        kick.store(true, Ordering::Release);
    }
}

impl Soft {
    /// Creates it, without memory.
    ///
    /// # Errors
    /// When a thread or an epoll descriptor cannot be had.
    pub fn new(bus: Arc<Bus>) -> Result<Self, Error> {
        let memory = Arc::new(SoftMemory::default());
        let interrupts = Arc::new(Interrupts::new());
        let stop = Arc::new(AtomicBool::new(false));
        let vcpu = Interpreter {
            cpu: SoftVcpu::new(0, 0),
            machine: Machine {
                memory: memory.clone(),
                bus,
            },
            interrupts: interrupts.clone(),
            stop: stop.clone(),
        };
        let msi = Mutex::new(MsiThread::new(interrupts.clone())?);
        Ok(Self {
            runner: Runner::new(vcpu, stop)?,
            memory,
            interrupts,
            msi,
        })
    }
}

impl Accelerator for Soft {
    fn kind(&self) -> Kind {
        Kind::Soft
    }

    fn vfio_device(&self) -> Option<Arc<VfioDeviceFd>> {
        None
    }

    fn map(&self, slot: Slot, dirty_tracked: bool) -> Result<SlotId, Error> {
        Ok(self.memory.map(slot, dirty_tracked))
    }

    fn unmap(&self, slot: SlotId) -> Result<(), Error> {
        self.memory.unmap(slot);
        Ok(())
    }

    fn connect_msi(&self, gsi: u32, event: &EventFd, message: MsiMessage) -> Result<(), Error> {
        self.msi
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .connect(gsi, event, message)
    }

    fn disconnect_msi(&self, gsi: u32, _event: &EventFd) -> Result<(), Error> {
        self.msi
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .disconnect(gsi)
    }

    fn boot(&self, entry: Entry) -> Result<(), Error> {
        self.runner.parked().cpu = SoftVcpu::new(entry.eip, entry.ebx);
        Ok(())
    }

    fn run(&self) {
        self.runner.run();
    }

    fn pause(&self) -> Result<(), Error> {
        self.runner.park()
    }

    fn ended(&self) -> Option<String> {
        self.runner.ended()
    }

    fn save(&self) -> Result<State, Error> {
        // What a device has signalled before it stopped is on its way until the thread has looked.
        self.msi
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .deliver_now();
        Ok(State::Soft(Box::new(
            self.runner.parked().cpu.state(&self.interrupts),
        )))
    }

    fn restore(&self, state: &State) -> Result<(), Error> {
        let State::Soft(state) = state else {
            return Err(Error::State(format!(
                "it is of {}, this is soft",
                state.kind()
            )));
        };
        self.runner.parked().cpu =
            SoftVcpu::restore(state).map_err(|e| Error::State(e.to_string()))?;
        Ok(())
    }

    fn start_dirty_log(&self) -> Result<(), Error> {
        self.memory.start_log();
        Ok(())
    }

    fn dirty_log(&self) -> Result<MemoryRangeTable, Error> {
        Ok(self.memory.take_log())
    }

    fn stop_dirty_log(&self) -> Result<(), Error> {
        self.memory.stop_log();
        Ok(())
    }
}
