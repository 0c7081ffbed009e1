// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's interfaces, and the only `unsafe` of the crate.
//!
//! - [`KernelVf`] performs the migration ioctls on a VFIO device fd that its owner keeps open.
//! - [`DataFd`] is the migration data fd.
//! - [`DirtyPageTable`] is an iommufd page table with dirty bits; [`KernelVf`] has the ioctls of a device that logs its DMA too.
//! - [`SignalMask`], [`ThreadInterrupt`] and [`InterruptSignal`] keep signals off a thread that reads or writes a data fd, and
//!   let exactly one through when it has to be interrupted.
//! - [`send_with_fd`] and [`receive_with_fd`] pass a descriptor to another process.
//! - [`set_send_buffer`] lets a socket hold more.
//! - [`ReservedFd`] holds an fd number free.
//! - [`set_direct`] has a file go past the page cache, [`is_cached`] says whether it is in it.
//!
//! Every function here is safe to call; errors are [`UapiError`], which names the call, the errno and the states around it.
//! Facts: include/uapi/linux/vfio.h, drivers/vfio/vfio_main.c, drivers/vfio/pci/xe/main.c.

mod cores;
mod data_fd;
mod dma_logging;
mod errno;
mod error;
mod feature;
mod file;
mod handle;
mod iommufd;
mod pass_fd;
mod poll;
mod reserve;
mod signal;
mod socket;

pub use cores::usable_cores;
pub use data_fd::DataFd;
pub use errno::Errno;
pub use error::UapiError;
pub use feature::MigrationFlags;
pub use file::{is_cached, set_direct};
pub use handle::{KernelVf, VfioHandle};
pub use iommufd::{DirtyPageTable, alloc_ioas, attach, bind, can_track};
pub use pass_fd::{receive_with_fd, send_with_fd};
pub use poll::{is_readable, wait_readable};
pub use reserve::ReservedFd;
pub use signal::{InterruptSignal, SignalMask, ThreadInterrupt};
pub use socket::set_send_buffer;
