// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What irqfd is to KVM: a thread that waits on the devices' eventfds and injects their vectors.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::accel::{Error, MsiMessage};
use crate::vcpu::soft::Interrupts;

/// Token of the eventfd that ends the thread; GSIs are smaller.
const QUIT: u64 = u64::MAX;

/// The thread and what it waits for.
pub struct MsiThread {
    shared: Arc<Shared>,
    quit: EventFd,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: Epoll,
    routes: Mutex<BTreeMap<u64, Route>>,
    interrupts: Arc<Interrupts>,
}

struct Route {
    event: EventFd,
    vector: u8,
}

impl MsiThread {
    /// Starts it, with nothing connected.
    pub fn new(interrupts: Arc<Interrupts>) -> Result<Self, Error> {
        let failed = |what| move |e| Error::Io(what, e);
        let epoll = Epoll::new().map_err(failed("epoll_create"))?;
        let quit = EventFd::new(EFD_NONBLOCK).map_err(failed("eventfd"))?;
        let shared = Arc::new(Shared {
            epoll,
            routes: Mutex::default(),
            interrupts,
        });
        shared.watch(&quit, QUIT).map_err(failed("epoll_ctl"))?;
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("msi".into())
            .spawn(move || of_thread.deliver_until_quit())
            .map_err(failed("Starting the MSI thread"))?;
        Ok(Self {
            shared,
            quit,
            thread: Some(thread),
        })
    }

    /// Signals on `event` become the message's vector.
    pub fn connect(&self, gsi: u32, event: &EventFd, message: MsiMessage) -> Result<(), Error> {
        let [vector, ..] = message.data.to_le_bytes();
        let mut routes = self.shared.lock();
        if let Some(route) = routes.get_mut(&gsi.into()) {
            route.vector = vector;
            return Ok(());
        }
        let event = event
            .try_clone()
            .map_err(|e| Error::Io("dup of an eventfd", e))?;
        self.shared
            .watch(&event, gsi.into())
            .map_err(|e| Error::Io("epoll_ctl", e))?;
        routes.insert(gsi.into(), Route { event, vector });
        Ok(())
    }

    /// Signals stay in the eventfd from now on.
    pub fn disconnect(&self, gsi: u32) -> Result<(), Error> {
        if let Some(route) = self.shared.lock().remove(&gsi.into()) {
            self.shared
                .epoll
                .ctl(
                    ControlOperation::Delete,
                    route.event.as_raw_fd(),
                    EpollEvent::default(),
                )
                .map_err(|e| Error::Io("epoll_ctl", e))?;
        }
        Ok(())
    }

    /// Injects what has been signalled so far, without waiting for the thread.
    pub fn deliver_now(&self) {
        for route in self.shared.lock().values() {
            self.shared.deliver(route);
        }
    }
}

impl Drop for MsiThread {
    fn drop(&mut self) {
        if self.quit.write(1).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn watch(&self, event: &EventFd, token: u64) -> io::Result<()> {
        let interest = EpollEvent::new(EventSet::IN, token);
        self.epoll
            .ctl(ControlOperation::Add, event.as_raw_fd(), interest)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, route: &Route) {
        // EAGAIN: somebody else has delivered it.
        if route.event.read().is_ok() {
            self.interrupts.inject(route.vector);
        }
    }

    fn deliver_until_quit(&self) {
        let mut events = [EpollEvent::default(); 16];
        loop {
            let Ok(count) = self.epoll.wait(-1, &mut events) else {
                continue;
            };
            let routes = self.lock();
            for event in &events[..count] {
                if event.data() == QUIT {
                    return;
                }
                if let Some(route) = routes.get(&event.data()) {
                    self.deliver(route);
                }
            }
        }
    }
}
