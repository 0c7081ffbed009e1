// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts of a VF: the eventfds that this process gave to VFIO_DEVICE_SET_IRQS.
//!
//! As drivers/vfio/pci/vfio_pci_intrs.c. Descriptors are duplicated, since the kernel keeps a reference of its own.

use std::ffi::c_int;

use super::{sys, user};
use crate::vf::Errno;

/// VFIO_PCI_INTX_IRQ_INDEX to VFIO_PCI_REQ_IRQ_INDEX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    Intx,
    Msi,
    Msix,
    Err,
    Req,
}

impl Index {
    pub fn from_raw(raw: u32) -> Option<Self> {
        [Self::Intx, Self::Msi, Self::Msix, Self::Err, Self::Req]
            .get(raw as usize)
            .copied()
    }

    /// Interrupts of this kind that the VF has.
    pub fn count(self) -> u32 {
        match self {
            Self::Intx | Self::Msi => 0,
            Self::Msix => u32::from(guest::abi::MSIX_VECTORS),
            Self::Err | Self::Req => 1,
        }
    }
}

/// An eventfd that was handed over; closed when dropped.
#[derive(Debug)]
struct Trigger(c_int);

impl Trigger {
    /// `None` for -1.
    fn take(fd: i32) -> Result<Option<Self>, Errno> {
        if fd < 0 {
            return Ok(None);
        }
        let stat = sys::fstat(fd)?;
        // An anonymous inode has no type; everything else is surely no eventfd.
        if stat.st_mode & libc::S_IFMT != 0 {
            return Err(Errno::EINVAL);
        }
        sys::duplicate_high(fd).map(|fd| Some(Self(fd)))
    }

    fn signal(&self) {
        sys::write_eventfd(self.0);
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        sys::close(self.0);
    }
}

/// What to do, from the `flags` of SET_IRQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    None,
    Bool,
    EventFd,
}

/// The interrupts of one VF in this process.
#[derive(Debug, Default)]
pub struct Irqs {
    /// `Some` when MSI-X is enabled.
    msix: Option<Vec<Option<Trigger>>>,
    err: Option<Trigger>,
    req: Option<Trigger>,
}

impl Irqs {
    pub const fn new() -> Self {
        Self {
            msix: None,
            err: None,
            req: None,
        }
    }

    /// Signals MSI-X vector `vector`, when somebody listens.
    pub fn signal(&self, vector: u16) {
        if let Some(Some(trigger)) = self.msix.as_ref().and_then(|v| v.get(usize::from(vector))) {
            trigger.signal();
        }
    }

    /// VFIO_DEVICE_SET_IRQS, with `struct vfio_irq_set` at `arg`.
    pub fn set(&mut self, arg: usize) -> Result<(), Errno> {
        const HEADER: u32 = 20;
        let word = |i: usize| user::get::<u32>(arg + 4 * i);
        let (argsz, flags, index, start, count) =
            (word(0)?, word(1)?, word(2)?, word(3)?, word(4)?);
        let index = Index::from_raw(index).ok_or(Errno::EINVAL)?;
        let end = start.checked_add(count).ok_or(Errno::EINVAL)?;
        if argsz < HEADER || flags & !0x3f != 0 || start >= index.count() || end > index.count() {
            return Err(Errno::EINVAL);
        }
        let (data, size) = match flags & 7 {
            1 => (Data::None, 0),
            2 => (Data::Bool, 1),
            4 => (Data::EventFd, 4),
            _ => return Err(Errno::EINVAL),
        };
        if argsz - HEADER < count * size {
            return Err(Errno::EINVAL);
        }
        // MASK and UNMASK exist for INTx only, which a VF has not.
        if flags & 0x38 != 0x20 {
            return Err(Errno::ENOTTY);
        }
        let payload = arg + HEADER as usize;
        match index {
            Index::Intx | Index::Msi => Err(Errno::EINVAL),
            Index::Msix => self.set_msix(data, start as usize, count as usize, payload),
            Index::Err => Self::set_single(&mut self.err, data, count, payload),
            Index::Req => Self::set_single(&mut self.req, data, count, payload),
        }
    }

    fn set_msix(
        &mut self,
        data: Data,
        start: usize,
        count: usize,
        payload: usize,
    ) -> Result<(), Errno> {
        if data == Data::None && count == 0 && self.msix.is_some() {
            self.msix = None;
            return Ok(());
        }
        if data == Data::EventFd {
            let mut new = Vec::with_capacity(count);
            for i in 0..count {
                new.push(Trigger::take(user::get(payload + 4 * i)?)?);
            }
            let vectors = match &mut self.msix {
                // Enabled with as many vectors as were asked for; more needs a disable first.
                Some(vectors) if start + count > vectors.len() => return Err(Errno::EINVAL),
                Some(vectors) => vectors,
                None => self.msix.insert((0..start + count).map(|_| None).collect()),
            };
            for (slot, trigger) in vectors[start..].iter_mut().zip(new) {
                *slot = trigger;
            }
            return Ok(());
        }
        let vectors = self.msix.as_ref().ok_or(Errno::EINVAL)?;
        if start + count > vectors.len() {
            return Err(Errno::EINVAL);
        }
        for i in 0..count {
            let fire = data == Data::None || user::get::<u8>(payload + i)? != 0;
            if let (true, Some(trigger)) = (fire, &vectors[start + i]) {
                trigger.signal();
            }
        }
        Ok(())
    }

    fn set_single(
        slot: &mut Option<Trigger>,
        data: Data,
        count: u32,
        payload: usize,
    ) -> Result<(), Errno> {
        match data {
            Data::None if count == 0 => *slot = None,
            Data::EventFd if count == 0 => return Err(Errno::EINVAL),
            Data::EventFd => *slot = Trigger::take(user::get(payload)?)?,
            Data::Bool if count == 0 => return Err(Errno::EINVAL),
            Data::None | Data::Bool => {
                let fire = data == Data::None || user::get::<u8>(payload)? != 0;
                if let (true, Some(trigger)) = (fire, &*slot) {
                    trigger.signal();
                }
            }
        }
        Ok(())
    }
}
